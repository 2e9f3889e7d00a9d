// SPDX-License-Identifier: Apache-2.0
// 7x7 convolution by Winograd's algorithm (winograd7x7.cc) with bfloat16 operands, in inference on processors with AVX512-BF16
// but no AMX. As in half_winograd.cc, transforms and sums are float32; V and U are rounded as they are stored.
#ifndef RVRT_ISA

#include "bfloat16.h"
#include "wide_grid.h"

#define RVRT_KERNEL "half_winograd7x7.cc"
#define RVRT_HALF_KERNEL
#include "each_isa.h"

namespace rvrt {

int half_winograd_7x7_convolve(const WinogradCall& call) {
  WideJob job(call, RVRT_HALF_DISPATCH(W), sizeof(uint16_t));
  return run_wide(job, RVRT_HALF_DISPATCH(transform_wide_pairs), job.depth / 2, job.weights() / 2,
                  RVRT_HALF_DISPATCH(half_bands));
}

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "half_gemm.h"
#include "winograd_math.h"
#include "wide_tiles.h"

// The weights of pairs [begin, end) of input channels.
inline void transform_wide_pairs(const void* pointer, Span span) {
  const WideWeightsJob& job = *static_cast<const WideWeightsJob*>(pointer);
  const int64_t all = vectors(job.outputs), pairs = job.depth / 2, matrix = 2 * pairs * all * W;
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    for (int64_t pair = span.begin; pair < span.end; ++pair)
      for (int j = 0; j < width; ++j) {
        float first[kParts][kPatchPlaces * W];
        transform_wide_filters(job, 2 * pair, (v + j) * W, [&](int part, const float* places) {
          std::memcpy(first[part], places, sizeof(first[part]));
        });
        transform_wide_filters(job, 2 * pair + 1, (v + j) * W, [&](int part, const float* second) {
          const int64_t row = part % 2 * pairs + pair;
          uint32_t* to =
              static_cast<uint32_t*>(job.packed) + part / 2 * matrix + v * W * 2 * pairs + (row * width + j) * W;
          for (int place = 0; place < kPatchPlaces; ++place)
            store_pairs(to + place * 2 * matrix, load(first[part] + place * W), load(second + place * W));
        });
      }
    v += width;
  }
}

// The products of a block of `rows` x `columns` tiles, whose rows lie `columns` + 1 patches apart: the last tile of each but
// the last is none, and its products are not read.
inline void multiply_block(const WideJob& job, int64_t rows, int64_t columns, const uint16_t* v, float* m) {
  const int64_t all = vectors(job.call->outputs), ldm = job.outputs, pairs = job.depth, matrix = pairs * ldm;
  const int64_t line = columns + 1, tiles = rows * line - 1;
  const float zeros[kPanelFloats] = {};
  for (int64_t place = 0; place < kPatchPlaces; ++place)
    for (int64_t first = 0; first < all;) {
      const int width = panel_vectors(all - first);
      const uint16_t* a = v + place * job.place_v;
      const uint32_t* b = static_cast<const uint32_t*>(job.packed) + 2 * place * matrix + first * W * pairs;
      float* c = m + place * job.place_m + first * W;
      // A tile's left and right patch lie side by side.
      pair_product({tiles, width, pairs, a, job.depth, b, zeros, 0, c, ldm});
      pair_product({tiles, width, pairs, a + line * job.depth, job.depth, b + matrix, c, ldm, c, ldm});
      first += width;
    }
}

inline void half_bands(const void* pointer, Span span) { wide_bands<uint16_t, multiply_block>(pointer, span); }

#endif
