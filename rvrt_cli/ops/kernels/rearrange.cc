// SPDX-License-Identifier: Apache-2.0
// Pixel shuffle, time reversal, and the bilinearly upsampled input that the network's output is added to.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>

namespace rvrt {

struct ShuffleJob {
  int64_t height, width, channels, factor;  // of the small image; channels of the large one
  const float *small, *large, *gradient;
  float* out;
  float slope;
};

struct BilinearJob {
  int64_t height, width, factor, channels;  // of the small image
  const float *small, *add;
  float *out, *scratch;
  int64_t scratch_floats() const { return round_up((width + 3) * channels + factor, 16); }
};

struct ReverseJob {
  int64_t frames, rows, line;  // rows of a frame, each of `line` numbers
  const float* x;
  float* out;
};

}  // namespace rvrt

#define RVRT_KERNEL "rearrange.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

// Small image (B, H, W, C * f²) at parameter `small`, large one (B, H * f, W * f, C) at `large`,
// attributes [f, activation].
int shuffle_job(const Tensors& t, int attributes, int small, int large, ShuffleJob* job) {
  RVRT_CHECK(t.ndims[small] == 4 && t.ndims[large] == 4, kShape);
  const int64_t factor = t.ints(attributes)[0];
  const int activation = t.ints(attributes)[1];
  RVRT_CHECK(factor >= 1 && factor <= 64 && activation >= 0 && activation <= 3, kAttribute);
  job->height = t.dim(small, 1);
  job->width = t.dim(small, 2);
  job->factor = factor;
  job->channels = t.dim(large, 3);
  RVRT_CHECK(t.dim(small, 3) == job->channels * factor * factor, kShape);
  RVRT_CHECK(t.has_shape(large, {t.dim(small, 0), job->height * factor, job->width * factor, job->channels}), kShape);
  const float slopes[] = {1.0f, 0.1f, 0.2f, 0.0f};
  job->slope = slopes[activation];
  return kOk;
}

}  // namespace
}  // namespace rvrt

// y[b, h * f + i, w * f + j, c] = activation(x[b, h, w, c * f² + i * f + j]).
// Inputs: x (B, H, W, C * f²); attributes int32 [f, activation], activation as in conv2d_forward.
// Output: y (B, H * f, W * f, C).
RVRT_ENTRY(pixel_shuffle_forward) {
  using namespace rvrt;
  if (int status = t.check(1, 2, 1)) return status;
  ShuffleJob job{};
  if (int status = shuffle_job(t, 1, 0, 2, &job)) return status;
  job.small = t.f(0);
  job.out = t.f(2);
  return parallel_shared(t.dim(0, 0) * job.height, RVRT_DISPATCH(shuffle_rows), &job);
}

// Inputs: y (B, H * f, W * f, C), the output of pixel_shuffle_forward; dy like y; attributes as there.
// Output: dx (B, H, W, C * f²).
RVRT_ENTRY(pixel_shuffle_backward) {
  using namespace rvrt;
  if (int status = t.check(2, 2, 1)) return status;
  ShuffleJob job{};
  if (int status = shuffle_job(t, 2, 3, 0, &job)) return status;
  RVRT_CHECK(t.same_shape(0, 1), kShape);
  job.large = t.f(0);
  job.gradient = t.f(1);
  job.out = t.f(3);
  return parallel_shared(t.dim(3, 0) * job.height, RVRT_DISPATCH(unshuffle_rows), &job);
}

// out = add + small upsampled bilinearly, half-pixel centers, edge pixels repeated outside. The gradient with respect to
// `add` is that of `out`.
// Inputs: small (B, h, w, C); add (B, f * h, f * w, C), any whole f >= 1. No attributes. Output: out like add.
RVRT_ENTRY(add_upsampled_forward) {
  using namespace rvrt;
  if (int status = t.check(2, 0, 1)) return status;
  RVRT_CHECK(t.ndims[0] == 4 && t.same_shape(1, 2), kShape);
  BilinearJob job{t.dim(0, 1), t.dim(0, 2), 1, t.dim(0, 3), t.f(0), t.f(1), t.f(2), nullptr};
  if (t.size(0) == 0) return t.size(1) == 0 ? kOk : kShape;
  job.factor = t.ndims[1] == 4 ? t.dim(1, 1) / job.height : 0;
  RVRT_CHECK(job.factor >= 1, kShape);
  RVRT_CHECK(t.has_shape(1, {t.dim(0, 0), job.height * job.factor, job.width * job.factor, job.channels}), kShape);
  const int64_t rows = t.dim(0, 0) * job.height * job.factor;
  const Scratch scratch(parallel_width(rows) * job.scratch_floats(), true);
  RVRT_CHECK(scratch.ok(), kMemory);
  job.scratch = scratch.data();
  return parallel_shared(rows, RVRT_DISPATCH(bilinear_rows), &job);
}

// out = x (N, T, H, ...) with its frames in reverse order; its own gradient. No attributes.
RVRT_ENTRY(reverse_time_forward) {
  using namespace rvrt;
  if (int status = t.check(1, 0, 1)) return status;
  RVRT_CHECK(t.ndims[0] >= 3 && t.same_shape(0, 1), kShape);
  if (t.size(0) == 0) return kOk;
  const int64_t rows = t.dim(0, 0) * t.dim(0, 1) * t.dim(0, 2);
  const ReverseJob job{t.dim(0, 1), t.dim(0, 2), t.size(0) / rows, t.f(0), t.f(1)};
  return parallel_shared(rows, RVRT_DISPATCH(reverse_rows), &job);
}

#else

#include "simd.h"

// The 4x4 pixels of RGB of one small pixel. Vectors of four floats store RGB and one float that the next pixel
// overwrites: not for the last pixel of a row.
RVRT_INLINE void shuffle_colors(const float* from, float slope, float* to, int64_t line) {
  for (int i = 0; i < 4; ++i) {
    v4 q[4] = {load4(from + 4 * i), load4(from + 16 + 4 * i), load4(from + 32 + 4 * i), v4{}};
    for (int c = 0; c < 3; ++c) q[c] = q[c] > 0.0f ? q[c] : q[c] * slope;
    transpose4(q[0], q[1], q[2], q[3]);
    for (int j = 0; j < 4; ++j) store4(to + i * line + 3 * j, q[j]);
  }
}

inline void shuffle_rows(const void* pointer, Span span) {
  const ShuffleJob& job = *static_cast<const ShuffleJob*>(pointer);
  const int64_t f = job.factor, n = job.channels, parts = f * f, line = job.width * f * n;
  for (int64_t row = span.begin; row < span.end; ++row)
    for (int64_t x = 0; x < job.width; ++x) {
      const float* from = job.small + (row * job.width + x) * n * parts;
      float* to = job.out + row * f * line + x * f * n;
      if (f == 4 && n == 3 && x + 1 < job.width) {
        shuffle_colors(from, job.slope, to, line);
        continue;
      }
      int64_t c = 0;
      for (; f == 2 && c + 4 <= n; c += 4) {
        v4 q[4] = {load4(from + 4 * c), load4(from + 4 * c + 4), load4(from + 4 * c + 8), load4(from + 4 * c + 12)};
        transpose4(q[0], q[1], q[2], q[3]);
        for (int k = 0; k < 4; ++k) {
          const v4 v = q[k] > 0.0f ? q[k] : q[k] * job.slope;
          store4(to + (k >> 1) * line + (k & 1) * n + c, v);
        }
      }
      for (; c < n; ++c)
        for (int64_t k = 0; k < parts; ++k) {
          const float v = from[c * parts + k];
          to[k / f * line + k % f * n + c] = v > 0.0f ? v : v * job.slope;
        }
    }
}

// The gradient of shuffle_colors: reads one float beyond the 4x4 pixels, as that writes one.
RVRT_INLINE void unshuffle_colors(const float* y, const float* dy, float slope, int64_t line, float* to) {
  for (int i = 0; i < 4; ++i) {
    v4 q[4];
    for (int j = 0; j < 4; ++j) {
      const int64_t at = i * line + 3 * j;
      q[j] = load4(dy + at);
      if (slope != 1.0f) q[j] = load4(y + at) > 0.0f ? q[j] : q[j] * slope;
    }
    transpose4(q[0], q[1], q[2], q[3]);
    for (int c = 0; c < 3; ++c) store4(to + 16 * c + 4 * i, q[c]);
  }
}

inline void unshuffle_rows(const void* pointer, Span span) {
  const ShuffleJob& job = *static_cast<const ShuffleJob*>(pointer);
  const int64_t f = job.factor, n = job.channels, parts = f * f, line = job.width * f * n;
  for (int64_t row = span.begin; row < span.end; ++row)
    for (int64_t x = 0; x < job.width; ++x) {
      const int64_t first = row * f * line + x * f * n;
      const float *y = job.large + first, *dy = job.gradient + first;
      float* to = job.out + (row * job.width + x) * n * parts;
      if (f == 4 && n == 3 && x + 1 < job.width) {
        unshuffle_colors(y, dy, job.slope, line, to);
        continue;
      }
      int64_t c = 0;
      for (; f == 2 && c + 4 <= n; c += 4) {
        v4 q[4];
        for (int k = 0; k < 4; ++k) {
          const int64_t at = (k >> 1) * line + (k & 1) * n + c;
          const v4 g = load4(dy + at);
          q[k] = load4(y + at) > 0.0f ? g : g * job.slope;
        }
        transpose4(q[0], q[1], q[2], q[3]);
        for (int k = 0; k < 4; ++k) store4(to + 4 * c + 4 * k, q[k]);
      }
      for (; c < n; ++c)
        for (int64_t k = 0; k < parts; ++k) {
          const int64_t at = k / f * line + k % f * n + c;
          to[c * parts + k] = y[at] > 0.0f ? dy[at] : dy[at] * job.slope;
        }
    }
}

inline void reverse_rows(const void* pointer, Span span) {
  const ReverseJob& job = *static_cast<const ReverseJob*>(pointer);
  for (int64_t row = span.begin; row < span.end; ++row) {
    const int64_t frame = row / job.rows, reversed = frame + job.frames - 1 - 2 * (frame % job.frames);
    const float* from = job.x + (reversed * job.rows + row % job.rows) * job.line;
    std::copy(from, from + job.line, job.out + row * job.line);
  }
}

// Where output position p lies between input pixels: `first`, `second` and the second one's weight.
struct Between {
  int64_t first, second;
  float weight;
};
RVRT_INLINE Between between(int64_t p, int64_t factor, int64_t size) {
  const float at = (static_cast<float>(2 * (p % factor) + 1) / static_cast<float>(2 * factor)) - 0.5f;
  const int64_t pixel = p / factor, first = at < 0.0f ? pixel - 1 : pixel;
  return {first < 0 ? 0 : first, first + 1 < size ? first + 1 : size - 1, at < 0.0f ? at + 1.0f : at};
}

// out = add + left + weight * (right - left), for one pixel.
RVRT_INLINE void blend(const float* left, int64_t channels, float weight, const float* add, float* out) {
  const float* right = left + channels;
  for (int64_t c = 0; c < channels; ++c) out[c] = add[c] + left[c] + weight * (right[c] - left[c]);
}

inline void bilinear_rows(const void* pointer, Span span) {
  const BilinearJob& job = *static_cast<const BilinearJob*>(pointer);
  const int64_t f = job.factor, n = job.channels, rows = job.height * f, line = job.width * n;
  float* weights = job.scratch + span.thread * job.scratch_floats();
  float* middle = weights + f + n;  // a row interpolated downwards, its ends repeated
  for (int64_t j = 0; j < f; ++j) weights[j] = between(j, f, job.width).weight;
  for (int64_t row = span.begin; row < span.end; ++row) {
    const Between y = between(row % rows, f, job.height);
    const float* image = job.small + row / rows * job.height * line;
    const float *above = image + y.first * line, *below = image + y.second * line;
    for (int64_t i = 0; i < line; ++i) middle[i] = above[i] + y.weight * (below[i] - above[i]);
    std::copy(middle, middle + n, middle - n);
    std::copy(middle + line - n, middle + line, middle + line);
    const float* add = job.add + row * line * f;
    float* out = job.out + row * line * f;
    for (int64_t x = 0; x < job.width; ++x)
      for (int64_t j = 0; j < f; ++j, add += n, out += n) {
        const float* left = middle + (2 * j + 1 < f ? x - 1 : x) * n;
        if (n == 3 && x + 1 < job.width) {  // stores a fourth float that the next pixel overwrites
          const v4 first = load4(left), second = load4(left + 3);
          store4(out, load4(add) + first + weights[j] * (second - first));
        } else {
          blend(left, n, weights[j], add, out);
        }
      }
  }
}
#endif
