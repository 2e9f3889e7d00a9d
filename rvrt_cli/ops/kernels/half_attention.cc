// SPDX-License-Identifier: Apache-2.0
// Attention within a window whose products are of pairs of bfloat16, in inference on processors with AVX512-BF16 but no
// AMX. Queries, keys, values and the softmax's weights are rounded; scores, maxima and sums are float32.
//
// As in window_math.h, queries lie along the lanes. A product over channels takes two channels at a time, one over keys two
// keys: 32 bits of each lane are such a pair of one query, and 32 bits that all lanes share are the pair of a key, or of
// two keys' values in one channel.
#ifndef RVRT_ISA

#include "half_attention.h"

#include <algorithm>

#define RVRT_KERNEL "half_attention.cc"
#define RVRT_HALF_KERNEL
#include "each_isa.h"

namespace rvrt {

int64_t pair_bias_floats(const BiasJob& job) { return RVRT_HALF_DISPATCH(bias_floats)(job, job.table); }

void block_pair_bias(const BiasJob& job) {
  if (job.table) parallel(job.heads * RVRT_HALF_DISPATCH(query_blocks)(job), RVRT_HALF_DISPATCH(block_table), &job);
}

void attend_in_pairs(const PairAttentionCall& call) { RVRT_HALF_DISPATCH(pair_body)(call.job->head_width)(&call, {}); }

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "half_gemm.h"
#include "window_math.h"

struct PairBuffers {
  uint16_t* keys;           // (L, ld)
  uint32_t* values;         // (pairs of keys, ld)
  uint32_t* queries;        // (pairs of channels, queries)
  uint32_t* weights;        // (pairs of keys, queries)
  float *scores, *columns;  // (L, queries), (width, queries): queries, then outputs
  int64_t ld;

  PairBuffers(const Windows& w, Arena& arena) : ld(padded(w.C)) {
    const int64_t pairs = (w.L + 1) / 2;
    keys = reinterpret_cast<uint16_t*>(arena.take(w.L * ld / 2));
    values = reinterpret_cast<uint32_t*>(arena.take(pairs * ld));
    queries = reinterpret_cast<uint32_t*>(arena.take(w.head_width / 2 * kQueries));
    weights = reinterpret_cast<uint32_t*>(arena.take(pairs * kQueries));
    scores = arena.take(w.L * kQueries), columns = arena.take(w.head_width * kQueries);
  }
};

// Keys and values of all heads.
inline void round_window(const PairAttentionCall& call, const PairBuffers& b) {
  const int64_t L = call.job->L, C = call.job->C;
  const float* v = call.qkv + 2 * C;
  round_rows(L, C, call.qkv + C, call.ldq, b.keys, b.ld);
  for (int64_t i = 0; i < L; i += 2, v += 2 * call.ldq)
    for (int64_t c = 0; c < C; c += W)
      store_pairs(b.values + i / 2 * b.ld + c, load_row(v, c, C), i + 1 < L ? load_row(v + call.ldq, c, C) : vf{});
}

template <int HD, int KEYS>
RVRT_INLINE void score_pairs(const Windows& w, const PairBuffers& b, const uint16_t* keys, int64_t j, const float* bias,
                             Mask mask, vf (&highest)[kQueryVectors]) {
  vf acc[KEYS][kQueryVectors];
  start_scores<KEYS>(bias, mask, j, acc);
  for (int64_t c = 0; c < width<HD>(w) / 2; ++c) {
    vu q[kQueryVectors];
    for (int n = 0; n < kQueryVectors; ++n) q[n] = load_pairs(b.queries + c * kQueries + n * W);
    for (int u = 0; u < KEYS; ++u) {
      const vu key = one_pair(keys + (j + u) * b.ld + 2 * c);
      for (int n = 0; n < kQueryVectors; ++n) acc[u][n] = add_pairs(acc[u][n], key, q[n]);
    }
  }
  keep_scores<KEYS>(acc, b.scores + j * kQueries, highest);
}

// b.weights = 2^(score - highest of its query) of two keys side by side, from b.queries; `total` the sum over the keys.
template <int HD>
RVRT_INLINE void pair_weights(const Windows& w, const PairBuffers& b, const uint16_t* keys, const float* bias,
                              Mask mask, vf (&total)[kQueryVectors]) {
  vf highest[kQueryVectors];
  for (int n = 0; n < kQueryVectors; ++n) highest[n] = set1(-3e38f), total[n] = vf{};
  int64_t j = 0;
  for (; j + kKeys <= w.L; j += kKeys) score_pairs<HD, kKeys>(w, b, keys, j, bias, mask, highest);
  for (; j < w.L; ++j) score_pairs<HD, 1>(w, b, keys, j, bias, mask, highest);
  for (j = 0; j < w.L; j += 2)
    for (int n = 0; n < kQueryVectors; ++n) {
      const float* scores = b.scores + j * kQueries + n * W;
      const vf first = exp2(load(scores) - highest[n]);
      const vf second = j + 1 < w.L ? exp2(load(scores + kQueries) - highest[n]) : vf{};
      store_pairs(b.weights + j / 2 * kQueries + n * W, first, second);
      total[n] += first + second;
    }
}

// b.columns[c][queries] = sum_key value[key][c] * weight[key][queries], WIDTH channels at a time.
template <int WIDTH>
RVRT_INLINE void combine_pairs(const Windows& w, const PairBuffers& b, const uint32_t* values, float* columns) {
  vf acc[WIDTH][kQueryVectors] = {};
  for (int64_t j = 0; j < (w.L + 1) / 2; ++j) {
    vu p[kQueryVectors];
    for (int n = 0; n < kQueryVectors; ++n) p[n] = load_pairs(b.weights + j * kQueries + n * W);
    for (int c = 0; c < WIDTH; ++c) {
      const vu value = one_pair(values + j * b.ld + c);
      for (int n = 0; n < kQueryVectors; ++n) acc[c][n] = add_pairs(acc[c][n], value, p[n]);
    }
  }
  for (int c = 0; c < WIDTH; ++c)
    for (int n = 0; n < kQueryVectors; ++n) store(columns + c * kQueries + n * W, acc[c][n]);
}

// One head of one block of queries.
template <int HD>
RVRT_INLINE void attend_pairs(const PairAttentionCall& call, const PairBuffers& b, int64_t head, int64_t block) {
  const BiasJob& job = *call.job;
  const int64_t hd = width<HD>(job), channel = head * hd, first = block * kQueries;
  constexpr int kWidth = HD ? largest_divisor(HD, kAccumulators / kQueryVectors) : 2;
  to_lanes<HD>(job, call.qkv + first * call.ldq + channel, call.ldq, kLog2e / __builtin_sqrtf(static_cast<float>(hd)),
               b.columns);
  for (int64_t c = 0; c < hd; c += 2)
    for (int n = 0; n < kQueryVectors; ++n) {
      const float* column = b.columns + c * kQueries + n * W;
      store_pairs(b.queries + c / 2 * kQueries + n * W, load(column), load(column + kQueries));
    }
  vf total[kQueryVectors];
  pair_weights<HD>(job, b, b.keys + channel, bias_block(job, job.bias, head, block),
                   {call.region, call.region ? call.region + first : nullptr}, total);
  for (int64_t c = 0; c < hd; c += kWidth)
    combine_pairs<kWidth>(job, b, b.values + channel + c, b.columns + c * kQueries);
  for (int n = 0; n < kQueryVectors; ++n) total[n] = 1.0f / total[n];
  float* to = call.out + first * call.ldo + channel;
  from_lanes<HD>(job, b.columns, total, std::min<int64_t>(kQueries, job.L - first),
                 [&](int64_t query) __attribute__((always_inline)) { return to + query * call.ldo; });
}

struct PairWindow {
  template <int HD>
  static void run(const void* context, Span) {
    const PairAttentionCall& call = *static_cast<const PairAttentionCall*>(context);
    Arena sizes(nullptr);
    const PairBuffers measured(*call.job, sizes);
    Arena arena(half_scratch(sizes.taken()));
    const PairBuffers b(*call.job, arena);
    round_window(call, b);
    for (int64_t head = 0; head < call.job->heads; ++head)
      for (int64_t block = 0; block < query_blocks(*call.job); ++block) attend_pairs<HD>(call, b, head, block);
  }
};

inline Body pair_body(int64_t head_width) { return body_for_width<PairWindow>(head_width); }

#endif
