// SPDX-License-Identifier: Apache-2.0
// Attention: launches the kernels of window_attention.cu and sampled_attention.cu; inputs and outputs as those of the CPU
// kernels of the same name.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "launch.h"

using namespace rvrt;
using namespace rvrt::cuda;

namespace {

constexpr int kLargestHead = 32;  // channels; as in ops/kernels/glue.py

// The kernel compiled for the smallest bound that holds.
int launch_bounded(const Call& t, const char* name, int needed, std::initializer_list<int> bounds, Grid grid,
                   int threads, const void* arguments) {
  for (const int bound : bounds)
    if (needed <= bound) {
      char full[64];
      std::snprintf(full, sizeof full, "%s_%d", name, bound);
      return launch_bytes(t, full, grid, threads, arguments);
    }
  return kAttribute;
}

// --- shifted windows; attributes [heads, window, shift, has_bias]

constexpr int kWindowThreads = 128, kMostSlices = 64;

int window_arguments(const Call& t, int attributes, WindowArguments* a) {
  RVRT_CHECK(t.ndims[0] == 5 && t.dim(0, 4) % 3 == 0, kShape);
  a->channels = t.dim(0, 4) / 3, a->heads = t.attribute(attributes, 0), a->length = 1;
  RVRT_CHECK(a->heads > 0 && a->channels % a->heads == 0, kAttribute);
  a->windows = t.dim(0, 0);
  for (int i = 0; i < 3; ++i) {
    a->size[i] = t.dim(0, i + 1), a->window[i] = t.attribute(attributes, 1 + i);
    a->shift[i] = t.attribute(attributes, 4 + i);
    RVRT_CHECK(a->window[i] > 0 && a->shift[i] < a->window[i], kAttribute);
    a->grid[i] = ceil_div(a->size[i], a->window[i]);
    a->length *= a->window[i], a->windows *= a->grid[i];
  }
  a->head_width = a->channels / a->heads;
  RVRT_CHECK(a->head_width <= kLargestHead, kAttribute);
  a->scale = 1.0f / std::sqrt(static_cast<float>(a->head_width));
  RVRT_CHECK(t.has_shape(1, {3 * a->channels}), kShape);
  a->qkv = t.in(0), a->pad = t.in(1);
  if (t.attribute(attributes, 7)) {
    RVRT_CHECK(t.has_shape(2, {a->heads, a->length, a->length}), kShape);
    a->bias = t.in(2);
  }
  return kOk;
}

// --- neighborhoods and deformable points

int64_t sampled_units(const Call& t, int64_t heads) {
  return t.dim(0, 0) * t.dim(0, 1) * t.dim(0, 2) * t.dim(0, 3) * heads;
}

template <class Arguments>
int sampled_arguments(const Call& t, int attributes, Arguments* a) {
  RVRT_CHECK(t.ndims[0] == 5, kShape);
  a->frames = t.dim(0, 1), a->height = t.dim(0, 2), a->width = t.dim(0, 3), a->channels = t.dim(0, 4);
  RVRT_CHECK(t.has_shape(1, {t.dim(0, 0), a->frames, a->height, a->width, 2 * a->channels}), kShape);
  a->heads = t.attribute(attributes, 0);
  a->kernel_h = t.attribute(attributes, 1), a->kernel_w = t.attribute(attributes, 2);
  RVRT_CHECK(a->heads > 0 && a->channels % a->heads == 0 && a->kernel_h > 0 && a->kernel_w > 0, kAttribute);
  a->head_width = a->channels / a->heads;
  RVRT_CHECK(a->head_width <= kLargestHead, kAttribute);
  a->units = sampled_units(t, a->heads);
  a->query = t.in(0), a->key_value = t.in(1);
  return kOk;
}

template <class Arguments>
int launch_sampled(const Call& t, const char* name, const Arguments& a) {
  const int per_lane = ceil_div(a.head_width, 8);
  return a.units ? launch_bounded(t, name, per_lane, {2, 3, 4}, grid_of(8 * a.units), kThreads, &a) : kOk;
}

int deformable_arguments(const Call& t, int attributes, DeformableArguments* a) {
  RVRT_TRY(sampled_arguments(t, attributes, a));
  RVRT_CHECK(t.ndims[2] == 8, kShape);
  const int64_t groups = t.dim(2, 5), points = a->kernel_h * a->kernel_w;
  RVRT_CHECK(t.has_shape(2, {t.dim(0, 0), a->frames, a->height, a->width, a->frames, groups, points, 2}), kShape);
  RVRT_CHECK(groups > 0 && groups % 2 == 0 && 2 * a->channels % groups == 0, kShape);
  a->groups = groups, a->group_width = 2 * a->channels / groups;
  RVRT_CHECK(a->group_width % a->head_width == 0 || a->head_width % a->group_width == 0, kShape);
  a->offset = t.in(2);
  return kOk;
}

}  // namespace

RVRT_CUDA_ENTRY(window_attention_forward) {
  RVRT_TRY(t.check(3, 8, 1));
  WindowArguments a{};
  RVRT_TRY(window_arguments(t, 3, &a));
  RVRT_CHECK(t.has_shape(4, {t.dim(0, 0), a.size[0], a.size[1], a.size[2], a.channels}), kShape);
  a.out = t.out(4);
  if (t.size(4) == 0) return kOk;
  const Grid grid{a.windows, a.heads, ceil_div(a.length, kWindowThreads)};
  return launch_bounded(t, "window_attention_forward", a.head_width, {24, 32}, grid, kWindowThreads, &a);
}

RVRT_CUDA_ENTRY(window_attention_backward) {
  RVRT_TRY(t.check(4, 8, 3));
  WindowArguments a{};
  RVRT_TRY(window_arguments(t, 4, &a));
  RVRT_CHECK(t.has_shape(3, {t.dim(0, 0), a.size[0], a.size[1], a.size[2], a.channels}), kShape);
  RVRT_CHECK(t.same_shape(0, 5) && t.same_shape(1, 6) && t.same_shape(2, 7), kShape);
  a.dout = t.in(3), a.dqkv = t.out(5);
  const int64_t matrix = static_cast<int64_t>(a.length) * a.length;
  a.slices = std::max<int64_t>(1, std::min<int64_t>(a.windows, kMostSlices));
  float *dbias = nullptr, *dpad = nullptr;
  CardScratch scratch(t);
  RVRT_TRY(scratch.allocate([&] {
    a.rows = scratch.floats(static_cast<int64_t>(a.slices) * a.heads * a.length * 3);
    dbias = scratch.floats(a.bias ? a.slices * a.heads * matrix : 0);
    dpad = scratch.floats(static_cast<int64_t>(a.slices) * 3 * a.channels);
  }));
  a.dbias = a.bias ? dbias : nullptr, a.dpad = dpad;
  RVRT_TRY(fill_zeros(t, dpad, 4 * static_cast<int64_t>(a.slices) * 3 * a.channels));
  if (a.bias) RVRT_TRY(fill_zeros(t, dbias, 4 * a.slices * a.heads * matrix));
  if (t.size(0))
    RVRT_TRY(launch_bounded(t, "window_attention_backward", a.head_width, {24, 32}, Grid{a.slices, a.heads},
                            kWindowThreads, &a));
  RVRT_TRY(sum_slices(t, dpad, a.slices, t.out(6), 3 * a.channels));
  if (!a.bias) return fill_zeros(t, t.out(7), t.bytes(t.size(7)));
  return launch_elements(t, "sum_slices",
                         SlicesArguments{dbias, t.out(7), a.heads * matrix, a.slices, a.length, a.length});
}

RVRT_CUDA_ENTRY(neighborhood_attention_forward) {
  RVRT_TRY(t.check(2, 3, 1));
  NeighborhoodArguments a{};
  RVRT_TRY(sampled_arguments(t, 2, &a));
  RVRT_CHECK(t.same_shape(0, 3), kShape);
  a.out = t.out(3);
  return launch_sampled(t, "neighborhood_forward", a);
}

RVRT_CUDA_ENTRY(neighborhood_attention_backward) {
  RVRT_TRY(t.check(3, 3, 2));
  NeighborhoodArguments a{};
  RVRT_TRY(sampled_arguments(t, 3, &a));
  RVRT_CHECK(t.same_shape(0, 2) && t.same_shape(0, 4) && t.same_shape(1, 5), kShape);
  a.dout = t.in(2), a.dquery = t.out(4), a.dkey_value = t.out(5);
  CardScratch scratch(t);
  RVRT_TRY(scratch.allocate([&] { a.rows = scratch.floats(3 * a.units); }));
  RVRT_TRY(launch_sampled(t, "neighborhood_queries", a));
  return launch_sampled(t, "neighborhood_keys", a);
}

RVRT_CUDA_ENTRY(deformable_attention_forward) {
  RVRT_TRY(t.check(3, 3, 1));
  DeformableArguments a{};
  RVRT_TRY(deformable_arguments(t, 3, &a));
  RVRT_CHECK(t.same_shape(0, 4), kShape);
  a.out = t.out(4);
  return launch_sampled(t, "deformable_forward", a);
}

RVRT_CUDA_ENTRY(deformable_attention_backward) {
  RVRT_TRY(t.check(4, 3, 3));
  DeformableArguments a{};
  RVRT_TRY(deformable_arguments(t, 4, &a));
  RVRT_CHECK(t.same_shape(0, 3), kShape);
  RVRT_CHECK(t.same_shape(0, 5) && t.same_shape(1, 6) && t.same_shape(2, 7), kShape);
  a.dout = t.in(3), a.dquery = t.out(5);
  CardScratch scratch(t);
  RVRT_TRY(scratch.allocate([&] {
    a.dkey_value = t.half ? scratch.floats(t.size(1)) : static_cast<float*>(t.out(6));
    a.doffset = t.half ? scratch.floats(t.size(2)) : static_cast<float*>(t.out(7));
  }));
  RVRT_TRY(fill_zeros(t, a.dkey_value, 4 * t.size(1)));
  RVRT_TRY(fill_zeros(t, a.doffset, 4 * t.size(2)));
  RVRT_TRY(launch_sampled(t, "deformable_backward", a));
  if (!t.half) return kOk;
  RVRT_TRY(convert(t, a.dkey_value, t.out(6), t.size(1)));
  return convert(t, a.doffset, t.out(7), t.size(2));
}
