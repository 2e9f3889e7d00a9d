// SPDX-License-Identifier: Apache-2.0
// Attention to bilinear samples of keys and values in bfloat16, by AVX512-BF16 or plain code; sums are float32.
#pragma once

#include "bfloat16.h"

namespace rvrt {

// Samples of a run of pixels by one unit of channels: see guided_attention.cc. A compact clip holds, for each channel, a
// pixel's value and that of the pixel on its right as a pair of bfloat16 in 32 bits, so that one product of pairs
// interpolates along a row.
struct HalfSamples {
  int64_t pixels, count;  // of pixels; of samples of each
  int64_t width, heads;   // channels, a multiple of 16; heads that divide them, 1 or 2
  const uint32_t* clip;
  int64_t down;          // from a pixel of the clip to the one below
  const int32_t* place;  // of a sample's upper left corner
  int64_t stride;        // from a pixel's places, and weights, to the next one's
};

constexpr bool half_samples_suit(int64_t width, int64_t heads) {
  return width % 16 == 0 && width <= 64 && (heads == 1 || heads == 2);
}

// scores[h * pixels * count + i * count + n] = the product of query i and sample n in the channels of head h. Weights
// are pairs for the upper and the lower corners; `scratch` holds `half_score_floats`.
struct HalfScores {
  HalfSamples samples;
  const uint32_t* weight[2];
  const float* query;
  int64_t query_stride;
  float *scores, *scratch;
};

inline int64_t half_score_floats(int64_t pixels, int64_t count, int64_t heads) {
  return heads * round_up(pixels * count, 16) * 16;
}

void half_scores(const HalfScores& job);

// out[i] = the samples' weighted sum; weight[h][row] of pixel i and sample n is at i * weight_stride + n.
struct HalfSum {
  HalfSamples samples;
  const uint32_t* weight[2][2];
  int64_t weight_stride;
  float* out;
  int64_t out_stride;
};

void half_sum(const HalfSum& job);

}  // namespace rvrt
