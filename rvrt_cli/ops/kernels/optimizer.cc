// The training step's loss and parameter update, each one pass over memory.
#ifndef RVRT_ISA

#include "common.h"

#include <algorithm>
#include <vector>

namespace rvrt {

constexpr int64_t kChunk = 4096;  // elements of a task; sums are per chunk, so they do not depend on the threads

struct LossJob {
  int64_t count;
  const float *x, *y;
  float epsilon2, factor;
  double* sums;
  float* dx;
};

struct AdamJob {
  int64_t count;
  const float *parameter, *gradient, *m, *v, *ema;
  float rate, beta1, beta2, epsilon, decay, correction1, correction2, scale, ema_decay;
  float *new_parameter, *new_m, *new_v, *new_ema;
};

}  // namespace rvrt

#define RVRT_KERNEL "optimizer.cc"
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

// One step of Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019) and a moving average of
// the parameters, over one flat buffer:
//   g = scale * gradient;  m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g²;
//   p' = p - rate * (m' / correction1 / (sqrt(v' / correction2) + epsilon) + decay * p);  ema' = ema + (1 -
//   ema_decay)(p' - ema)
// with correction = 1 - beta^step.
// Inputs: parameter, gradient, m, v, ema (all of n elements); scalars float32 [rate, beta1, beta2, epsilon, decay,
//   correction1, correction2, scale, ema_decay]. No attributes.
// Outputs: parameter, m, v, ema; each may be the memory of its input.
RVRT_ENTRY(adam_step) {
  using namespace rvrt;
  if (int status = t.check(6, 0, 4)) return status;
  RVRT_CHECK(t.size(5) == 9, kShape);
  for (int i : {1, 2, 3, 4, 6, 7, 8, 9}) RVRT_CHECK(t.size(i) == t.size(0), kShape);
  const float* s = t.f(5);
  const AdamJob job{t.size(0), t.f(0), t.f(1), t.f(2), t.f(3), t.f(4), s[0],   s[1],   s[2],  s[3],
                    s[4],      s[5],   s[6],   s[7],   s[8],   t.f(6), t.f(7), t.f(8), t.f(9)};
  return parallel_shared(ceil_div(job.count, kChunk), RVRT_DISPATCH(adam_chunks), &job);
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

inline void adam_chunks(const void* pointer, Span span) {
  const AdamJob& a = *static_cast<const AdamJob*>(pointer);
  int64_t i = span.begin * kChunk;
  const int64_t end = span.end * kChunk < a.count ? span.end * kChunk : a.count;
  const float over1 = 1.0f / a.correction1, over2 = 1.0f / a.correction2;
  for (; i + W <= end; i += W) {
    const vf p = load(a.parameter + i), g = load(a.gradient + i) * a.scale, ema = load(a.ema + i);
    const vf m = load(a.m + i) * a.beta1 + g * (1.0f - a.beta1);
    const vf v = load(a.v + i) * a.beta2 + g * g * (1.0f - a.beta2);
    const vf next = p - (m * over1 / (square_root(v * over2) + a.epsilon) + p * a.decay) * a.rate;
    store(a.new_parameter + i, next);
    store(a.new_m + i, m);
    store(a.new_v + i, v);
    store(a.new_ema + i, ema + (next - ema) * (1.0f - a.ema_decay));
  }
  for (; i < end; ++i) {
    const float p = a.parameter[i], g = a.gradient[i] * a.scale, ema = a.ema[i];
    const float m = a.m[i] * a.beta1 + g * (1.0f - a.beta1);
    const float v = a.v[i] * a.beta2 + g * g * (1.0f - a.beta2);
    const float next = p - (m * over1 / (__builtin_sqrtf(v * over2) + a.epsilon) + p * a.decay) * a.rate;
    a.new_parameter[i] = next;
    a.new_m[i] = m;
    a.new_v[i] = v;
    a.new_ema[i] = ema + (next - ema) * (1.0f - a.ema_decay);
  }
}
#endif
