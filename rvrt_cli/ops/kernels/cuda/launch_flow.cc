// SPDX-License-Identifier: Apache-2.0
// Lucas-Kanade flow and frame fusion: launches the kernels of flow.cu; inputs and outputs as those of the CPU kernels of
// the same name.
#include <utility>

#include "launch.h"

using namespace rvrt;
using namespace rvrt::cuda;

namespace {

constexpr int kLargestPyramid = 8, kTile = 16;
constexpr int kTryingLevels = 2;  // the finest ones, on which pixels try flows of others

}  // namespace

// reference, neighbor (B, H, W, 3), attributes [levels, iterations] -> flow (B, H, W, 2), match (B, H, W)
RVRT_CUDA_ENTRY(lucas_kanade_forward) {
  RVRT_TRY(t.check(2, 2, 2));
  const int64_t levels = t.attribute(2, 0), iterations = t.attribute(2, 1);
  RVRT_CHECK(t.ndims[0] == 4 && t.same_shape(0, 1) && t.dim(0, 3) == 3, kShape);
  RVRT_CHECK(levels >= 1 && levels <= kLargestPyramid, kAttribute);
  const int64_t batch = t.dim(0, 0), out_height = t.dim(0, 1), out_width = t.dim(0, 2), step = 1 << (levels - 1);
  RVRT_CHECK(t.has_shape(3, {batch, out_height, out_width, 2}) && t.has_shape(4, {batch, out_height, out_width}),
             kShape);
  if (t.size(0) == 0) return kOk;
  const int64_t height = round_up(out_height, step), width = round_up(out_width, step);
  const auto pixels = [&](int64_t level) { return batch * (height >> level) * (width >> level); };

  float *luma[kLargestPyramid] = {}, *detail = nullptr, *flows[2] = {}, *products = nullptr;
  CardScratch scratch(t);
  RVRT_TRY(scratch.allocate([&] {
    for (int64_t level = 0; level < levels; ++level) luma[level] = scratch.floats(2 * pixels(level));
    detail = scratch.floats(2 * pixels(0));
    flows[0] = scratch.floats(2 * pixels(0)), flows[1] = scratch.floats(2 * pixels(0));
    products = scratch.floats(5 * pixels(0));
  }));
  PyramidArguments p{t.in(0), t.in(1), luma[0], 2 * pixels(0), 0, 0, 0, 0};
  p.frame_height = out_height, p.frame_width = out_width, p.height = height, p.width = width;
  RVRT_TRY(launch_elements(t, "flow_luma", p));
  for (int64_t level = 1; level < levels; ++level) {
    FilterArguments f{luma[level - 1], luma[level], 2 * pixels(level), 0, 0};
    f.height = height >> level, f.width = width >> level;
    RVRT_TRY(launch_elements(t, "flow_halve", f));
  }
  FlowArguments a{};
  a.products = products, a.out_height = out_height, a.out_width = out_width;
  a.flow = flows[0], a.chosen = flows[1];
  for (int64_t level = levels - 1; level >= 0; --level) {
    a.height = height >> level, a.width = width >> level, a.count = pixels(level);
    const auto tiles = [&](int64_t images) {
      return Grid{ceil_div(a.width, kTile), ceil_div(a.height, kTile), images};
    };
    const FilterArguments f{luma[level], detail, 2 * a.count, a.height, a.width};
    RVRT_TRY(launch(t, "flow_detail", tiles(2 * batch), kThreads, f));
    a.first = detail, a.second = detail + a.count;
    RVRT_TRY(launch_elements(t, "flow_start", a));
    for (int64_t i = 0; i < iterations; ++i) {
      RVRT_TRY(launch_elements(t, "flow_products", a));
      RVRT_TRY(launch(t, "flow_step", tiles(batch), kThreads, a));
    }
    if (level < kTryingLevels) {
      RVRT_TRY(launch(t, "flow_try", tiles(batch), kThreads, a));
      std::swap(a.flow, a.chosen);
    }
    if (level == 0) {
      a.out = t.out(3), a.match = t.out(4);
      RVRT_TRY(launch(t, "flow_match", tiles(batch), kThreads, a));
    }
    a.coarse = a.flow;  // the finer level starts in the other one
    std::swap(a.flow, a.chosen);
  }
  return kOk;
}

// frame (B, H, W, 3), neighbors (B, K, H, W, 3), flows (B, K, H, W, 2), matches (B, K, H, W) -> (B, H, W, 64)
RVRT_CUDA_ENTRY(fuse_frames_forward) {
  RVRT_TRY(t.check(4, 0, 1));
  RVRT_CHECK(t.ndims[0] == 4 && t.ndims[1] == 5, kShape);
  const int64_t batch = t.dim(0, 0), neighbors = t.dim(1, 1), height = t.dim(0, 1), width = t.dim(0, 2);
  RVRT_CHECK(t.has_shape(0, {batch, height, width, 3}) && t.has_shape(1, {batch, neighbors, height, width, 3}), kShape);
  RVRT_CHECK(t.has_shape(2, {batch, neighbors, height, width, 2}) && t.has_shape(3, {batch, neighbors, height, width}),
             kShape);
  RVRT_CHECK(t.has_shape(4, {batch, height, width, 64}), kShape);
  FusionArguments a{t.in(0), t.in(1), t.in(2), t.in(3), t.out(4), 4 * batch * height * width, 0, 0, 0};
  a.neighbor_count = neighbors, a.height = height, a.width = width;
  return launch_elements(t, "fuse_frames_forward", a);
}
