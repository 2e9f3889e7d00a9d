// SPDX-License-Identifier: Apache-2.0
// Tiles of a 7x7 convolution by Winograd's algorithm, in float32 (winograd7x7.cc, which explains it) and with bfloat16
// operands (half_winograd7x7.cc). The parts compiled per instruction set are in wide_tiles.h.
#pragma once

#include "winograd_grid.h"

namespace rvrt {

constexpr int64_t kStep = 3, kKernelEdge = 7, kReach = 3, kParts = 4;

// Blocks of tiles that are processed together; a band of them is a task, from top to bottom.
struct StripGrid {
  int64_t batch, height, width, down, across;  // tiles per image
  int64_t rows, columns;                       // of a block, in tiles; the last ones may be smaller
  int64_t bands, strips;                       // per image; a strip is as wide as a block
  int64_t tasks() const { return batch * bands * strips; }
  int64_t patches() const { return (rows + 1) * (columns + 1); }
};

// Blocks for an image batch.
inline StripGrid strip_grid(int64_t batch, int64_t height, int64_t width) {
  constexpr int64_t kMostAcross = 24,
                    kMostTogether = 48;  // tiles of a block: V, products and weights share the L2 cache
  StripGrid grid{batch, height, width, ceil_div(height, kStep), ceil_div(width, kStep), 0, 0, 0, 0};
  grid.columns = ceil_div(grid.across, ceil_div(grid.across, kMostAcross));
  grid.strips = ceil_div(grid.across, grid.columns);
  grid.rows = std::min(grid.down, std::max<int64_t>(kMostTogether / (grid.columns + 1), 1));
  grid.bands = std::min(ceil_div(grid.down, grid.rows), ceil_div(4 * threads(), batch * grid.strips));
  return grid;
}

// Weights (outputs, inputs, 7, 7) to transform.
struct WideWeightsJob {
  const float* weight;
  int64_t inputs, outputs, depth;
  void* packed;  // (place, upper or lower part, panel, left and right part, input channel or pair of them, column)
};

// A convolution whose numbers of V take `number_bytes` each.
struct WideJob {
  const WinogradCall* call;
  StripGrid grid;
  int64_t depth, outputs;  // channels, up to whole vectors
  const void* packed;
  const float* bias;
  float* scratch;
  int64_t scratch_floats, patch_floats, v_floats;
  int64_t place_v, place_m;  // numbers from one place to the next, of V and of the products

  WideJob(const WinogradCall& c, int64_t lanes, int64_t number_bytes)
      : call(&c), grid(strip_grid(c.batch, c.height, c.width)) {
    depth = round_up(c.inputs, lanes), outputs = round_up(c.outputs, lanes);
    patch_floats = kPlaces * depth;
    place_v = grid.patches() * depth + kSkew * 4 / number_bytes;
    place_m = grid.patches() * outputs + kSkew;
    v_floats = ceil_div(kPlaces * place_v * number_bytes, 4);
    scratch_floats = round_up(patch_floats + v_floats + kPlaces * place_m, 16);
  }
  int64_t weights() const { return kPlaces * kParts * depth * outputs; }
};

// Transforms the weights by `transform` in `steps` tasks, then computes `bands` of tiles.
inline int run_wide(WideJob& job, Body transform, int64_t steps, int64_t packed_floats, Body bands) {
  const WinogradCall& call = *job.call;
  const Scratch scratch(parallel_width(job.grid.tasks()) * job.scratch_floats);
  const Scratch packed(packed_floats), bias(job.outputs, true);
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok(), kMemory);
  const WideWeightsJob weights{call.weight, call.inputs, call.outputs, job.depth, packed.data()};
  parallel(steps, transform, &weights);
  if (call.bias) std::memcpy(bias.data(), call.bias, sizeof(float) * call.outputs);
  job.packed = packed.data(), job.bias = bias.data(), job.scratch = scratch.data();
  return parallel_shared(job.grid.tasks(), bands, &job);
}

}  // namespace rvrt
