// SPDX-License-Identifier: Apache-2.0
// Where deformable attention copies the keys or values of a unit of channels, for their samples.
#pragma once

#include "kernel.h"

namespace rvrt {

// (T, 1 + H + 1, 1 + W + 1, width) with zeros around each frame, so that the four corners of a sample always lie side by
// side; padded after rows and frames, so that these do not share cache sets.
struct CompactClip {
  int64_t row_floats, frame_floats, clip_floats;

  CompactClip(int64_t frames, int64_t height, int64_t width, int64_t channels) {
    const int64_t line = 16, page = 64 * line;
    row_floats = round_up((width + 2) * channels, line);
    while (row_floats % page / line % 16 != 13) row_floats += line;
    frame_floats = (height + 2) * row_floats;
    while (frame_floats % page / line != 7) frame_floats += line;
    clip_floats = frames * frame_floats;
  }
};

}  // namespace rvrt
