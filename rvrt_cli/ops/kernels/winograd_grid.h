// SPDX-License-Identifier: Apache-2.0
// Tiles of a 3x3 convolution by Winograd's algorithm, in float32 (winograd.cc) and with bfloat16 operands
// (half_winograd.cc). The parts compiled per instruction set are in winograd_tiles.h.
#pragma once

#include "convolution.h"

#include <algorithm>
#include <vector>

namespace rvrt {

constexpr int64_t kTileEdge = 4, kPatchEdge = 6, kPlaces = kPatchEdge * kPatchEdge;

// Input channels that are multiplied together: `depth` of one source.
struct Chunk {
  const float* data;  // first of these channels of the first pixel
  int64_t stride;     // floats from one pixel to the next
  int64_t at, depth;  // place among all input channels
};

struct TileGrid {
  int64_t batch, height, width, down, across;  // tiles per image
  int64_t block;                               // tiles that are processed together
  int64_t tiles() const { return batch * down * across; }
  int64_t blocks() const { return ceil_div(tiles(), block); }
};

constexpr int64_t kMostTiles = 32;  // of a block: rows of a product
constexpr int64_t kSkew = 16;       // floats between places, which would all map to the same cache set otherwise

// Blocks of a multiple of `rows` tiles, enough of them for all threads.
inline TileGrid tile_grid(int64_t batch, int64_t height, int64_t width, int64_t rows) {
  TileGrid grid{batch, height, width, ceil_div(height, kTileEdge), ceil_div(width, kTileEdge), 1};
  const int64_t fair = grid.tiles() / (4 * threads());
  grid.block = std::min(kMostTiles, std::max(rows, fair / rows * rows));
  return grid;
}

// Chunks of at most `most` channels.
inline std::vector<Chunk> split_channels(const Sources& x, int64_t most) {
  std::vector<Chunk> chunks;
  int64_t at = 0;
  for (int i = 0; i < x.count; ++i) {
    const int64_t parts = ceil_div(x.channels[i], most);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = x.channels[i] * part / parts, end = x.channels[i] * (part + 1) / parts;
      chunks.push_back({x.data[i] + begin, x.stride[i], at + begin, end - begin});
    }
    at += x.channels[i];
  }
  return chunks;
}

}  // namespace rvrt
