// SPDX-License-Identifier: Apache-2.0
// Attention within a window whose products are of pairs of bfloat16 (half_attention.cc).
#pragma once

#include "bfloat16.h"
#include "window_grid.h"

namespace rvrt {

// Whether attention in inference multiplies pairs: with AMX it stays float32, for pairs are slower there.
inline bool suits_pairs(const Windows& w) { return multiplies_pairs() && w.head_width % 2 == 0; }

// The position biases as `attend_in_pairs` reads them.
int64_t pair_bias_floats(const BiasJob& job);
void block_pair_bias(const BiasJob& job);

// All heads of a window: out (L, C), rows ldo apart, from qkv (L, 3C), rows ldq apart: q | k | v, each head after head.
// Rows of qkv are read up to a whole number of blocks of queries. `region` (up to whole blocks too) is null unless the
// window joins parts that only the cyclic shift made neighbors.
struct PairAttentionCall {
  const BiasJob* job;
  const float* qkv;
  int64_t ldq;
  const int32_t* region;
  float* out;
  int64_t ldo;
};

void attend_in_pairs(const PairAttentionCall& call);

}  // namespace rvrt
