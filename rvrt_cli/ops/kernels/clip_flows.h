// SPDX-License-Identifier: Apache-2.0
// Optical flow between several pairs of the same frames, as lucas_kanade.cc computes it.
#pragma once

#include "kernel.h"

#include <vector>

namespace rvrt {

// Two frames by their places in a list.
struct FramePair {
  int64_t reference, neighbor;
};

// frames (H, W, 3) each -> flows (pairs, H, W, 2) px as (x, y) and matches (pairs, H, W); returns a Status.
int flows_of_pairs(const std::vector<const float*>& frames, const std::vector<FramePair>& pairs, int64_t height,
                   int64_t width, int levels, int iterations, float* flows, float* matches);

}  // namespace rvrt
