// SPDX-License-Identifier: Apache-2.0
// Frame fusion: kernel regression of the samples of a frame and its neighbors on the grid of the upscaled frame; see
// ops/frame_fusion.py.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>
#include <cmath>

namespace rvrt {
namespace {

constexpr int kScale = 4, kPlaces = kScale * kScale, kColors = 3;
constexpr float kSpread = 0.2f, kTrust = 0.1f;
constexpr float kFar = 1e6f;  // px; anything farther is equally far outside

struct FusionJob {
  const float *frame, *neighbors, *flows;
  float* out;
  int64_t B, K, H, W;
};

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "fuse_frames.cc"
#include "each_isa.h"

// frame (B, H, W, 3), neighbors (B, K, H, W, 3), flows (B, K, H, W, 2) px as (x, y) -> (B, H, W, 64): 3 x 16 places of
// the regression less the frame's pixel; then the neighbors' share of the weight at each place.
RVRT_ENTRY(fuse_frames_forward) {
  if (const int bad = t.check(3, 0, 1)) return bad;
  RVRT_CHECK(t.ndims[0] == 4 && t.ndims[1] == 5, rvrt::kShape);
  rvrt::FusionJob job{};
  job.B = t.dim(0, 0), job.K = t.dim(1, 1), job.H = t.dim(0, 1), job.W = t.dim(0, 2);
  RVRT_CHECK(t.has_shape(0, {job.B, job.H, job.W, rvrt::kColors}), rvrt::kShape);
  RVRT_CHECK(t.has_shape(1, {job.B, job.K, job.H, job.W, rvrt::kColors}), rvrt::kShape);
  RVRT_CHECK(t.has_shape(2, {job.B, job.K, job.H, job.W, 2}), rvrt::kShape);
  RVRT_CHECK(t.has_shape(3, {job.B, job.H, job.W, (rvrt::kColors + 1) * rvrt::kPlaces}), rvrt::kShape);
  job.frame = t.f(0), job.neighbors = t.f(1), job.flows = t.f(2), job.out = t.f(3);
  return rvrt::parallel_shared(job.B * job.H, RVRT_DISPATCH(fuse_rows), &job);
}

#else

#include "simd.h"

// The regression at the places of one pixel.
struct Sums {
  float color[kColors][kPlaces], weight[kPlaces];

  void add(const float* sample, const float* down, const float* across, float trust) {
    float w[kPlaces];
    for (int p = 0; p < kPlaces; ++p) w[p] = trust * down[p / kScale] * across[p % kScale];
    for (int p = 0; p < kPlaces; ++p) weight[p] += w[p];
    for (int c = 0; c < kColors; ++c)
      for (int p = 0; p < kPlaces; ++p) color[c][p] += w[p] * sample[c];
  }
};

RVRT_INLINE int64_t inside(int64_t at, int64_t length) { return std::min(std::max<int64_t>(at, 0), length - 1); }

// Exponents (base 2) of the weights of the four places of one axis for a sample at `offset` px.
RVRT_INLINE void place_exponents(float offset, float* exponents) {
  for (int i = 0; i < kScale; ++i) {
    const float d = ((static_cast<float>(i) + 0.5f) / kScale - 0.5f - offset) / kSpread;
    exponents[i] = -0.5f * kLog2e * d * d;
  }
}

RVRT_INLINE void exp2_all(const float* from, float* to, int count) {  // both as long as whole vectors
  for (int i = 0; i < count; i += W) store(to + i, exp2(load(from + i)));
}

void fuse_rows(const void* context, Span span) {
  const FusionJob& job = *static_cast<const FusionJob*>(context);
  constexpr int kEach = 2 * kScale + 1, kMost = 4 * kEach, kPadded = (kMost + 15) / 16 * 16;
  float own[3][16], exponents[kPadded] = {}, weights[kPadded];
  for (int d = 0; d < 3; ++d) {
    std::fill(own[d], own[d] + 16, 0.0f);
    place_exponents(static_cast<float>(d - 1), own[d]);
    exp2_all(own[d], own[d], 16);
  }
  const int64_t line = job.W * kColors, plane = job.H * line;
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t image = task / job.H, row = task % job.H;
    const float* frame = job.frame + image * plane;
    for (int64_t col = 0; col < job.W; ++col) {
      Sums sums = {};
      for (int y = 0; y < 3; ++y)
        for (int x = 0; x < 3; ++x)
          sums.add(frame + inside(row + y - 1, job.H) * line + inside(col + x - 1, job.W) * kColors, own[y], own[x], 1);
      float own_weight[kPlaces];
      std::copy(sums.weight, sums.weight + kPlaces, own_weight);
      for (int64_t k = 0; k < job.K; ++k) {
        const float* neighbor = job.neighbors + (image * job.K + k) * plane;
        const float* flow = job.flows + (((image * job.K + k) * job.H + row) * job.W + col) * 2;
        const float fx = flow[0] > -kFar ? std::min(flow[0], kFar) : -kFar;  // NaN, too, is far
        const float fy = flow[1] > -kFar ? std::min(flow[1], kFar) : -kFar;
        const float whole_x = std::floor(fx), whole_y = std::floor(fy);
        const float* samples[4];
        int count = 0;
        for (int corner = 0; corner < 4; ++corner) {
          const float step_x = whole_x + static_cast<float>(corner % 2),
                      step_y = whole_y + static_cast<float>(corner / 2);
          const int64_t at_x = col + static_cast<int64_t>(step_x), at_y = row + static_cast<int64_t>(step_y);
          if (at_x < 0 || at_x >= job.W || at_y < 0 || at_y >= job.H) continue;
          const float* sample = neighbor + at_y * line + at_x * kColors;
          const float x = step_x - fx, y = step_y - fy;  // its position relative to this pixel: within one pixel
          // the frame itself there, bilinearly, its border repeated
          const float px = std::min(std::max(static_cast<float>(col) + x, 0.0f), static_cast<float>(job.W - 1));
          const float py = std::min(std::max(static_cast<float>(row) + y, 0.0f), static_cast<float>(job.H - 1));
          const int64_t left = static_cast<int64_t>(px), top = static_cast<int64_t>(py);
          const int64_t right = inside(left + 1, job.W) * kColors, bottom = inside(top + 1, job.H) * line;
          const float u = px - static_cast<float>(left), v = py - static_cast<float>(top);
          float unlike = 0;
          for (int c = 0; c < kColors; ++c) {
            const float* color = frame + c;
            const float upper = (1 - u) * color[top * line + left * kColors] + u * color[top * line + right];
            const float lower = (1 - u) * color[bottom + left * kColors] + u * color[bottom + right];
            const float difference = sample[c] - ((1 - v) * upper + v * lower);
            unlike += difference * difference;
          }
          float* e = exponents + count * kEach;
          place_exponents(y, e);
          place_exponents(x, e + kScale);
          e[2 * kScale] = -0.5f * kLog2e * unlike / (kColors * kTrust * kTrust);
          samples[count++] = sample;
        }
        exp2_all(exponents, weights, count * kEach);
        for (int i = 0; i < count; ++i) {
          const float* w = weights + i * kEach;
          sums.add(samples[i], w, w + kScale, w[2 * kScale]);
        }
      }
      const float* pixel = frame + row * line + col * kColors;
      float* out = job.out + (task * job.W + col) * (kColors + 1) * kPlaces;
      for (int c = 0; c < kColors; ++c)
        for (int p = 0; p < kPlaces; ++p) out[c * kPlaces + p] = sums.color[c][p] / sums.weight[p] - pixel[c];
      for (int p = 0; p < kPlaces; ++p) out[kColors * kPlaces + p] = 1 - own_weight[p] / sums.weight[p];
    }
  }
}

#endif
