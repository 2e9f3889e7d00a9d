// SPDX-License-Identifier: Apache-2.0
// Winograd's algorithm with bfloat16 operands, in inference on processors with AVX512-BF16 but no AMX. Transforms and sums
// are float32; the transformed pixels V, half as large then, and the transformed weights U are rounded as they are stored.
#ifndef RVRT_ISA

#include "bfloat16.h"
#include "winograd_grid.h"

namespace rvrt {

struct HalfWeightsJob {
  const WinogradCall* call;
  const std::vector<Chunk>* chunks;
  uint32_t* packed;
};

// A chunk's channels are multiplied in pairs; an odd last one has zero weights beside it.
inline int64_t pairs_of(const Chunk& chunk) { return (chunk.depth + 1) / 2; }

struct HalfWinogradJob {
  const WinogradCall* call;
  TileGrid grid;
  const std::vector<Chunk>* chunks;
  const uint32_t* packed;
  const float* bias;
  float* scratch;
  int64_t scratch_floats, patch_floats, place_v, place_m;  // place_v: numbers from one place of V to the next
};

}  // namespace rvrt

#define RVRT_KERNEL "half_winograd.cc"
#define RVRT_HALF_KERNEL
#include "each_isa.h"

namespace rvrt {
namespace {

constexpr int64_t kMostHalfDepth = 384;  // input channels of a chunk

}  // namespace

bool half_winograd_suits(int64_t batch, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh,
                         int64_t kw) {
  const int64_t tiles = batch * ceil_div(height, kTileEdge) * ceil_div(width, kTileEdge);
  return multiplies_pairs() && kh == 3 && kw == 3 && inputs >= 16 && outputs >= 16 && tiles >= 16;
}

int half_winograd_convolve(const WinogradCall& call) {
  HalfWinogradJob job{};
  const std::vector<Chunk> chunks = split_channels(call.x, kMostHalfDepth);
  job.call = &call;
  job.chunks = &chunks;
  job.grid = tile_grid(call.batch, call.height, call.width, RVRT_HALF_DISPATCH(kTile));
  const int64_t lanes = RVRT_HALF_DISPATCH(W), outputs = round_up(call.outputs, lanes);
  int64_t widest = 0, pairs = 0;
  for (const Chunk& chunk : chunks) {
    widest = std::max(widest, round_up(chunk.depth, lanes));
    pairs += pairs_of(chunk);
  }
  job.patch_floats = kPlaces * widest;
  job.place_v = job.grid.block * widest + 2 * kSkew;
  job.place_m = job.grid.block * outputs + kSkew;
  job.scratch_floats = round_up(job.patch_floats + kPlaces * (job.place_v / 2 + job.place_m), 16);
  const Scratch scratch(parallel_width(job.grid.blocks()) * job.scratch_floats);
  const Scratch packed(kPlaces * pairs * outputs), bias(outputs, true);
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok(), kMemory);
  const HalfWeightsJob weights{&call, &chunks, reinterpret_cast<uint32_t*>(packed.data())};
  parallel(pairs, RVRT_HALF_DISPATCH(transform_half_weights), &weights);
  if (call.bias) std::memcpy(bias.data(), call.bias, sizeof(float) * call.outputs);
  job.packed = weights.packed;
  job.bias = bias.data();
  job.scratch = scratch.data();
  return parallel_shared(job.grid.blocks(), RVRT_HALF_DISPATCH(half_winograd_blocks), &job);
}

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "half_gemm.h"
#include "winograd_math.h"
#include "winograd_tiles.h"

// The transformed weights of one input channel to W outputs, at 36 places.
inline void transform_input(const WinogradCall& call, int64_t in, int64_t first, float (&places)[kPlaces * W]) {
  double g[9][W];
  for (int lane = 0; lane < W; ++lane)
    for (int tap = 0; tap < 9; ++tap)
      g[tap][lane] = first + lane < call.outputs ? call.weight[((first + lane) * call.inputs + in) * 9 + tap] : 0.0f;
  transform_filters<3>(g, places, W);
}

// Pairs [begin, end) of input channels, into panels per chunk and place.
inline void transform_half_weights(const void* pointer, Span span) {
  const HalfWeightsJob& job = *static_cast<const HalfWeightsJob*>(pointer);
  const WinogradCall& call = *job.call;
  const int64_t all = vectors(call.outputs), columns = all * W;
  float first[kPlaces * W], second[kPlaces * W];
  int64_t at = 0;  // pairs before the chunk
  for (const Chunk& chunk : *job.chunks) {
    const int64_t pairs = pairs_of(chunk);
    const int64_t begin = at > span.begin ? at : span.begin, end = at + pairs < span.end ? at + pairs : span.end;
    uint32_t* matrices = job.packed + kPlaces * at * columns;
    for (int64_t v = 0; v < all;) {
      const int width = panel_vectors(all - v);
      for (int64_t pair = begin - at; pair < end - at; ++pair)
        for (int j = 0; j < width; ++j) {
          transform_input(call, chunk.at + 2 * pair, (v + j) * W, first);
          if (2 * pair + 1 < chunk.depth)
            transform_input(call, chunk.at + 2 * pair + 1, (v + j) * W, second);
          else
            std::memset(second, 0, sizeof(second));
          uint32_t* to = matrices + (v * pairs + pair * width + j) * W;
          for (int place = 0; place < kPlaces; ++place)
            store_pairs(to + place * pairs * columns, load(first + place * W), load(second + place * W));
        }
      v += width;
    }
    at += pairs;
  }
}

// Fetches `rows` runs of `pixels` pixels: products take so little time that loads from memory would wait.
RVRT_INLINE void prefetch_pixels(const float* first, int64_t rows, int64_t row, int64_t pixels, int64_t pixel) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t at = 0; at < pixels * pixel; at += 16) __builtin_prefetch(first + i * row + at);
}

// What the tile two to the right reads and this one does not, if it lies in the image.
RVRT_INLINE void prefetch_patch(const TileGrid& grid, const TilePlace& p, const Image& x) {
  const int64_t left = p.x + 2 * kTileEdge + 1;
  if (p.y == 0 || p.y + kTileEdge >= grid.height || left + kTileEdge > grid.width) return;
  const float* first = x.data + ((p.image * grid.height + p.y - 1) * grid.width + left) * x.stride;
  prefetch_pixels(first, kPatchEdge, grid.width * x.stride, kTileEdge, x.stride);
}

// Where the tile to the right goes, if that lies in the image.
RVRT_INLINE void prefetch_output(const WinogradCall& call, const TilePlace& p) {
  if (p.y + kTileEdge > call.height || p.x + 2 * kTileEdge > call.width) return;
  const int64_t first = ((p.image * call.height + p.y) * call.width + p.x + kTileEdge) * call.y_stride;
  prefetch_pixels(call.y.data[0] + first, kTileEdge, call.width * call.y_stride, kTileEdge, call.y_stride);
}

inline void half_winograd_blocks(const void* pointer, Span span) {
  const HalfWinogradJob& job = *static_cast<const HalfWinogradJob*>(pointer);
  const WinogradCall& call = *job.call;
  const TileGrid& grid = job.grid;
  float* patch = job.scratch + span.thread * job.scratch_floats;
  uint16_t* v = reinterpret_cast<uint16_t*>(patch + job.patch_floats);
  float* m = patch + job.patch_floats + kPlaces * job.place_v / 2;
  const int64_t all = vectors(call.outputs), columns = all * W;
  const float zeros[kPanelFloats] = {};
  for (int64_t block = span.begin; block < span.end; ++block) {
    const int64_t first = block * grid.block;
    const int64_t tiles = grid.tiles() - first < grid.block ? grid.tiles() - first : grid.block;
    bool begins = true;
    const uint32_t* matrices = job.packed;
    for (const Chunk& chunk : *job.chunks) {
      const int64_t ld = padded(chunk.depth), pairs = pairs_of(chunk);
      const Image x{chunk.data, chunk.stride, chunk.depth, nullptr, 1.0f};
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const TilePlace p = tile_place(grid, first + tile);
        prefetch_patch(grid, p, x);
        transform_tile(grid, p, x, patch, v + tile * ld, job.place_v);
      }
      for (int64_t place = 0; place < kPlaces; ++place)
        for (int64_t vector = 0; vector < all;) {
          const int width = panel_vectors(all - vector);
          float* c = m + place * job.place_m + vector * W;
          pair_product({tiles, width, pairs, v + place * job.place_v, ld,
                        matrices + (place * columns + vector * W) * pairs, begins ? zeros : c, begins ? 0 : columns, c,
                        columns});
          vector += width;
        }
      begins = false;
      matrices += kPlaces * pairs * columns;
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const TilePlace p = tile_place(grid, first + tile);
      const int64_t rows = grid.height - p.y < kTileEdge ? grid.height - p.y : kTileEdge;
      const int64_t wide = grid.width - p.x < kTileEdge ? grid.width - p.x : kTileEdge;
      prefetch_output(call, p);
      finish_tile(m + tile * columns, job.place_m,
                  {&call, job.bias, (p.image * grid.height + p.y) * grid.width + p.x, rows, wide});
    }
  }
}
#endif
