// SPDX-License-Identifier: Apache-2.0
// Attention of one head in one window, on rows that fit the cache. Include after simd.h, once per instruction set,
// inside its namespace.
//
// Queries lie along the vector lanes, so that maxima, sums and weights of the softmax need no reduction across lanes:
// scores S'[key][query] = sum_c k[key][c] * q'[c][query], and the outputs o'[c][query] = sum_key v[key][c] *
// P'[key][query], both with broadcast k, v. Bias and queries are multiplied by log2(e) beforehand, the softmax uses
// 2^x.

constexpr int kQueryVectors = 2;  // vectors of queries in a block; one is no faster with AVX-512, slower below
constexpr int kQueries = W * kQueryVectors;  // queries in a block
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;
constexpr int kKeys = kAccumulators == 24 ? 8 : 4;  // keys in a tile of scores

// A template argument HD of 0 stands for a head width known only at run time.
template <int HD>
RVRT_INLINE int64_t width(const Windows& w) {
  return HD ? HD : w.head_width;
}

// The body `Tasks::run<HD>` for a head width.
template <class Tasks>
Body body_for_width(int64_t head_width) {
  switch (head_width) {
    case 8:
      return Tasks::template run<8>;
    case 12:
      return Tasks::template run<12>;
    case 16:
      return Tasks::template run<16>;
    case 24:
      return Tasks::template run<24>;
    case 32:
      return Tasks::template run<32>;
    case 48:
      return Tasks::template run<48>;
    default:
      return Tasks::template run<0>;
  }
}

// Rows of one head's queries (those of the block at hand), keys and values, `stride` floats apart.
struct HeadRows {
  const float *q, *k, *v;
  int64_t stride;
};

// Of one block of queries.
struct QueryBuffers {
  float *q_t, *p, *o_t;  // (width, queries), (L, queries), (width, queries)

  QueryBuffers(const Windows& w, Arena& arena) {
    q_t = arena.take(w.head_width * kQueries), o_t = arena.take(w.head_width * kQueries);
    p = arena.take(w.L * kQueries);
  }
};

inline int64_t query_blocks(const Windows& w) { return ceil_div(w.L, kQueries); }

inline int64_t bias_floats(const Windows& w, bool of_heads) {
  return (of_heads ? w.heads * query_blocks(w) : 1) * w.L * kQueries;
}

RVRT_INLINE const float* bias_block(const Windows& w, const BlockedBias& bias, int64_t head, int64_t block) {
  return bias.data + (bias.of_heads ? (head * query_blocks(w) + block) * w.L * kQueries : 0);
}

// Tasks are (head, block of queries).
inline void block_table(const void* context, Span span) {
  const BiasJob& job = *static_cast<const BiasJob*>(context);
  const int64_t blocks = query_blocks(job);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t head = task / blocks, first = task % blocks * kQueries;
    float* to = job.bias.data + task * job.L * kQueries;
    const int64_t count = std::min<int64_t>(kQueries, job.L - first);
    if (count < kQueries) std::memset(to, 0, sizeof(float) * job.L * kQueries);
    const int32_t* index = job.index + first * job.L;
    for (int64_t j = 0; j < job.L; ++j)
      for (int64_t i = 0; i < count; ++i)
        to[j * kQueries + i] = job.table[index[i * job.L + j] * job.heads + head] * kLog2e;
  }
}

// rows (queries, stride) -> columns (width, queries), times `factor`.
template <int HD>
RVRT_INLINE void to_lanes(const Windows& w, const float* rows, int64_t stride, float factor, float* columns) {
  for (int64_t i = 0; i < kQueries; i += W)
    transpose_strip<true>(rows + i * stride, stride, width<HD>(w), factor, columns + i, kQueries);
}

// columns (width, queries) times one factor per query -> the rows row_of(query) of `count` queries; null: none.
template <int HD, class RowOf>
RVRT_INLINE void from_lanes(const Windows& w, const float* columns, const vf* factor, int64_t count, RowOf row_of) {
  const int64_t hd = width<HD>(w);
  for (int n = 0; n < kQueryVectors; ++n) {
    const int64_t first = n * W, some = count - first < W ? count - first : W;
    float quarters[W];
    int64_t c = 0;
    for (; c + 4 <= hd; c += 4) {
      vf r[4];
      for (int u = 0; u < 4; ++u) r[u] = load(columns + (c + u) * kQueries + first) * factor[n];
      transpose_quarters(r);
      for (int u = 0; u < 4; ++u) {
        store(quarters, r[u]);
        for (int64_t i = u; i < some; i += 4)
          if (float* row = row_of(first + i)) store4(row + c, load4(quarters + i - u));
      }
    }
    for (; HD == 0 && c < hd; ++c) {  // the widths known beforehand are multiples of 4
      store(quarters, load(columns + c * kQueries + first) * factor[n]);
      for (int64_t i = 0; i < some; ++i)
        if (float* row = row_of(first + i)) row[c] = quarters[i];
    }
  }
}

// KEYS rows of a product over channels: acc[key][queries] += rows[key][c] * columns[c][queries].
template <int HD, int KEYS>
RVRT_INLINE void product_tile(const Windows& w, const float* rows, int64_t stride, const float* columns,
                              vf (&acc)[KEYS][kQueryVectors]) {
  const int64_t hd = width<HD>(w);
  for (int64_t c = 0; c < hd; ++c) {
    vf q[kQueryVectors];
    for (int n = 0; n < kQueryVectors; ++n) q[n] = load(columns + c * kQueries + n * W);
    for (int j = 0; j < KEYS; ++j)
      for (int n = 0; n < kQueryVectors; ++n) acc[j][n] += q[n] * rows[j * stride + c];
  }
}

struct Mask {
  const int32_t *keys, *queries;  // regions; keys is null where there is no mask
};

// Scores of keys [j, j + KEYS) begin with the bias, and the mask's -100.
template <int KEYS>
RVRT_INLINE void start_scores(const float* bias, Mask mask, int64_t j, vf (&acc)[KEYS][kQueryVectors]) {
  for (int u = 0; u < KEYS; ++u)
    for (int n = 0; n < kQueryVectors; ++n) {
      acc[u][n] = load(bias + (j + u) * kQueries + n * W);
      if (mask.keys) {
        const vi other = load(mask.queries + n * W) != mask.keys[j + u];
        acc[u][n] += (vf)(other & (vi)set1(-100.0f * kLog2e));
      }
    }
}

template <int KEYS>
RVRT_INLINE void keep_scores(const vf (&acc)[KEYS][kQueryVectors], float* scores, vf (&highest)[kQueryVectors]) {
  for (int u = 0; u < KEYS; ++u)
    for (int n = 0; n < kQueryVectors; ++n) {
      highest[n] = vmax(highest[n], acc[u][n]);
      store(scores + u * kQueries + n * W, acc[u][n]);
    }
}

template <int HD, int KEYS>
RVRT_INLINE void score_tile(const Windows& w, const QueryBuffers& b, const float* keys, int64_t stride, int64_t j,
                            const float* bias, Mask mask, vf (&highest)[kQueryVectors]) {
  vf acc[KEYS][kQueryVectors];
  start_scores<KEYS>(bias, mask, j, acc);
  product_tile<HD, KEYS>(w, keys + j * stride, stride, b.q_t, acc);
  keep_scores<KEYS>(acc, b.p + j * kQueries, highest);
}

// b.p = 2^(score - highest of its query), (L, queries), from b.q_t; `total` its sum over the keys.
template <int HD>
RVRT_INLINE void weights(const Windows& w, const QueryBuffers& b, const float* keys, int64_t stride, const float* bias,
                         Mask mask, vf (&total)[kQueryVectors]) {
  vf highest[kQueryVectors];
  for (int n = 0; n < kQueryVectors; ++n) highest[n] = set1(-3e38f), total[n] = vf{};
  int64_t j = 0;
  for (; j + kKeys <= w.L; j += kKeys) score_tile<HD, kKeys>(w, b, keys, stride, j, bias, mask, highest);
  for (; j < w.L; ++j) score_tile<HD, 1>(w, b, keys, stride, j, bias, mask, highest);
  for (j = 0; j < w.L; ++j)
    for (int n = 0; n < kQueryVectors; ++n) {
      float* p = b.p + j * kQueries + n * W;
      const vf e = exp2(load(p) - highest[n]);
      store(p, e);
      total[n] += e;
    }
}

// columns[c][queries] = sum_key rows[key][c] * weight[key][queries], WIDTH channels at a time.
template <int WIDTH>
RVRT_INLINE void combine_tile(const Windows& w, const float* rows, int64_t stride, const float* weight,
                              float* columns) {
  vf acc[WIDTH][kQueryVectors] = {};
  for (int64_t j = 0; j < w.L; ++j) {
    vf p[kQueryVectors];
    for (int n = 0; n < kQueryVectors; ++n) p[n] = load(weight + j * kQueries + n * W);
    for (int c = 0; c < WIDTH; ++c)
      for (int n = 0; n < kQueryVectors; ++n) acc[c][n] += p[n] * rows[j * stride + c];
  }
  for (int c = 0; c < WIDTH; ++c)
    for (int n = 0; n < kQueryVectors; ++n) store(columns + c * kQueries + n * W, acc[c][n]);
}

constexpr int largest_divisor(int n, int limit) {
  int d = n < limit ? n : limit;
  while (d > 1 && n % d) --d;
  return d;
}

template <int HD>
RVRT_INLINE void combine(const Windows& w, const float* rows, int64_t stride, const float* weight, float* columns) {
  constexpr int kWidth = HD ? largest_divisor(HD, kAccumulators / kQueryVectors) : 4;
  const int64_t hd = width<HD>(w);
  int64_t c = 0;
  for (; c + kWidth <= hd; c += kWidth) combine_tile<kWidth>(w, rows + c, stride, weight, columns + c * kQueries);
  for (; c < hd; ++c) combine_tile<1>(w, rows + c, stride, weight, columns + c * kQueries);
}

// Attention of one block of queries, `count` of which exist, to all keys, into the rows row_of(query).
template <int HD, class RowOf>
RVRT_INLINE void attend_block(const Windows& w, const QueryBuffers& b, const HeadRows& rows, const float* bias,
                              Mask mask, int64_t count, RowOf row_of) {
  to_lanes<HD>(w, rows.q, rows.stride, kLog2e / __builtin_sqrtf(static_cast<float>(width<HD>(w))), b.q_t);
  vf total[kQueryVectors];
  weights<HD>(w, b, rows.k, rows.stride, bias, mask, total);
  combine<HD>(w, rows.v, rows.stride, b.p, b.o_t);
  for (int n = 0; n < kQueryVectors; ++n) total[n] = 1.0f / total[n];
  from_lanes<HD>(w, b.o_t, total, count, row_of);
}
