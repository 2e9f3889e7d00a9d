// SPDX-License-Identifier: Apache-2.0
// Launches the kernels of elementwise.cu and warp.cu; inputs and outputs as those of the CPU kernels of the same name.
#include <algorithm>

#include "launch.h"

namespace rvrt {
namespace cuda {

int convert(const Call& call, const float* x, void* out, int64_t count) {
  return launch_elements(call, "convert", ConvertArguments{x, out, count});
}

int sum_slices(const Call& call, const float* partial, int slices, void* out, int64_t count) {
  return launch_elements(call, "sum_slices", SlicesArguments{partial, out, count, slices, 0, 0});
}

namespace {

// Small image (B, H, W, C * f²) at `small`, large one (B, H * f, W * f, C) at `large`.
int shuffle_arguments(const Call& t, int attributes, int small, int large, ShuffleArguments* a) {
  RVRT_CHECK(t.ndims[small] == 4 && t.ndims[large] == 4, kShape);
  const int64_t f = t.attribute(attributes, 0), activation = t.attribute(attributes, 1);
  RVRT_CHECK(f >= 1 && f <= 64 && activation >= 0 && activation <= 3, kAttribute);
  a->height = t.dim(small, 1), a->width = t.dim(small, 2), a->channels = t.dim(large, 3);
  a->factor = f, a->activation = activation, a->count = t.size(large);
  RVRT_CHECK(t.dim(small, 3) == a->channels * f * f, kShape);
  RVRT_CHECK(t.has_shape(large, {t.dim(small, 0), a->height * f, a->width * f, a->channels}), kShape);
  return kOk;
}

int warp_arguments(const Call& t, int attributes, WarpArguments* a) {
  RVRT_CHECK(t.ndims[0] == 4 && t.attribute(attributes, 0) >= 0 && t.attribute(attributes, 0) <= 1, kShape);
  a->height = t.dim(0, 1), a->width = t.dim(0, 2), a->channels = t.dim(0, 3), a->border = t.attribute(attributes, 0);
  a->pixels = t.dim(0, 0) * a->height * a->width;
  RVRT_CHECK(t.has_shape(1, {t.dim(0, 0), a->height, a->width, 2}), kShape);
  a->x = t.in(0), a->flow = t.in(1);
  return kOk;
}

}  // namespace
}  // namespace cuda
}  // namespace rvrt

using namespace rvrt;
using namespace rvrt::cuda;

RVRT_CUDA_ENTRY(pixel_shuffle_forward) {
  RVRT_TRY(t.check(1, 2, 1));
  ShuffleArguments a{};
  RVRT_TRY(shuffle_arguments(t, 1, 0, 2, &a));
  a.small = t.in(0), a.out = t.out(2);
  return launch_elements(t, "pixel_shuffle_forward", a);
}

RVRT_CUDA_ENTRY(pixel_shuffle_backward) {
  RVRT_TRY(t.check(2, 2, 1));
  ShuffleArguments a{};
  RVRT_TRY(shuffle_arguments(t, 2, 3, 0, &a));
  RVRT_CHECK(t.same_shape(0, 1), kShape);
  a.large = t.in(0), a.gradient = t.in(1), a.out = t.out(3);
  return launch_elements(t, "pixel_shuffle_backward", a);
}

RVRT_CUDA_ENTRY(add_upsampled_forward) {
  RVRT_TRY(t.check(2, 0, 1));
  RVRT_CHECK(t.ndims[0] == 4 && t.ndims[1] == 4 && t.same_shape(1, 2), kShape);
  UpsampledArguments a{t.in(0), t.in(1), t.out(2), t.size(1), 0, 0, 0, 0};
  a.height = t.dim(0, 1), a.width = t.dim(0, 2), a.channels = t.dim(0, 3);
  if (t.size(0) == 0) return t.size(1) == 0 ? kOk : kShape;
  a.factor = t.dim(1, 1) / a.height;
  RVRT_CHECK(a.factor >= 1, kShape);
  RVRT_CHECK(t.has_shape(1, {t.dim(0, 0), a.height * a.factor, a.width * a.factor, a.channels}), kShape);
  return launch_elements(t, "add_upsampled_forward", a);
}

RVRT_CUDA_ENTRY(reverse_time_forward) {
  RVRT_TRY(t.check(1, 0, 1));
  RVRT_CHECK(t.ndims[0] >= 2 && t.same_shape(0, 1), kShape);
  if (t.size(0) == 0) return kOk;
  const int frames = t.dim(0, 1);
  const ReverseArguments a{t.in(0), t.out(1), t.size(0), t.size(0) / (t.dim(0, 0) * frames), frames};
  return launch_elements(t, "reverse_time_forward", a);
}

// epsilon² is float32 whatever x and y are; so are the loss and its gradient.
RVRT_CUDA_ENTRY(charbonnier_forward) {
  RVRT_TRY(t.check(3, 0, 1));
  RVRT_CHECK(!t.half, kType);
  RVRT_CHECK(t.same_shape(0, 1) && t.size(2) == 1 && t.size(3) == 1 && t.size(0) > 0, kShape);
  LossArguments a{};
  a.x = t.in(0), a.y = t.in(1), a.epsilon2 = static_cast<const float*>(t.in(2)), a.out = t.out(3);
  a.count = t.size(0), a.blocks = static_cast<int>(std::min<int64_t>(ceil_div(a.count, 4 * kThreads), 1024));
  CardScratch scratch(t);
  RVRT_TRY(scratch.allocate([&] { a.partial = static_cast<double*>(scratch.take(8 * a.blocks)); }));
  RVRT_TRY(launch(t, "loss_partial", Grid{a.blocks}, kThreads, a));
  return launch(t, "loss_mean", Grid{1}, 32, a);
}

RVRT_CUDA_ENTRY(charbonnier_backward) {
  RVRT_TRY(t.check(4, 0, 1));
  RVRT_CHECK(!t.half, kType);
  RVRT_CHECK(t.same_shape(0, 1) && t.same_shape(0, 4) && t.size(2) == 1 && t.size(3) == 1 && t.size(0) > 0, kShape);
  LossArguments a{};
  a.x = t.in(0), a.y = t.in(1), a.epsilon2 = static_cast<const float*>(t.in(2));
  a.dout = static_cast<const float*>(t.in(3)), a.dx = t.out(4), a.count = t.size(0);
  return launch_elements(t, "loss_backward", a);
}

RVRT_CUDA_ENTRY(warp_forward) {
  RVRT_TRY(t.check(2, 1, 1));
  WarpArguments a{};
  RVRT_TRY(warp_arguments(t, 2, &a));
  RVRT_CHECK(t.same_shape(0, 3), kShape);
  a.out = t.out(3);
  return t.size(0) ? launch(t, "warp_forward", grid_of(t.size(0)), kThreads, a) : kOk;
}

RVRT_CUDA_ENTRY(warp_backward) {
  RVRT_TRY(t.check(3, 1, 2));
  WarpArguments a{};
  RVRT_TRY(warp_arguments(t, 3, &a));
  RVRT_CHECK(t.same_shape(0, 2) && t.same_shape(0, 4) && t.same_shape(1, 5), kShape);
  if (t.size(0) == 0) return kOk;
  a.dout = t.in(2), a.dflow = t.out(5);
  CardScratch scratch(t);
  RVRT_TRY(scratch.allocate([&] { a.dx = t.half ? scratch.floats(t.size(0)) : static_cast<float*>(t.out(4)); }));
  RVRT_TRY(fill_zeros(t, a.dx, 4 * t.size(0)));
  RVRT_TRY(launch(t, "warp_backward", grid_of(8 * a.pixels), kThreads, a));
  return t.half ? convert(t, a.dx, t.out(4), t.size(0)) : kOk;
}
