// SPDX-License-Identifier: Apache-2.0
// Charbonnier loss of a training step and its gradient, each in one pass over memory.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>
#include <vector>

namespace rvrt {

constexpr int64_t kChunk =
    4096;  // elements per task; sums are per chunk, so that they do not depend on the number of threads

struct LossJob {
  int64_t count;
  const float *x, *y;
  float epsilon2, factor;
  double* sums;
  float* dx;
};

}  // namespace rvrt

#define RVRT_KERNEL "charbonnier.cc"
#include "each_isa.h"

// loss = mean of sqrt((x - y)² + epsilon²) (Charbonnier et al. 1994).
// Inputs: x, y of one shape; scalars float32 [epsilon²]. No attributes. Output: loss (1) or ().
RVRT_ENTRY(charbonnier_forward) {
  using namespace rvrt;
  if (int status = t.check(3, 0, 1)) return status;
  RVRT_CHECK(t.same_shape(0, 1) && t.size(2) == 1 && t.size(3) == 1 && t.size(0) > 0, kShape);
  LossJob job{t.size(0), t.f(0), t.f(1), t.f(2)[0], 0, nullptr, nullptr};
  std::vector<double> sums(ceil_div(job.count, kChunk));
  job.sums = sums.data();
  parallel_shared(static_cast<int64_t>(sums.size()), RVRT_DISPATCH(loss_chunks), &job);
  double total = 0;
  for (double s : sums) total += s;
  t.f(3)[0] = static_cast<float>(total / static_cast<double>(job.count));
  return kOk;
}

// Inputs: x, y, scalars as there; dloss (1) or (). No attributes. Output: dx like x (dy is -dx).
RVRT_ENTRY(charbonnier_backward) {
  using namespace rvrt;
  if (int status = t.check(4, 0, 1)) return status;
  RVRT_CHECK(t.same_shape(0, 1) && t.same_shape(0, 4) && t.size(2) == 1 && t.size(3) == 1 && t.size(0) > 0, kShape);
  LossJob job{t.size(0), t.f(0), t.f(1), t.f(2)[0], 0, nullptr, t.f(4)};
  job.factor = static_cast<float>(t.f(3)[0] / static_cast<double>(job.count));
  return parallel_shared(ceil_div(job.count, kChunk), RVRT_DISPATCH(loss_gradient_chunks), &job);
}

#else

#include "simd.h"

RVRT_INLINE vf square_root(vf v) {
  float s[W];
  store(s, v);
  for (int i = 0; i < W; ++i) s[i] = __builtin_sqrtf(s[i]);
  return load(s);
}

inline void loss_chunks(const void* pointer, Span span) {
  const LossJob& job = *static_cast<const LossJob*>(pointer);
  for (int64_t chunk = span.begin; chunk < span.end; ++chunk) {
    const int64_t begin = chunk * kChunk, end = begin + kChunk < job.count ? begin + kChunk : job.count;
    double lanes[W] = {};
    int64_t i = begin;
    for (; i + W <= end; i += W) {
      const vf d = load(job.x + i) - load(job.y + i);
      float s[W];
      store(s, square_root(d * d + job.epsilon2));
      for (int lane = 0; lane < W; ++lane) lanes[lane] += s[lane];
    }
    double total = 0;
    for (; i < end; ++i) {
      const float d = job.x[i] - job.y[i];
      total += __builtin_sqrtf(d * d + job.epsilon2);
    }
    for (int lane = 0; lane < W; ++lane) total += lanes[lane];
    job.sums[chunk] = total;
  }
}

inline void loss_gradient_chunks(const void* pointer, Span span) {
  const LossJob& job = *static_cast<const LossJob*>(pointer);
  int64_t i = span.begin * kChunk;
  const int64_t end = span.end * kChunk < job.count ? span.end * kChunk : job.count;
  for (; i + W <= end; i += W) {
    const vf d = load(job.x + i) - load(job.y + i);
    store(job.dx + i, d / square_root(d * d + job.epsilon2) * job.factor);
  }
  for (; i < end; ++i) {
    const float d = job.x[i] - job.y[i];
    job.dx[i] = d / __builtin_sqrtf(d * d + job.epsilon2) * job.factor;
  }
}
#endif
