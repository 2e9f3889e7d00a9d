// SPDX-License-Identifier: Apache-2.0
// 7x7 convolution, that of SpyNet, by Winograd's minimal filtering F(3x3, 4x4): 16 products per pixel and pair of channels in
// place of 49.
//
// The kernel is cut into four of 4x4 taps, the middle row and column in the first of two. A tile of 3x3 output pixels takes
// them from four patches of 6x6 input pixels that begin 0 or 3 pixels from its corner: as the tiles are 3 pixels apart too,
// these are the patches of the tile itself and of its neighbors, and each is transformed once. The four products are summed
// before the transform back. Points and matrices are those of winograd.cc, where the weights' gradient has the same form.
#ifndef RVRT_ISA

#include "convolution.h"

#include <algorithm>

namespace rvrt {

constexpr int64_t kStep = 3, kPatch = 6, kPatchPlaces = kPatch * kPatch, kKernelEdge = 7, kReach = 3, kParts = 4;

// Blocks of tiles that are processed together; a band of them is a task, from top to bottom.
struct StripGrid {
  int64_t batch, height, width, down, across;  // tiles per image
  int64_t rows, columns;                       // of a block, in tiles; the last ones may be smaller
  int64_t bands, strips;                       // per image; a strip is as wide as a block
  int64_t tasks() const { return batch * bands * strips; }
  int64_t patches() const { return (rows + 1) * (columns + 1); }
};

struct WideWeightsJob {
  const float* weight;  // (outputs, inputs, 7, 7)
  int64_t inputs, outputs, depth;
  float* packed;  // (place, upper or lower part, panel, left and right part, input channel, column)
};

struct WideJob {
  const WinogradCall* call;
  StripGrid grid;
  int64_t depth;  // input channels, up to whole vectors
  const float *packed, *bias;
  float* scratch;
  int64_t scratch_floats, patch_floats;
  int64_t place_v, place_m;  // floats from one place to the next, of V and of the products
};

}  // namespace rvrt

#define RVRT_KERNEL "winograd7x7.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

constexpr int64_t kMostAcross = 24, kMostTogether = 48;  // tiles of a block: V, products and weights share the L2 cache
constexpr int64_t kPlaceSkew = 16;  // floats between places, which would all map to the same cache set otherwise

StripGrid strip_grid(int64_t batch, int64_t height, int64_t width) {
  StripGrid grid{batch, height, width, ceil_div(height, kStep), ceil_div(width, kStep), 0, 0, 0, 0};
  grid.columns = ceil_div(grid.across, ceil_div(grid.across, kMostAcross));
  grid.strips = ceil_div(grid.across, grid.columns);
  grid.rows = std::min(grid.down, std::max<int64_t>(kMostTogether / (grid.columns + 1), 1));
  grid.bands = std::min(ceil_div(grid.down, grid.rows), ceil_div(4 * threads(), batch * grid.strips));
  return grid;
}

}  // namespace

bool winograd_7x7_suits(int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh, int64_t kw) {
  const int64_t lanes = RVRT_DISPATCH(W);
  return kh == kKernelEdge && kw == kKernelEdge && inputs >= lanes && outputs >= lanes && height >= 12 && width >= 12;
}

int winograd_7x7_convolve(const WinogradCall& call) {
  WideJob job{};
  job.call = &call;
  job.grid = strip_grid(call.batch, call.height, call.width);
  job.depth = padded_floats(call.inputs);
  const int64_t outputs = padded_floats(call.outputs);
  job.patch_floats = kPatchPlaces * job.depth;
  job.place_v = job.grid.patches() * job.depth + kPlaceSkew;
  job.place_m = job.grid.patches() * outputs + kPlaceSkew;
  job.scratch_floats = round_up(job.patch_floats + kPatchPlaces * (job.place_v + job.place_m), 16);
  const Scratch scratch(parallel_width(job.grid.tasks()) * job.scratch_floats);
  const Scratch packed(kPatchPlaces * kParts * job.depth * outputs), bias(outputs, true);
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok(), kMemory);
  const WideWeightsJob weights{call.weight, call.inputs, call.outputs, job.depth, packed.data()};
  parallel(job.depth, RVRT_DISPATCH(transform_wide_weights), &weights);
  if (call.bias) std::memcpy(bias.data(), call.bias, sizeof(float) * call.outputs);
  job.packed = packed.data(), job.bias = bias.data(), job.scratch = scratch.data();
  return parallel_shared(job.grid.tasks(), RVRT_DISPATCH(wide_bands), &job);
}

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "winograd_math.h"

// --- weights

// Four taps along one axis: the first of two parts has taps 0 to 3, the second 4 to 6 behind a zero.
RVRT_INLINE bool has_tap(int part, int tap) { return part == 0 || tap > 0; }

// U = G g Gᵀ in double precision, of one part of W filters g (tap, lane); places are `place` floats apart.
inline void transform_part(const double (&g)[kKernelEdge * kKernelEdge][W], int down, int right, float* out,
                           int64_t place) {
  double part[4][4][W];
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 4; ++x)
      for (int lane = 0; lane < W; ++lane)
        part[y][x][lane] =
            has_tap(down, y) && has_tap(right, x) ? g[(3 * down + y) * kKernelEdge + 3 * right + x][lane] : 0.0;
  for (int i = 0; i < 6; ++i) {
    double half[4][W];
    for (int x = 0; x < 4; ++x)
      for (int lane = 0; lane < W; ++lane) half[x][lane] = transform_filter<4>(i, &part[0][x][lane], 4 * W);
    for (int k = 0; k < 6; ++k)
      for (int lane = 0; lane < W; ++lane)
        out[(i * 6 + k) * place + lane] = static_cast<float>(transform_filter<4>(k, &half[0][lane], W));
  }
}

// The weights of input channels [begin, end), zeros for those that only fill a vector.
inline void transform_wide_weights(const void* pointer, Span span) {
  const WideWeightsJob& job = *static_cast<const WideWeightsJob*>(pointer);
  const int64_t all = vectors(job.outputs), matrix = 2 * job.depth * all * W;
  constexpr int64_t taps = kKernelEdge * kKernelEdge;
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    for (int64_t in = span.begin; in < span.end; ++in)
      for (int j = 0; j < width; ++j) {
        double g[taps][W];
        for (int lane = 0; lane < W; ++lane) {
          const int64_t out = (v + j) * W + lane;
          const bool exists = in < job.inputs && out < job.outputs;
          const float* source = exists ? job.weight + (out * job.inputs + in) * taps : nullptr;
          for (int64_t tap = 0; tap < taps; ++tap) g[tap][lane] = exists ? source[tap] : 0.0f;
        }
        for (int part = 0; part < kParts; ++part) {
          const int down = part / 2, right = part % 2;
          float* panel = job.packed + down * matrix + v * W * 2 * job.depth;
          transform_part(g, down, right, panel + ((right * job.depth + in) * width + j) * W, 2 * matrix);
        }
      }
    v += width;
  }
}

// --- tiles

// V of the patches of tile rows [first, first + rows), `columns` tiles of a strip and one patch more; `out` begins with the
// first of these rows.
inline void transform_patches(const WideJob& job, int64_t image, int64_t first, int64_t rows, int64_t left,
                              int64_t columns, float* patch, float* out) {
  const StripGrid& grid = job.grid;
  const WinogradCall& call = *job.call;
  const float* x = call.x.data[0];
  const int64_t ld = job.depth, channels = call.inputs;
  for (int64_t row = first; row < first + rows; ++row)
    for (int64_t column = left; column <= left + columns; ++column, out += ld) {
      const int64_t top = row * kStep - kReach, begin = column * kStep - kReach;
      const float* source = x + ((image * grid.height + top) * grid.width + begin) * channels;
      const bool inner = top >= 0 && begin >= 0 && top + kPatch <= grid.height && begin + kPatch <= grid.width;
      if (inner && ld == channels) {
        transform_patch(source, grid.width * channels, channels, ld, out, job.place_v);
        continue;
      }
      float* to = patch;
      for (int64_t y = top; y < top + kPatch; ++y)
        for (int64_t c = begin; c < begin + kPatch; ++c, to += ld) {
          const bool inside = y >= 0 && y < grid.height && c >= 0 && c < grid.width;
          copy_padded(inside ? x + ((image * grid.height + y) * grid.width + c) * channels : nullptr,
                      inside ? channels : 0, ld, to);
        }
      transform_patch(patch, kPatch * ld, ld, ld, out, job.place_v);
    }
}

// The products of a block of `rows` x `columns` tiles, whose rows lie `columns` + 1 patches apart: the last tile of each but
// the last is none, and its products are not read.
inline void multiply_block(const WideJob& job, int64_t rows, int64_t columns, const float* v, float* m) {
  const int64_t all = vectors(job.call->outputs), ldm = all * W, depth = 2 * job.depth, matrix = depth * ldm;
  const int64_t line = columns + 1, tiles = rows * line - 1;
  const float zeros[kPanelFloats] = {};
  for (int64_t place = 0; place < kPatchPlaces; ++place)
    for (int64_t first = 0; first < all;) {
      const int width = panel_vectors(all - first);
      const float* a = v + place * job.place_v;
      const float* b = job.packed + 2 * place * matrix + first * W * depth;
      float* c = m + place * job.place_m + first * W;
      // A tile's left and right patch lie side by side.
      product({tiles, width, depth, a, job.depth, b, width * W, zeros, 0, c, ldm});
      product({tiles, width, depth, a + line * job.depth, job.depth, b + matrix, width * W, c, ldm, c, ldm});
      first += width;
    }
}

// The output pixels of one tile, from (top, left) on, as far as the image has them.
inline void finish_wide_tile(const WideJob& job, int64_t image, int64_t top, int64_t left, const float* products) {
  const WinogradCall& call = *job.call;
  const float slope = negative_slope(call.activation);
  const int64_t rows = call.height - top < kStep ? call.height - top : kStep;
  const int64_t columns = call.width - left < kStep ? call.width - left : kStep;
  for (int64_t c = 0; c < call.outputs; c += W) {
    vf y[3][3];
    transform_back<3, transform_sums>(products + c, job.place_m, y);
    const vf bias = load(job.bias + c);
    const int64_t part = call.outputs - c;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t at = ((image * call.height + top + i) * call.width + left + j) * call.outputs + c;
        vf v = y[i][j] + bias;
        v = vmax(v, v * slope);
        if (call.residual) v += part >= W ? load(call.residual + at) : load_part(call.residual + at, part);
        if (part >= W)
          store(call.y.data[0] + at, v);
        else
          store_part(call.y.data[0] + at, part, v);
      }
  }
}

// Tasks are bands. The last row of patches of a block is the first of the next one.
inline void wide_bands(const void* pointer, Span span) {
  const WideJob& job = *static_cast<const WideJob*>(pointer);
  const StripGrid& grid = job.grid;
  float* patch = job.scratch + span.thread * job.scratch_floats;
  float* v = patch + job.patch_floats;
  float* m = v + kPatchPlaces * job.place_v;
  const int64_t blocks = (grid.down + grid.rows - 1) / grid.rows, outputs = padded(job.call->outputs);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t image = task / (grid.bands * grid.strips), band = task / grid.strips % grid.bands;
    const int64_t left = task % grid.strips * grid.columns;
    const int64_t columns = grid.across - left < grid.columns ? grid.across - left : grid.columns;
    const int64_t line = (columns + 1) * job.depth, end = blocks * (band + 1) / grid.bands;
    int64_t ready = 0;  // rows of patches
    for (int64_t block = blocks * band / grid.bands; block < end; ++block) {
      const int64_t top = block * grid.rows, rows = grid.down - top < grid.rows ? grid.down - top : grid.rows;
      transform_patches(job, image, top + ready, rows + 1 - ready, left, columns, patch, v + ready * line);
      multiply_block(job, rows, columns, v, m);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
          finish_wide_tile(job, image, (top + i) * kStep, (left + j) * kStep, m + (i * (columns + 1) + j) * outputs);
      ready = 1;
      for (int64_t place = 0; place < kPatchPlaces; ++place)
        std::memcpy(v + place * job.place_v, v + place * job.place_v + rows * line, sizeof(float) * line);
    }
  }
}

#endif
