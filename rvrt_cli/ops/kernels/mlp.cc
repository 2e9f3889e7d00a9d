// SPDX-License-Identifier: Apache-2.0
// The transformer's feed-forward part, y = x + W2 gelu(W1 layer_norm(x) + b1) + b2, forward and gradients; and the same
// after a projection, without LayerNorm. Blocks of rows stay in the cache from x to y; the backward kernel recomputes the
// hidden features.
#ifndef RVRT_ISA

#include "row_blocks.h"

namespace rvrt {

// C channels, H hidden. Packed matrices of the backward pass by what they multiply: rows of C into H (back_out) and of H
// into C (back_in).
struct MlpJob {
  Blocks blocks;
  int64_t channels, hidden;
  const float *x, *gamma, *beta;  // gamma null: `project` in place of LayerNorm
  PackedDense project, in, out;
  float* y;
  const float *dy, *packed_back_out, *packed_back_in, *zeros;
  float* dx;
  float *scratch, *sums;  // sums per thread: dw1 as (C, padded H), dw2 (C, padded H), db1, db2, dgamma, dbeta
  int64_t scratch_floats, sums_floats;
};

}  // namespace rvrt

#define RVRT_KERNEL "mlp.cc"
#include "each_isa.h"
#include "packed_weights.h"

namespace rvrt {
namespace {

// x (..., C), gamma and beta (C), w1 (H, C), b1 (H), w2 (C, H) at parameters 0, 1, 2, 3, 4 and `w2`.
int mlp_sizes(const Tensors& t, int w2, MlpJob* job) {
  RVRT_CHECK(t.ndims[0] >= 1 && t.ndims[3] == 2, kShape);
  job->hidden = t.dim(3, 0);
  job->channels = t.dim(3, 1);
  RVRT_CHECK(job->hidden > 0 && job->channels > 0 && t.dim(0, t.ndims[0] - 1) == job->channels, kShape);
  RVRT_CHECK(t.size(1) == job->channels && t.size(2) == job->channels && t.size(4) == job->hidden, kShape);
  RVRT_CHECK(t.has_shape(w2, {job->channels, job->hidden}), kShape);
  job->blocks = row_blocks(t.size(0) / job->channels);
  job->x = t.f(0);
  job->gamma = t.f(1);
  job->beta = t.f(2);
  return kOk;
}

// With w1, b1, w2, b2 and y at parameters 3 to 7.
int forward(const Tensors& t, MlpJob job) {
  const int64_t c = padded_floats(job.channels), h = padded_floats(job.hidden);
  job.scratch_floats = round_up(job.blocks.block * (c + h + RVRT_DISPATCH(kPanelFloats) + 2), 16);
  const Scratch scratch(parallel_width(job.blocks.count()) * job.scratch_floats);
  const DenseWeights in(t.f(3), t.f(4), job.channels, job.hidden, operands());
  const DenseWeights out(t.f(5), t.f(6), job.hidden, job.channels, operands());
  RVRT_CHECK(scratch.ok() && in.ok() && out.ok(), kMemory);
  job.in = in.view();
  job.out = out.view();
  job.y = t.f(7);
  job.scratch = scratch.data();
  return parallel_shared(job.blocks.count(), RVRT_DISPATCH(mlp_forward_blocks), &job);
}

}  // namespace
}  // namespace rvrt

// Inputs: x (..., C); gamma (C); beta (C); w1 (H, C); b1 (H); w2 (C, H); b2 (C). No attributes.
// Output: y (..., C).
RVRT_ENTRY(mlp_forward) {
  using namespace rvrt;
  if (int status = t.check(7, 0, 1)) return status;
  MlpJob job{};
  if (int status = mlp_sizes(t, 5, &job)) return status;
  RVRT_CHECK(t.size(6) == job.channels && t.same_shape(7, 0), kShape);
  return forward(t, job);
}

// y = z + W2 gelu(W1 z + b1) + b2 with z = P x + p.
// Inputs: x (..., Ci); P (C, Ci); p (C); w1 (H, C); b1 (H); w2 (C, H); b2 (C). No attributes.
// Output: y (..., C).
RVRT_ENTRY(project_mlp_forward) {
  using namespace rvrt;
  if (int status = t.check(7, 0, 1)) return status;
  RVRT_CHECK(t.ndims[0] >= 1 && t.ndims[1] == 2 && t.ndims[3] == 2, kShape);
  MlpJob job{};
  job.channels = t.dim(1, 0), job.hidden = t.dim(3, 0);
  const int64_t inputs = t.dim(1, 1);
  RVRT_CHECK(inputs > 0 && job.channels > 0 && job.hidden > 0 && t.dim(0, t.ndims[0] - 1) == inputs, kShape);
  RVRT_CHECK(t.size(2) == job.channels && t.has_shape(3, {job.hidden, job.channels}), kShape);
  RVRT_CHECK(t.size(4) == job.hidden && t.has_shape(5, {job.channels, job.hidden}), kShape);
  job.blocks = row_blocks(t.size(0) / inputs);
  RVRT_CHECK(t.size(6) == job.channels && t.size(7) == job.blocks.rows * job.channels, kShape);
  job.x = t.f(0);
  const DenseWeights project(t.f(1), t.f(2), inputs, job.channels, operands());
  job.project = project.view();
  RVRT_CHECK(project.ok(), kMemory);
  return forward(t, job);
}

// Gradients of mlp_forward.
// Inputs: x, gamma, beta, w1, b1, w2 as there; dy (..., C). No attributes.
// Outputs: dx (..., C), dgamma (C), dbeta (C), dw1 (H, C), db1 (H), dw2 (C, H), db2 (C).
RVRT_ENTRY(mlp_backward) {
  using namespace rvrt;
  if (int status = t.check(7, 0, 7)) return status;
  MlpJob job{};
  if (int status = mlp_sizes(t, 5, &job)) return status;
  RVRT_CHECK(t.same_shape(6, 0) && t.same_shape(7, 0), kShape);
  for (int i : {8, 9, 13}) RVRT_CHECK(t.size(i) == job.channels, kShape);
  RVRT_CHECK(t.same_shape(10, 3) && t.size(11) == job.hidden && t.same_shape(12, 5), kShape);
  const int64_t c = padded_floats(job.channels), h = padded_floats(job.hidden), weights = job.channels * h;
  const int n = parallel_width(job.blocks.count());
  job.scratch_floats = round_up(job.blocks.block * (2 * c + 3 * h + RVRT_DISPATCH(kPanelFloats) + 2), 16);
  job.sums_floats = round_up(2 * weights + h + 3 * c, 16);
  const Scratch scratch(n * job.scratch_floats), sums(n * job.sums_floats, true);
  const DenseWeights in(t.f(3), t.f(4), job.channels, job.hidden, kFloat32);
  const Scratch back_out(weights), back_in(job.hidden * c), zeros(std::max(c, h), true);
  RVRT_CHECK(scratch.ok() && sums.ok() && in.ok() && back_out.ok() && back_in.ok() && zeros.ok(), kMemory);
  pack(t.f(5), job.hidden, 1, job.channels, job.hidden, back_out);
  pack(t.f(3), job.channels, 1, job.hidden, job.channels, back_in);
  job.in = in.view();
  job.packed_back_out = back_out.data();
  job.packed_back_in = back_in.data();
  job.zeros = zeros.data();
  job.dy = t.f(6);
  job.dx = t.f(7);
  job.scratch = scratch.data();
  job.sums = sums.data();
  parallel(job.blocks.count(), RVRT_DISPATCH(mlp_backward_blocks), &job);
  const ReduceJob dw1{sums.data(), job.sums_floats, h, n, job.hidden, t.f(10), 1, job.channels};
  const ReduceJob dw2{sums.data() + weights, job.sums_floats, h, n, job.hidden, t.f(12), job.hidden, 1};
  reduce(dw1, job.channels);
  reduce(dw2, job.channels);
  const float* rest = sums.data() + 2 * weights;
  const ReduceJob vectors[] = {{rest, job.sums_floats, 0, n, job.hidden, t.f(11), 0, 1},
                               {rest + h, job.sums_floats, 0, n, job.channels, t.f(13), 0, 1},
                               {rest + h + c, job.sums_floats, 0, n, job.channels, t.f(8), 0, 1},
                               {rest + h + 2 * c, job.sums_floats, 0, n, job.channels, t.f(9), 0, 1}};
  for (const ReduceJob& job_of_vector : vectors) reduce(job_of_vector, 1);
  return kOk;
}

#else

#include "simd.h"
#include "gemm.h"
#include "row_math.h"

inline void mlp_forward_blocks(const void* pointer, Span span) {
  const MlpJob& job = *static_cast<const MlpJob*>(pointer);
  const int64_t channels = job.channels, c = padded(channels), h = padded(job.hidden), block = job.blocks.block;
  float* normal = job.scratch + span.thread * job.scratch_floats;
  float* hidden = normal + block * c;
  float* sums = hidden + block * h;
  RowStatistics* statistics = reinterpret_cast<RowStatistics*>(sums + block * kPanelFloats);
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int64_t first = job.blocks.begin(i) * channels, rows = job.blocks.size(i);
    const float* residual = normal;
    int64_t ldr = c;
    if (job.gamma) {
      row_statistics(rows, channels, job.x + first, statistics);
      normalize(rows, channels, job.x + first, statistics, job.gamma, job.beta, normal, c);
      residual = job.x + first, ldr = channels;
    } else {
      const int64_t inputs = job.project.inputs;
      dense_rows(rows, job.project, job.x + job.blocks.begin(i) * inputs, inputs, sums, {kNone, nullptr, 0, normal, c});
    }
    dense_rows(rows, job.in, normal, c, sums, {kGelu, nullptr, 0, hidden, h});
    dense_rows(rows, job.out, hidden, h, sums, {kNone, residual, ldr, job.y + first, channels});
  }
}

// hidden = gelu(z), z = gelu'(z), over whole padded rows.
inline void gelu_and_slope(int64_t count, float* z, float* hidden) {
  for (int64_t i = 0; i < count; i += W) {
    const vf v = load(z + i), phi = normal_cdf(v);
    store(hidden + i, v * phi);
    store(z + i, phi + v * 0.3989422804014327f * exp2(v * v * (-0.5f * kLog2e)));
  }
}

inline void mlp_backward_blocks(const void* pointer, Span span) {
  const MlpJob& job = *static_cast<const MlpJob*>(pointer);
  const int64_t channels = job.channels, c = padded(channels), h = padded(job.hidden), block = job.blocks.block;
  float* normal = job.scratch + span.thread * job.scratch_floats;
  float* dnormal = normal + block * c;
  float* hidden = dnormal + block * c;
  float* slope = hidden + block * h;
  float* dhidden = slope + block * h;
  float* sums = dhidden + block * h;
  RowStatistics* statistics = reinterpret_cast<RowStatistics*>(sums + block * kPanelFloats);
  float* dw1 = job.sums + span.thread * job.sums_floats;
  float* dw2 = dw1 + channels * h;
  float* db1 = dw2 + channels * h;
  float* db2 = db1 + h;
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int64_t first = job.blocks.begin(i) * channels, rows = job.blocks.size(i);
    const float* x = job.x + first;
    const float* dy = job.dy + first;
    row_statistics(rows, channels, x, statistics);
    normalize(rows, channels, x, statistics, job.gamma, job.beta, normal, c);
    dense_rows(rows, job.in, normal, c, sums, {kNone, nullptr, 0, slope, h});
    gelu_and_slope(rows * h, slope, hidden);
    product_rows(rows, job.hidden, channels, dy, channels, job.packed_back_out, job.zeros, sums,
                 {kNone, nullptr, 0, dhidden, h});
    for (int64_t j = 0; j < rows * h; j += W) store(dhidden + j, load(dhidden + j) * load(slope + j));
    product_rows(rows, channels, job.hidden, dhidden, h, job.packed_back_in, job.zeros, sums,
                 {kNone, nullptr, 0, dnormal, c});
    normalize_gradient(rows, channels, x, statistics, job.gamma, dnormal, c, dy, job.dx + first, db2 + c, db2 + 2 * c);
    add_outer(channels, job.hidden, rows, normal, c, dhidden, h, dw1);
    add_outer(channels, job.hidden, rows, dy, channels, hidden, h, dw2);
    add_columns(rows, job.hidden, dhidden, h, db1);
    add_columns(rows, channels, dy, channels, db2);
  }
}
#endif
