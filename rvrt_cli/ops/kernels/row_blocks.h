// SPDX-License-Identifier: Apache-2.0
// Shared by dense layers, MLP and LayerNorm, independent of the instruction set: matrices to pack, per-thread sums to
// reduce, blocks of rows. The parts compiled per instruction set are in row_math.h.
#pragma once

#include "bfloat16.h"
#include "kernel.h"

#include <algorithm>

namespace rvrt {

// B[k, n] = source[k * stride_k + n * stride_n] for gemm.h; tasks are the rows k.
struct PackMatrixJob {
  const float* source;
  int64_t stride_k, stride_n, depth, columns;
  float* packed;
};

// A dense layer ready to be multiplied by: weightᵀ packed, in float32 or (`half` not null) in bfloat16, the bias padded.
struct PackedDense {
  int64_t inputs, outputs;
  const float *packed, *bias;
  const uint16_t* half;
};

// A dense layer where pairs of bfloat16 are multiplied (half_dense.cc): out = activation(a weightᵀ + bias) + residual (none
// if null), for rows of `a`.
struct PairDenseCall {
  int64_t rows;
  const PackedDense* layer;
  const float* a;
  int64_t lda;
  int activation;
  const float* residual;
  int64_t ldr;
  float* out;
  int64_t ldo;
};

int64_t pair_weight_floats(int64_t inputs, int64_t outputs);
void pack_pair_weights(const float* weight, int64_t inputs, int64_t outputs, uint16_t* packed);
void pair_dense_rows(const PairDenseCall& call);

// out[i * stride_i + j * stride_j] = the sum over threads, in order, of sums[thread * stride + i * ld + j];
// tasks are the rows i.
struct ReduceJob {
  const float* sums;
  int64_t stride, ld;
  int threads;
  int64_t columns;
  float* out;
  int64_t stride_i, stride_j;
};

inline void reduce_rows(const void* pointer, Span span) {
  const ReduceJob& job = *static_cast<const ReduceJob*>(pointer);
  for (int64_t i = span.begin; i < span.end; ++i)
    for (int64_t j = 0; j < job.columns; ++j) {
      float s = 0;
      for (int thread = 0; thread < job.threads; ++thread) s += job.sums[thread * job.stride + i * job.ld + j];
      job.out[i * job.stride_i + j * job.stride_j] = s;
    }
}

// One thread packs and reduces small matrices: waking the others takes longer.
inline int workers_for(int64_t floats) { return floats < 1 << 15 ? 1 : 0; }

inline int reduce(const ReduceJob& job, int64_t rows) {
  return parallel(rows, reduce_rows, &job, workers_for(rows * job.columns));
}

// Rows are processed in blocks whose features stay in the L2 cache: at most kBlock rows, blocks of nearly equal size,
// the same number of blocks for every thread.
constexpr int64_t kBlock = 96;

struct Blocks {
  int64_t rows, block;
  int64_t count() const { return ceil_div(rows, block); }
  int64_t begin(int64_t i) const { return i * block; }
  int64_t size(int64_t i) const { return std::min(block, rows - i * block); }
};

inline Blocks row_blocks(int64_t rows) {
  const int64_t count = round_up(ceil_div(std::max<int64_t>(rows, 1), kBlock), threads());
  return {rows, std::min(kBlock, round_up(ceil_div(std::max<int64_t>(rows, 1), count), 8))};
}

}  // namespace rvrt
