// SPDX-License-Identifier: Apache-2.0
// Warping by a flow, forward and backward. The simplest kernel file: read it as the example for portable.h.
#include "portable.h"

using namespace rvrt::cuda;

namespace {

struct Corners {
  Footprint down, across;
  Index first;  // pixel of the image's first row and column
};

template <class T>
RVRT_DEVICE Corners corners(const WarpArguments& a, Index pixel) {
  const int column = pixel % a.width, row = pixel / a.width % a.height;
  Corners c;
  c.across = footprint(column + load<T>(a.flow, 2 * pixel), a.width, a.border);
  c.down = footprint(row + load<T>(a.flow, 2 * pixel + 1), a.height, a.border);
  c.first = pixel - (static_cast<Index>(row) * a.width + column);
  return c;
}

RVRT_DEVICE Index corner_pixel(const WarpArguments& a, const Corners& c, int i, int j) {
  return c.first + static_cast<Index>(c.down.index[i]) * a.width + c.across.index[j];
}

}  // namespace

// One thread per element.
template <class T>
RVRT_DEVICE void warp_forward(const WarpArguments& a) {
  for (Index e = thread_index(); e < a.pixels * a.channels; e += thread_count()) {
    const Corners c = corners<T>(a, e / a.channels);
    const int channel = e % a.channels;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        sum += c.down.weight[i] * c.across.weight[j] * load<T>(a.x, corner_pixel(a, c, i, j) * a.channels + channel);
    store<T>(a.out, e, sum);
  }
}
RVRT_KERNELS(warp_forward, WarpArguments)

// Eight lanes per pixel, one channel each at a time. `dx` is summed by atomic additions, in no fixed order.
template <class T>
RVRT_DEVICE void warp_backward(const WarpArguments& a) {
  const int lane = threadIdx.x % 8;
  const Index last = (a.pixels + 3) / 4 * 4;  // a whole warp works: its lanes add up together
  for (Index pixel = thread_index() / 8; pixel < last; pixel += thread_count() / 8) {
    float dx = 0, dy = 0;
    if (pixel < a.pixels) {
      const Corners c = corners<T>(a, pixel);
      for (int channel = lane; channel < a.channels; channel += 8) {
        const float g = load<T>(a.dout, pixel * a.channels + channel);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const Index from = corner_pixel(a, c, i, j) * a.channels + channel;
            const float x = load<T>(a.x, from), weight = c.down.weight[i] * c.across.weight[j];
            dx += g * x * c.down.weight[i] * c.across.slope[j];
            dy += g * x * c.down.slope[i] * c.across.weight[j];
            if (weight != 0) atomicAdd(a.dx + from, weight * g);
          }
      }
    }
    dx = lane_sum<8>(dx), dy = lane_sum<8>(dy);
    if (pixel < a.pixels && lane < 2) store<T>(a.dflow, 2 * pixel + lane, lane ? dy : dx);
  }
}
RVRT_KERNELS(warp_backward, WarpArguments)
