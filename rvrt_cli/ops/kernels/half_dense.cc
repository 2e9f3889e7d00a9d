// SPDX-License-Identifier: Apache-2.0
// Dense layers with bfloat16 operands, in inference on processors with AVX512-BF16 but no AMX.
#ifndef RVRT_ISA

#include "row_blocks.h"

namespace rvrt {

struct PairWeightsJob {
  const float* weight;  // (outputs, inputs)
  int64_t inputs, outputs;
  uint32_t* packed;
  int64_t pairs() const { return (inputs + 1) / 2; }
};

}  // namespace rvrt

#define RVRT_KERNEL "half_dense.cc"
#define RVRT_HALF_KERNEL
#include "each_isa.h"

namespace rvrt {

int64_t pair_weight_floats(int64_t inputs, int64_t outputs) {
  return (inputs + 1) / 2 * round_up(outputs, RVRT_HALF_DISPATCH(W));
}

void pack_pair_weights(const float* weight, int64_t inputs, int64_t outputs, uint16_t* packed) {
  const PairWeightsJob job{weight, inputs, outputs, reinterpret_cast<uint32_t*>(packed)};
  parallel(job.pairs(), RVRT_HALF_DISPATCH(pack_pairs), &job, workers_for(inputs * outputs));
}

void pair_dense_rows(const PairDenseCall& call) { RVRT_HALF_DISPATCH(multiply_rows)(call); }

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "half_gemm.h"

// Pairs [begin, end) of inputs, into panels.
inline void pack_pairs(const void* pointer, Span span) {
  const PairWeightsJob& job = *static_cast<const PairWeightsJob*>(pointer);
  const int64_t all = vectors(job.outputs);
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    for (int64_t pair = span.begin; pair < span.end; ++pair)
      for (int j = 0; j < width; ++j) {
        float rows[2][W] = {};
        for (int lane = 0; lane < W && (v + j) * W + lane < job.outputs; ++lane)
          for (int64_t k = 2 * pair; k < 2 * pair + 2 && k < job.inputs; ++k)
            rows[k % 2][lane] = job.weight[((v + j) * W + lane) * job.inputs + k];
        store_pairs(job.packed + (v * job.pairs() + pair * width + j) * W, load(rows[0]), load(rows[1]));
      }
    v += width;
  }
}

inline void multiply_rows(const PairDenseCall& call) {
  const PackedDense& layer = *call.layer;
  const int64_t rows = call.rows, ld = padded(layer.inputs), pairs = (layer.inputs + 1) / 2;
  float* scratch = half_scratch(rows * (ld / 2 + kPanelFloats));
  uint16_t* rounded = reinterpret_cast<uint16_t*>(scratch);
  float* sums = scratch + rows * ld / 2;
  round_rows(rows, layer.inputs, call.a, call.lda, rounded, ld);
  const uint32_t* packed = reinterpret_cast<const uint32_t*>(layer.half);
  const int64_t all = vectors(layer.outputs);
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    const int64_t first = v * W, columns = width * W, count = std::min(columns, layer.outputs - first);
    const float* residual = call.residual ? call.residual + first : nullptr;
    PairProduct product{rows, width, pairs, rounded, ld, packed + first * pairs, layer.bias + first, 0, sums, columns};
    if (call.activation == kNone && count == columns) {  // whole vectors need no pass of their own
      product.c = call.out + first, product.ldc = call.ldo;
      product.residual = residual, product.ldr = call.ldr;
      pair_product(product);
    } else {
      pair_product(product);
      finish(rows, count, sums, columns, {call.activation, residual, call.ldr, call.out + first, call.ldo});
    }
    v += width;
  }
}
#endif
