// SPDX-License-Identifier: Apache-2.0
// Lucas-Kanade optical flow and frame fusion; see ops/lucas_kanade_flow.py and ops/frame_fusion.py. Images between the
// kernels are float32.
#include "portable.h"

using namespace rvrt::cuda;

namespace {

constexpr float kDamping = 3e-5f;
constexpr int kReach = 8, kTile = 16;  // of the window that moves together; of the pixels of a block
constexpr float kSigma = 4.0f;
constexpr int kTriedDistance = 5;  // between a pixel and those whose flows it tries
constexpr int kCandidates = 5;     // the pixel's own flow, and those left, right, above and below
constexpr int kMatchReach = 2;     // of the window of a match
constexpr float kMatchSigma = 1.0f, kLargestError = 0.02f, kMatchingError = 3e-5f;
constexpr float kFlowSigma = 0.4f, kDetailSigma = 0.015f;

RVRT_DEVICE float bilinear(const float* image, int height, int width, float y, float x, int stride) {
  const Footprint down = footprint(y, height, true), across = footprint(x, width, true);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j)
      sum += down.weight[i] * across.weight[j] *
             image[(static_cast<Index>(down.index[i]) * width + across.index[j]) * stride];
  return sum;
}

// Limited to ±1e6 px, where a float still converts to an integer; NaN is as far outside as -1e6.
RVRT_DEVICE float limit_flow(float flow) { return flow > -1e6f ? (flow < 1e6f ? flow : 1e6f) : -1e6f; }

RVRT_DEVICE float square(float x) { return x * x; }

// How much of a pixel at (y, x) lies in the frame.
RVRT_DEVICE float share_inside(int height, int width, float y, float x) {
  const Footprint down = footprint(y, height, false), across = footprint(x, width, false);
  return (down.weight[0] + down.weight[1]) * (across.weight[0] + across.weight[1]);
}

// A thread's pixel, where a block has a tile of an image.
struct TilePixel {
  int top, left;  // of the tile
  int y, x;
  Index image;  // the image's first pixel
  bool inside;  // the image
};

RVRT_DEVICE TilePixel tile_pixel(int height, int width) {
  const int top = blockIdx.y * kTile, left = blockIdx.x * kTile;
  const int y = top + threadIdx.x / kTile, x = left + threadIdx.x % kTile;
  return {top, left, y, x, static_cast<Index>(blockIdx.z) * height * width, y < height && x < width};
}

// Sums over a Gaussian window around each pixel of a block's tile; the weights sum to 1. `numbers(y, x, values)` gives
// what is added up of a pixel, also of those around the tile. Every thread of the block takes part.
template <int kWindowReach, int kSums, class Numbers>
RVRT_DEVICE void window_sums(const TilePixel& pixel, float sigma, Numbers numbers, float (&sums)[kSums]) {
  constexpr int kTaps = 2 * kWindowReach + 1, kHalo = kTile + 2 * kWindowReach;
  __shared__ float around[kSums][kHalo][kHalo], down[kSums][kTile][kHalo];
  float taps[kTaps], total = 0;
#pragma unroll
  for (int i = 0; i < kTaps; ++i) {
    taps[i] = expf(-0.5f * square((i - kWindowReach) / sigma));
    total += taps[i];
  }
#pragma unroll
  for (int i = 0; i < kTaps; ++i) taps[i] /= total;
  for (int e = threadIdx.x; e < kHalo * kHalo; e += blockDim.x) {
    float values[kSums];
    numbers(pixel.top + e / kHalo - kWindowReach, pixel.left + e % kHalo - kWindowReach, values);
#pragma unroll
    for (int c = 0; c < kSums; ++c) around[c][e / kHalo][e % kHalo] = values[c];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < kTile * kHalo; e += blockDim.x)
    for (int c = 0; c < kSums; ++c) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kTaps; ++i) sum += taps[i] * around[c][e / kHalo + i][e % kHalo];
      down[c][e / kHalo][e % kHalo] = sum;
    }
  __syncthreads();
  for (int c = 0; c < kSums; ++c) {
    sums[c] = 0;
#pragma unroll
    for (int i = 0; i < kTaps; ++i) sums[c] += taps[i] * down[c][threadIdx.x / kTile][threadIdx.x % kTile + i];
  }
}

}  // namespace

// Luma, padded at the bottom and right by the last row and column.
template <class T>
RVRT_DEVICE void flow_luma(const PyramidArguments& a) {
  const Index plane = static_cast<Index>(a.height) * a.width, half = a.count / 2;
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const void* frames = i < half ? a.first : a.second;
    const Index image = i % half / plane;
    const int y = smaller(i % plane / a.width, a.frame_height - 1), x = smaller(i % a.width, a.frame_width - 1);
    const Index pixel = ((image * a.frame_height + y) * a.frame_width + x) * 3;
    a.out[i] =
        0.299f * load<T>(frames, pixel) + 0.587f * load<T>(frames, pixel + 1) + 0.114f * load<T>(frames, pixel + 2);
  }
}
RVRT_KERNELS(flow_luma, PyramidArguments)

template <class T>
RVRT_DEVICE void flow_halve(const FilterArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const int x = i % a.width;
    const Index row = i / a.width;  // of all images
    const float* from = a.x + (2 * row * 2 * a.width) + 2 * x;
    a.out[i] = 0.5f * (0.5f * (from[0] + from[2 * a.width]) + 0.5f * (from[1] + from[2 * a.width + 1]));
  }
}
RVRT_KERNELS(flow_halve, FilterArguments)

// Images smoothed by 1 2 1 along both axes, minus their local mean; the edge repeats. A block per 16 x 16 pixels.
template <class T>
RVRT_DEVICE void flow_detail(const FilterArguments& a) {
  const TilePixel p = tile_pixel(a.height, a.width);
  const float* image = a.x + p.image;
  const auto smooth = [&](int y, int x) {
    float sum = 0;
#pragma unroll
    for (int dy = -1; dy <= 1; ++dy) {
      const float* line = image + static_cast<Index>(clamp_index(y + dy, a.height)) * a.width;
      const float across =
          0.5f * line[x] + 0.25f * (line[clamp_index(x - 1, a.width)] + line[clamp_index(x + 1, a.width)]);
      sum += (dy ? 0.25f : 0.5f) * across;
    }
    return sum;
  };
  const auto repeated = [&](int y, int x, float (&value)[1]) {
    value[0] = smooth(clamp_index(y, a.height), clamp_index(x, a.width));
  };
  float mean[1];
  window_sums<kReach>(p, kSigma, repeated, mean);
  if (p.inside) a.out[p.image + static_cast<Index>(p.y) * a.width + p.x] = smooth(p.y, p.x) - mean[0];
}
RVRT_KERNELS(flow_detail, FilterArguments)

// The flow that a level starts from: zero, or that of the coarser level at twice its size.
template <class T>
RVRT_DEVICE void flow_start(const FlowArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const int x = i % a.width, y = i / a.width % a.height;
    const Index image = i / (static_cast<Index>(a.width) * a.height);
    for (int c = 0; c < 2; ++c) {
      float flow = 0;
      if (a.coarse) {
        const float* coarse = a.coarse + image * (a.height / 2) * (a.width / 2) * 2 + c;
        flow = 2 * bilinear(coarse, a.height / 2, a.width / 2, 0.5f * (y + 0.5f) - 0.5f, 0.5f * (x + 0.5f) - 0.5f, 2);
      }
      a.flow[2 * i + c] = flow;
    }
  }
}
RVRT_KERNELS(flow_start, FlowArguments)

// Products of slopes and of the change between the warped second image and the first.
template <class T>
RVRT_DEVICE void flow_products(const FlowArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const int x = i % a.width, y = i / a.width % a.height;
    const Index start = i - x - static_cast<Index>(y) * a.width;
    const float *first = a.first + start, *second = a.second + start, *flow = a.flow + 2 * start;
    const auto place = [&](int py, int px) { return static_cast<Index>(py) * a.width + px; };
    const auto warped = [&](int py, int px) {
      const float* f = flow + 2 * place(py, px);
      return bilinear(second, a.height, a.width, py + f[1], px + f[0], 1);
    };
    const int left = larger(x - 1, 0), right = smaller(x + 1, a.width - 1);
    const int up = larger(y - 1, 0), below = smaller(y + 1, a.height - 1);
    const float* f = flow + 2 * place(y, x);
    const float inside = share_inside(a.height, a.width, y + f[1], x + f[0]);
    const float slope_x =
        0.25f * (first[place(y, right)] - first[place(y, left)] + (warped(y, right) - warped(y, left)));
    const float slope_y = 0.25f * (first[place(below, x)] - first[place(up, x)] + (warped(below, x) - warped(up, x)));
    const float change = inside * (warped(y, x) - first[place(y, x)]);
    float* out = a.products + 5 * i;
    out[0] = inside * slope_x * slope_x, out[1] = inside * slope_x * slope_y, out[2] = inside * slope_y * slope_y;
    out[3] = slope_x * change, out[4] = slope_y * change;
  }
}
RVRT_KERNELS(flow_products, FlowArguments)

// Sums of the products over the window, and the step that they imply. A block per 16 x 16 pixels.
template <class T>
RVRT_DEVICE void flow_step(const FlowArguments& a) {
  const TilePixel p = tile_pixel(a.height, a.width);
  const auto products = [&](int y, int x, float (&values)[5]) {
    const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
#pragma unroll
    for (int c = 0; c < 5; ++c)
      values[c] = inside ? a.products[(p.image + static_cast<Index>(y) * a.width + x) * 5 + c] : 0.0f;
  };
  float sums[5];
  window_sums<kReach>(p, kSigma, products, sums);
  if (!p.inside) return;
  const float xx = sums[0] + kDamping, xy = sums[1], yy = sums[2] + kDamping, determinant = xx * yy - xy * xy;
  const float step[2] = {(yy * sums[3] - xy * sums[4]) / determinant, (xx * sums[4] - xy * sums[3]) / determinant};
  float* flow = a.flow + 2 * (p.image + static_cast<Index>(p.y) * a.width + p.x);
  for (int c = 0; c < 2; ++c) flow[c] -= step[c] > 1.0f ? 1.0f : step[c] < -1.0f ? -1.0f : step[c];
}
RVRT_KERNELS(flow_step, FlowArguments)

// Squared difference of the second image, where the flow leads, from the first at a pixel.
RVRT_DEVICE float match_error(const FlowArguments& a, const float* first, const float* second, int y, int x,
                              const float* flow) {
  const float inside = share_inside(a.height, a.width, y + flow[1], x + flow[0]);
  const float error = square(bilinear(second, a.height, a.width, y + flow[1], x + flow[0], 1) -
                             first[static_cast<Index>(y) * a.width + x]);
  return inside * (error < kLargestError ? error : kLargestError) + (1.0f - inside) * kLargestError;
}

// The mean of each pixel's flow and of four around it, weighted by how well they match. A block per 16 x 16 pixels.
template <class T>
RVRT_DEVICE void flow_try(const FlowArguments& a) {
  const TilePixel p = tile_pixel(a.height, a.width);
  const float *first = a.first + p.image, *second = a.second + p.image, *flow = a.flow + 2 * p.image;
  const auto tried = [&](int y, int x, int candidate) {  // the edge repeats
    const int aside = candidate == 1 ? -kTriedDistance : candidate == 2 ? kTriedDistance : 0;
    const int below = candidate == 3 ? -kTriedDistance : candidate == 4 ? kTriedDistance : 0;
    return flow +
           2 * (static_cast<Index>(clamp_index(y + below, a.height)) * a.width + clamp_index(x + aside, a.width));
  };
  const auto errors = [&](int y, int x, float (&values)[kCandidates]) {
    const bool counts = y >= 0 && y < a.height && x >= 0 && x < a.width;
    for (int candidate = 0; candidate < kCandidates; ++candidate) {
      values[candidate] = 0;
      if (!counts) continue;
      values[candidate] = match_error(a, first, second, y, x, tried(y, x, candidate));
    }
  };
  float sums[kCandidates], weight = 0, total[2] = {};
  window_sums<kMatchReach>(p, kMatchSigma, errors, sums);
  if (!p.inside) return;
  for (int candidate = 0; candidate < kCandidates; ++candidate) {
    const float share = 1.0f / square(sums[candidate] + kMatchingError);
    const float* f = tried(p.y, p.x, candidate);
    weight += share, total[0] += share * f[0], total[1] += share * f[1];
  }
  const Index pixel = p.image + static_cast<Index>(p.y) * a.width + p.x;
  for (int c = 0; c < 2; ++c) a.chosen[2 * pixel + c] = total[c] / weight;
}
RVRT_KERNELS(flow_try, FlowArguments)

// The flow, and how well it matches around each pixel, without the pixels beyond the frame. A block per 16 x 16 pixels.
template <class T>
RVRT_DEVICE void flow_match(const FlowArguments& a) {
  const TilePixel p = tile_pixel(a.height, a.width);
  const float *first = a.first + p.image, *second = a.second + p.image, *flow = a.flow + 2 * p.image;
  const auto place = [&](int y, int x) {
    return static_cast<Index>(clamp_index(y, a.height)) * a.width + clamp_index(x, a.width);
  };
  const auto errors = [&](int y, int x, float (&values)[2]) {
    values[0] = values[1] = 0;
    if (y < 0 || y >= a.height || x < 0 || x >= a.width) return;
    values[0] = match_error(a, first, second, y, x, flow + 2 * place(y, x));
    values[1] = square(0.5f * (first[place(y, x + 1)] - first[place(y, x - 1)])) +
                square(0.5f * (first[place(y + 1, x)] - first[place(y - 1, x)]));
  };
  float sums[2];
  window_sums<kMatchReach>(p, kMatchSigma, errors, sums);
  if (p.y >= a.out_height || p.x >= a.out_width) return;
  const Index cropped = (static_cast<Index>(blockIdx.z) * a.out_height + p.y) * a.out_width + p.x;
  for (int c = 0; c < 2; ++c) store<T>(a.out, 2 * cropped + c, flow[2 * place(p.y, p.x) + c]);
  store<T>(a.match, cropped, expf(-sums[0] / (square(kFlowSigma) * sums[1] + square(kDetailSigma))));
}
RVRT_KERNELS(flow_match, FlowArguments)

// Weight of a pixel `away` px from a place in cubic interpolation.
RVRT_DEVICE float cubic_weight(float away) {
  constexpr float kCubic = -0.75f;
  const float t = fabsf(away);
  if (t < 1.0f) return ((kCubic + 2) * t - (kCubic + 3)) * t * t + 1.0f;
  return t < 2.0f ? kCubic * (((t - 5.0f) * t + 8.0f) * t - 4.0f) : 0.0f;
}

// Four threads per pixel, one for each row of its subpixels.
template <class T>
RVRT_DEVICE void fuse_frames_forward(const FusionArguments& a) {
  constexpr int kScale = 4;
  constexpr float kPosition = 1.0f / 0.25f, kColor = 1.0f / (0.1f * 0.1f), kFade = 1.0f / 16;
  const Index plane = static_cast<Index>(a.height) * a.width;
  for (Index e = thread_index(); e < a.count; e += thread_count()) {
    const Index pixel = e / kScale, image = pixel / plane;
    const int row = e % kScale, x = pixel % a.width, y = pixel % plane / a.width;
    const auto subpixel = [](int i) { return (i + 0.5f) / kScale - 0.5f; };
    float sums[kScale][3] = {}, weights[kScale] = {}, own[kScale];
    const auto add = [&](const float (&difference)[3], float dx, float dy, float trust) {
      const float down = trust * expf(-0.5f * square((subpixel(row) - dy) * kPosition));
#pragma unroll
      for (int j = 0; j < kScale; ++j) {
        const float weight = down * expf(-0.5f * square((subpixel(j) - dx) * kPosition));
        weights[j] += weight;
#pragma unroll
        for (int c = 0; c < 3; ++c) sums[j][c] += weight * difference[c];
      }
    };
    // 1, fading to 0 at a whole pixel: there another sample takes this one's place
    const auto presence = [](float offset) {
      const float left = (1.0f - fabsf(offset)) / kFade;
      return left < 1.0f ? left : 1.0f;
    };
    const auto color_of = [&](const void* frames, Index frame, int py, int px, float (&color)[3]) {
      const Index at =
          frame * plane + static_cast<Index>(clamp_index(py, a.height)) * a.width + clamp_index(px, a.width);
#pragma unroll
      for (int c = 0; c < 3; ++c) color[c] = load<T>(frames, at * 3 + c);
    };
    const auto subtract_frame_at = [&](float dx, float dy, float (&color)[3]) {  // continued between its pixels
      const int left = static_cast<int>(floorf(dx)) - 1, top = static_cast<int>(floorf(dy)) - 1;
      float corner[3], beside[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) beside[j] = cubic_weight(dx - (left + j));
      for (int i = top; i < top + 4; ++i) {
        const float along = cubic_weight(dy - i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float weight = along * beside[j];
          color_of(a.frame, image, y + i, x + left + j, corner);
#pragma unroll
          for (int c = 0; c < 3; ++c) color[c] -= weight * corner[c];
        }
      }
    };
    const float none[3] = {};  // the frame's own pixels do not differ from it
    for (int dy = -1; dy <= 1; ++dy)
      for (int dx = -1; dx <= 1; ++dx) add(none, dx, dy, 1.0f);
#pragma unroll
    for (int j = 0; j < kScale; ++j) own[j] = weights[j];
    for (int n = 0; n < a.neighbor_count; ++n) {
      const Index neighbor = image * a.neighbor_count + n, flow = (neighbor * plane + pixel % plane) * 2;
      const float across = limit_flow(load<T>(a.flows, flow)), along = limit_flow(load<T>(a.flows, flow + 1));
      const float match = load<T>(a.matches, flow / 2);
      for (int k = 0; k < 4; ++k) {
        const float whole_x = floorf(across) + k % 2, whole_y = floorf(along) + k / 2;
        const float dx = whole_x - across, dy = whole_y - along;
        const int px = x + static_cast<int>(whole_x), py = y + static_cast<int>(whole_y);
        if (px < 0 || px >= a.width || py < 0 || py >= a.height) continue;
        float difference[3], distance = 0;
        color_of(a.neighbors, neighbor, py, px, difference);
        subtract_frame_at(dx, dy, difference);
#pragma unroll
        for (int c = 0; c < 3; ++c) distance += square(difference[c]);
        add(difference, dx, dy, match * presence(dx) * presence(dy) * expf(-0.5f * distance / 3 * kColor));
      }
    }
    float pixel_color[3];
    color_of(a.frame, image, y, x, pixel_color);
#pragma unroll
    for (int j = 0; j < kScale; ++j) {
      const Index out = pixel * 4 * kScale * kScale + row * kScale + j;
      float lacking[3] = {};  // the frame at this subpixel, negative
      subtract_frame_at(subpixel(j), subpixel(row), lacking);
#pragma unroll
      for (int c = 0; c < 3; ++c)
        store<T>(a.out, out + c * kScale * kScale, sums[j][c] / weights[j] - lacking[c] - pixel_color[c]);
      store<T>(a.out, out + 3 * kScale * kScale, 1.0f - own[j] / weights[j]);
    }
  }
}
RVRT_KERNELS(fuse_frames_forward, FusionArguments)
