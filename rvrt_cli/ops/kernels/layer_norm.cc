// SPDX-License-Identifier: Apache-2.0
// LayerNorm over the last axis, epsilon 1e-5: forward and gradients.
#ifndef RVRT_ISA

#include "row_blocks.h"

namespace rvrt {

struct NormJob {
  Blocks blocks;
  int64_t channels;
  const float *x, *gamma, *beta, *dy;
  float *out, *sums;  // sums per thread: dgamma, dbeta
  int64_t sums_floats;
};

}  // namespace rvrt

#define RVRT_KERNEL "layer_norm.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

int norm_job(const Tensors& t, NormJob* job) {
  RVRT_CHECK(t.ndims[0] >= 1, kShape);
  job->channels = t.dim(0, t.ndims[0] - 1);
  RVRT_CHECK(job->channels > 0 && t.size(1) == job->channels, kShape);
  job->blocks = row_blocks(t.size(0) / job->channels);
  job->x = t.f(0);
  job->gamma = t.f(1);
  return kOk;
}

}  // namespace
}  // namespace rvrt

// Inputs: x (..., C); gamma (C); beta (C). No attributes. Output: y (..., C).
RVRT_ENTRY(layer_norm_forward) {
  using namespace rvrt;
  if (int status = t.check(3, 0, 1)) return status;
  NormJob job{};
  if (int status = norm_job(t, &job)) return status;
  RVRT_CHECK(t.size(2) == job.channels && t.same_shape(3, 0), kShape);
  job.beta = t.f(2);
  job.out = t.f(3);
  return parallel_shared(job.blocks.count(), RVRT_DISPATCH(norm_forward_blocks), &job);
}

// Inputs: x (..., C); gamma (C); dy (..., C). No attributes. Outputs: dx (..., C), dgamma (C), dbeta (C).
RVRT_ENTRY(layer_norm_backward) {
  using namespace rvrt;
  if (int status = t.check(3, 0, 3)) return status;
  NormJob job{};
  if (int status = norm_job(t, &job)) return status;
  RVRT_CHECK(t.same_shape(2, 0) && t.same_shape(3, 0) && t.size(4) == job.channels && t.size(5) == job.channels,
             kShape);
  const int n = parallel_width(job.blocks.count());
  job.sums_floats = round_up(2 * job.channels, 16);
  const Scratch sums(n * job.sums_floats, true);
  RVRT_CHECK(sums.ok(), kMemory);
  job.dy = t.f(2);
  job.out = t.f(3);
  job.sums = sums.data();
  parallel(job.blocks.count(), RVRT_DISPATCH(norm_backward_blocks), &job);
  const ReduceJob gammas{sums.data(), job.sums_floats, 0, n, job.channels, t.f(4), 0, 1};
  const ReduceJob betas{sums.data() + job.channels, job.sums_floats, 0, n, job.channels, t.f(5), 0, 1};
  reduce(gammas, 1);
  return reduce(betas, 1);
}

#else

#include "simd.h"
#include "gemm.h"
#include "row_math.h"

inline void norm_forward_blocks(const void* pointer, Span span) {
  const NormJob& job = *static_cast<const NormJob*>(pointer);
  RowStatistics statistics[kBlock];
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int64_t first = job.blocks.begin(i) * job.channels, rows = job.blocks.size(i);
    row_statistics(rows, job.channels, job.x + first, statistics);
    normalize(rows, job.channels, job.x + first, statistics, job.gamma, job.beta, job.out + first, job.channels);
  }
}

inline void norm_backward_blocks(const void* pointer, Span span) {
  const NormJob& job = *static_cast<const NormJob*>(pointer);
  RowStatistics statistics[kBlock];
  float* dgamma = job.sums + span.thread * job.sums_floats;
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int64_t first = job.blocks.begin(i) * job.channels, rows = job.blocks.size(i);
    row_statistics(rows, job.channels, job.x + first, statistics);
    normalize_gradient(rows, job.channels, job.x + first, statistics, job.gamma, job.dy + first, job.channels, nullptr,
                       job.out + first, dgamma, dgamma + job.channels);
  }
}
#endif
