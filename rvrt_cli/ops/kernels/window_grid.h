// SPDX-License-Identifier: Apache-2.0
// The windows of (shifted) window attention, independent of the instruction set: sizes, and where each token lies. The
// attention itself, compiled per instruction set, is in window_math.h.
#pragma once

#include "kernel.h"

namespace rvrt {

// Features (N, size, C), padded to whole windows and shifted cyclically before they are divided into a grid of windows
// of L tokens each; size, window, shift: depth (frames), height, width.
struct Windows {
  int64_t N, size[3], window[3], shift[3], grid[3], L;
  int64_t C, heads, head_width;
  int64_t count() const { return N * grid[0] * grid[1] * grid[2]; }
};

// Position biases times log2(e): (heads, query blocks, L, queries of a block), or one block of zeros for all.
struct BlockedBias {
  float* data;
  bool of_heads;
};

// Where they come from: table (rows, heads), null if there are none, and index (L, L), its row for each query and key.
struct BiasJob : Windows {
  const float* table;
  const int32_t* index;
  BlockedBias bias;
};

// Of tensor `x` (N, depth, height, width, ...) with C channels; attributes [heads, window, shift].
inline int parse_windows(const Tensors& t, int x, int64_t channels, const int32_t* attributes, Windows& w) {
  RVRT_CHECK(t.ndims[x] == 5 && channels > 0, kShape);
  w.N = t.dim(x, 0), w.C = channels, w.heads = attributes[0], w.L = 1;
  RVRT_CHECK(w.heads > 0 && w.C % w.heads == 0, kAttribute);
  w.head_width = w.C / w.heads;
  for (int i = 0; i < 3; ++i) {
    w.size[i] = t.dim(x, i + 1), w.window[i] = attributes[1 + i], w.shift[i] = attributes[4 + i];
    RVRT_CHECK(w.window[i] > 0 && w.shift[i] >= 0 && w.shift[i] < w.window[i], kAttribute);
    w.grid[i] = ceil_div(w.size[i], w.window[i]);
    w.L *= w.window[i];
  }
  return kOk;
}

// Tokens of window `w`: their rows in a tensor of tokens (-1 beyond the frame) and their region of the cyclic shift.
// Returns whether the window joins several regions.
inline bool locate_window(const Windows& windows, int64_t w, int64_t* token, int32_t* region) {
  int64_t at[3], sample = w;
  for (int i = 2; i >= 0; --i) at[i] = sample % windows.grid[i], sample /= windows.grid[i];
  int64_t n = 0;
  int64_t source[3];
  int32_t part[3];
  const auto axis = [&](int i, int64_t offset) {
    const int64_t padded = windows.grid[i] * windows.window[i], p = at[i] * windows.window[i] + offset;
    source[i] = (p + windows.shift[i]) % padded;
    part[i] = windows.shift[i] == 0 || p < padded - windows.window[i] ? 0 : p < padded - windows.shift[i] ? 1 : 2;
    return source[i] < windows.size[i];
  };
  for (int64_t d = 0; d < windows.window[0]; ++d) {
    const bool in_d = axis(0, d);
    for (int64_t y = 0; y < windows.window[1]; ++y) {
      const bool in_y = axis(1, y) && in_d;
      for (int64_t x = 0; x < windows.window[2]; ++x, ++n) {
        const bool inside = axis(2, x) && in_y;
        token[n] = inside ? ((sample * windows.size[0] + source[0]) * windows.size[1] + source[1]) * windows.size[2] +
                                source[2]
                          : -1;
        region[n] = part[0] * 9 + part[1] * 3 + part[2];
      }
    }
  }
  bool mixed = false;
  for (int64_t i = 1; i < n; ++i) mixed |= region[i] != region[0];
  return mixed;
}

}  // namespace rvrt
