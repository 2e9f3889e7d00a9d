// SPDX-License-Identifier: Apache-2.0
// Shifted-window attention (Swin), forward and backward, from qkv to the un-shifted output. Windows are read and written
// by index: no partition, roll or mask is ever materialized.
//
// Queries lie along the vector lanes, so that maxima, sums and weights of the softmax need no reduction across lanes:
// scores S'[key][query] = sum_c k[key][c] * q'[c][query], and the outputs o'[c][query] = sum_key v[key][c] *
// P'[key][query], both with broadcast k, v. Bias and queries are multiplied by log2(e) beforehand, the softmax uses
// 2^x.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>

namespace rvrt {
namespace {

struct WindowJob {
  const float *qkv, *pad, *bias, *dout;
  float *out, *dqkv, *dpad, *dbias;
  int64_t N, size[3], C;  // size, window, shift: depth (frames), height, width
  int64_t heads, head_width, window[3], shift[3], grid[3], L;
  float scale;
  // Filled by the code of each instruction set:
  float* blocked_bias;  // (heads, query blocks, L, queries of a block), times log2(e); one zero block if no bias
  float *scratch, *bias_partials, *pad_partials;  // per thread
  int64_t scratch_floats, blocked_bias_floats, partial_count;
};

int parse_window(const Tensors& t, int attributes, WindowJob& job) {
  RVRT_CHECK(t.ndims[0] == 5 && t.dim(0, 4) % 3 == 0, kShape);
  const int32_t* a = t.ints(attributes);
  job.N = t.dim(0, 0), job.C = t.dim(0, 4) / 3, job.heads = a[0], job.L = 1;
  RVRT_CHECK(job.heads > 0 && job.C % job.heads == 0, kAttribute);
  for (int i = 0; i < 3; ++i) {
    job.size[i] = t.dim(0, i + 1), job.window[i] = a[1 + i], job.shift[i] = a[4 + i];
    RVRT_CHECK(job.window[i] > 0 && job.shift[i] >= 0 && job.shift[i] < job.window[i], kAttribute);
    job.grid[i] = ceil_div(job.size[i], job.window[i]);
    job.L *= job.window[i];
  }
  job.head_width = job.C / job.heads;
  job.scale = 1.0f / __builtin_sqrtf(static_cast<float>(job.head_width));
  job.qkv = t.f(0), job.pad = t.f(1);
  RVRT_CHECK(t.has_shape(1, {3 * job.C}), kShape);
  if (a[7]) {
    RVRT_CHECK(t.has_shape(2, {job.heads, job.L, job.L}), kShape);
    job.bias = t.f(2);
  }
  return kOk;
}

// Tokens of window `w`: their rows in a tensor of tokens (-1 beyond the frame) and their region of the cyclic shift.
// Returns whether the window joins several regions.
bool locate_window(const WindowJob& job, int64_t w, int64_t* token, int32_t* region) {
  int64_t at[3], sample = w;
  for (int i = 2; i >= 0; --i) at[i] = sample % job.grid[i], sample /= job.grid[i];
  int64_t n = 0;
  int64_t source[3];
  int32_t part[3];
  const auto axis = [&](int i, int64_t offset) {
    const int64_t padded = job.grid[i] * job.window[i], p = at[i] * job.window[i] + offset;
    source[i] = (p + job.shift[i]) % padded;
    part[i] = job.shift[i] == 0 || p < padded - job.window[i] ? 0 : p < padded - job.shift[i] ? 1 : 2;
    return source[i] < job.size[i];
  };
  for (int64_t d = 0; d < job.window[0]; ++d) {
    const bool in_d = axis(0, d);
    for (int64_t y = 0; y < job.window[1]; ++y) {
      const bool in_y = axis(1, y) && in_d;
      for (int64_t x = 0; x < job.window[2]; ++x, ++n) {
        const bool inside = axis(2, x) && in_y;
        token[n] =
            inside ? ((sample * job.size[0] + source[0]) * job.size[1] + source[1]) * job.size[2] + source[2] : -1;
        region[n] = part[0] * 9 + part[1] * 3 + part[2];
      }
    }
  }
  bool mixed = false;
  for (int64_t i = 1; i < n; ++i) mixed |= region[i] != region[0];
  return mixed;
}

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "window_attention.cc"
#include "each_isa.h"

// qkv (N, D, H, W, 3C): q | k | v, each head after head, q not yet scaled by head_width^-1/2; pad (3C,): the value of
// tokens beyond the frame, up to whole windows; bias (heads, L, L) with L = wd * wh * ww, anything where has_bias is 0;
// attributes [heads, wd, wh, ww, sd, sh, sw, has_bias] -> out (N, D, H, W, C).
// Tokens attend to their window of the frame shifted cyclically by (sd, sh, sw); between parts that only the shift made
// neighbors the score is lowered by 100, as in Swin (a token beyond the frame is no exception).
RVRT_ENTRY(window_attention_forward) {
  if (const int bad = t.check(3, 8, 1)) return bad;
  rvrt::WindowJob job{};
  if (const int bad = rvrt::parse_window(t, 3, job)) return bad;
  RVRT_CHECK(t.has_shape(4, {job.N, job.size[0], job.size[1], job.size[2], job.C}), rvrt::kShape);
  job.out = t.f(4);
  return RVRT_DISPATCH(window_forward)(job);
}

// qkv, pad, bias, dout (N, D, H, W, C), attributes as above -> dqkv, dpad, dbias as qkv, pad, bias (dbias is zero where
// has_bias is 0).
RVRT_ENTRY(window_attention_backward) {
  if (const int bad = t.check(4, 8, 3)) return bad;
  rvrt::WindowJob job{};
  if (const int bad = rvrt::parse_window(t, 4, job)) return bad;
  RVRT_CHECK(t.has_shape(3, {job.N, job.size[0], job.size[1], job.size[2], job.C}), rvrt::kShape);
  RVRT_CHECK(t.same_shape(0, 5) && t.same_shape(1, 6) && t.same_shape(2, 7), rvrt::kShape);
  job.dout = t.f(3), job.dqkv = t.f(5), job.dpad = t.f(6);
  if (job.bias) {
    job.dbias = t.f(7);
  } else {
    std::fill(t.f(7), t.f(7) + t.size(7), 0.0f);
  }
  return RVRT_DISPATCH(window_backward)(job);
}

#else

#include "simd.h"

constexpr int kQueryVectors = 2;  // vectors of queries in a block; one is no faster with AVX-512, slower below
constexpr int kQueries = W * kQueryVectors;  // queries in a block
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;
constexpr int kKeys = kAccumulators == 24 ? 8 : 4;  // keys in a tile of scores

// A template argument HD of 0 stands for a head width known only at run time.
template <int HD>
RVRT_INLINE int64_t width(const WindowJob& job) {
  return HD ? HD : job.head_width;
}

constexpr int64_t row_width(int64_t head_width) { return (head_width + 3) / 4 * 4; }  // of row-major copies

// Buffers of one thread.
struct WindowBuffers {
  int64_t* token;
  int32_t* region;
  float *k, *v;              // (L, row)
  float *q, *q_t, *p, *o_t;  // (queries, row), (width, queries), (L, queries), (width, queries)
  float *g, *g_t, *ds;       // backward: (queries, row), (width, queries), (L, queries)
  float *dk, *dv;            // backward: (L, row)

  WindowBuffers(const WindowJob& job, bool backward, Arena arena, int64_t* taken = nullptr) {
    const int64_t rows = round_up(job.L, kQueries), row = row_width(job.head_width), hd = job.head_width;
    token = reinterpret_cast<int64_t*>(arena.take(2 * rows));
    region = reinterpret_cast<int32_t*>(arena.take(rows));
    k = arena.take(job.L * row), v = arena.take(job.L * row);
    q = arena.take(kQueries * row), q_t = arena.take(hd * kQueries), o_t = arena.take(hd * kQueries),
    p = arena.take(job.L * kQueries);
    if (backward) {
      g = arena.take(kQueries * row), g_t = arena.take(hd * kQueries);
      ds = arena.take(job.L * kQueries), dk = arena.take(job.L * row), dv = arena.take(job.L * row);
    }
    if (taken) *taken = arena.taken();
  }
};

// Channels [channel, channel + hd) of tokens, one row each; `part` 0, 1, 2 for q, k, v, or rows of a tensor of C
// channels.
template <int HD>
RVRT_INLINE void pack_rows(const WindowJob& job, const int64_t* token, int64_t count, int64_t head, int part,
                           float* rows) {
  const int64_t hd = width<HD>(job), row = row_width(hd), channel = part * job.C + head * hd;
  for (int64_t i = 0; i < count; ++i) {
    const float* from = (token[i] < 0 ? job.pad : job.qkv + token[i] * 3 * job.C) + channel;
    for (int64_t c = 0; c < hd; ++c) rows[i * row + c] = from[c];
    for (int64_t c = hd; c < row; ++c) rows[i * row + c] = 0;
  }
}

// The same for a block of queries, from rows of `stride` floats at `base`, with zeros for tokens that have none.
template <int HD>
RVRT_INLINE void pack_queries(const WindowJob& job, const int64_t* token, int64_t count, const float* base,
                              const float* outside, int64_t stride, float* rows) {
  const int64_t hd = width<HD>(job), row = row_width(hd);
  for (int64_t i = 0; i < kQueries; ++i) {
    const float* from = i >= count ? nullptr : token[i] < 0 ? outside : base + token[i] * stride;
    if (from)
      for (int64_t c = 0; c < hd; ++c) rows[i * row + c] = from[c];
    else
      for (int64_t c = 0; c < hd; ++c) rows[i * row + c] = 0;
    for (int64_t c = hd; c < row; ++c) rows[i * row + c] = 0;
  }
}

// rows (queries, row) -> columns (width, queries), times `factor`.
template <int HD>
RVRT_INLINE void to_lanes(const WindowJob& job, const float* rows, float factor, float* columns) {
  const int64_t hd = width<HD>(job), row = row_width(hd);
  for (int64_t i = 0; i < kQueries; i += W)
    transpose_strip<true>(rows + i * row, row, hd, factor, columns + i, kQueries);
}

// columns (width, queries) times one factor per query -> rows of `stride` floats at `base`; tokens without a row are
// left.
template <int HD>
RVRT_INLINE void from_lanes(const WindowJob& job, const float* columns, const vf* factor, const int64_t* token,
                            int64_t count, float* base, int64_t stride) {
  const int64_t hd = width<HD>(job);
  for (int n = 0; n < kQueryVectors; ++n) {
    const int64_t first = n * W, some = std::min<int64_t>(W, count - first);
    float quarters[W];
    int64_t c = 0;
    for (; c + 4 <= hd; c += 4) {
      vf r[4];
      for (int u = 0; u < 4; ++u) r[u] = load(columns + (c + u) * kQueries + first) * factor[n];
      transpose_quarters(r);
      for (int u = 0; u < 4; ++u) {
        store(quarters, r[u]);
        for (int64_t i = u; i < some; i += 4)
          if (token[first + i] >= 0) store4(base + token[first + i] * stride + c, load4(quarters + i - u));
      }
    }
    for (; HD == 0 && c < hd; ++c) {  // the widths known beforehand are multiples of 4
      store(quarters, load(columns + c * kQueries + first) * factor[n]);
      for (int64_t i = 0; i < some; ++i)
        if (token[first + i] >= 0) base[token[first + i] * stride + c] = quarters[i];
    }
  }
}

// KEYS rows of a product over channels: acc[key][queries] += rows[key][c] * columns[c][queries].
template <int HD, int KEYS>
RVRT_INLINE void product_tile(const WindowJob& job, const float* rows, const float* columns,
                              vf (&acc)[KEYS][kQueryVectors]) {
  const int64_t hd = width<HD>(job), row = row_width(hd);
  for (int64_t c = 0; c < hd; ++c) {
    vf q[kQueryVectors];
    for (int n = 0; n < kQueryVectors; ++n) q[n] = load(columns + c * kQueries + n * W);
    for (int j = 0; j < KEYS; ++j)
      for (int n = 0; n < kQueryVectors; ++n) acc[j][n] += q[n] * rows[j * row + c];
  }
}

struct Mask {
  const int32_t *keys, *queries;  // regions; keys is null where there is no mask
};

template <int HD, int KEYS>
RVRT_INLINE void score_tile(const WindowJob& job, const WindowBuffers& b, int64_t j, const float* bias, Mask mask,
                            vf (&highest)[kQueryVectors]) {
  vf acc[KEYS][kQueryVectors];
  for (int u = 0; u < KEYS; ++u)
    for (int n = 0; n < kQueryVectors; ++n) {
      acc[u][n] = load(bias + (j + u) * kQueries + n * W);
      if (mask.keys) {
        const vi other = load(mask.queries + n * W) != mask.keys[j + u];
        acc[u][n] += (vf)(other & (vi)set1(-100.0f * kLog2e));
      }
    }
  product_tile<HD, KEYS>(job, b.k + j * row_width(width<HD>(job)), b.q_t, acc);
  for (int u = 0; u < KEYS; ++u)
    for (int n = 0; n < kQueryVectors; ++n) {
      highest[n] = vmax(highest[n], acc[u][n]);
      store(b.p + (j + u) * kQueries + n * W, acc[u][n]);
    }
}

// b.p = 2^(score - highest of its query), (L, queries); `total` its sum over the keys.
template <int HD>
RVRT_INLINE void weights(const WindowJob& job, const WindowBuffers& b, const float* bias, Mask mask,
                         vf (&total)[kQueryVectors]) {
  vf highest[kQueryVectors];
  for (int n = 0; n < kQueryVectors; ++n) highest[n] = set1(-3e38f), total[n] = vf{};
  int64_t j = 0;
  for (; j + kKeys <= job.L; j += kKeys) score_tile<HD, kKeys>(job, b, j, bias, mask, highest);
  for (; j < job.L; ++j) score_tile<HD, 1>(job, b, j, bias, mask, highest);
  for (j = 0; j < job.L; ++j)
    for (int n = 0; n < kQueryVectors; ++n) {
      float* p = b.p + j * kQueries + n * W;
      const vf e = exp2(load(p) - highest[n]);
      store(p, e);
      total[n] += e;
    }
}

// columns[c][queries] = sum_key rows[key][c] * weight[key][queries], WIDTH channels at a time.
template <int HD, int WIDTH>
RVRT_INLINE void combine_tile(const WindowJob& job, const float* rows, const float* weight, float* columns) {
  const int64_t row = row_width(width<HD>(job));
  vf acc[WIDTH][kQueryVectors] = {};
  for (int64_t j = 0; j < job.L; ++j) {
    vf p[kQueryVectors];
    for (int n = 0; n < kQueryVectors; ++n) p[n] = load(weight + j * kQueries + n * W);
    for (int c = 0; c < WIDTH; ++c)
      for (int n = 0; n < kQueryVectors; ++n) acc[c][n] += p[n] * rows[j * row + c];
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
RVRT_INLINE void combine(const WindowJob& job, const float* rows, const float* weight, float* columns) {
  constexpr int kWidth = HD ? largest_divisor(HD, kAccumulators / kQueryVectors) : 4;
  const int64_t hd = width<HD>(job);
  int64_t c = 0;
  for (; c + kWidth <= hd; c += kWidth) combine_tile<HD, kWidth>(job, rows + c, weight, columns + c * kQueries);
  for (; c < hd; ++c) combine_tile<HD, 1>(job, rows + c, weight, columns + c * kQueries);
}

// sums[key][c] += sum_query weight[key][query] * rows[query][c], KEYS keys and VECTORS vectors of LANES channels at a
// time.
template <int LANES, int KEYS, int VECTORS>
RVRT_INLINE void gather_tile(const float* rows, const float* weight, float* sums, int64_t row) {
  typedef float vec __attribute__((vector_size(4 * LANES)));
  typedef float vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
  vec acc[KEYS][VECTORS];
  for (int j = 0; j < KEYS; ++j)
    for (int n = 0; n < VECTORS; ++n) acc[j][n] = *reinterpret_cast<const vec_unaligned*>(sums + j * row + n * LANES);
  for (int i = 0; i < kQueries; ++i) {
    vec r[VECTORS];
    for (int n = 0; n < VECTORS; ++n) r[n] = *reinterpret_cast<const vec_unaligned*>(rows + i * row + n * LANES);
    for (int j = 0; j < KEYS; ++j)
      for (int n = 0; n < VECTORS; ++n) acc[j][n] += r[n] * weight[j * kQueries + i];
  }
  for (int j = 0; j < KEYS; ++j)
    for (int n = 0; n < VECTORS; ++n) *reinterpret_cast<vec_unaligned*>(sums + j * row + n * LANES) = acc[j][n];
}

template <int HD>
RVRT_INLINE void gather(const WindowJob& job, const float* rows, const float* weight, float* sums) {
  constexpr int kLanes = HD && HD % W == 0 ? W : HD && HD % 8 == 0 && W > 8 ? 8 : 4;
  constexpr int kVectors = HD ? largest_divisor(row_width(HD) / kLanes, 6) : 1;
  constexpr int kRows = kAccumulators / kVectors < 8 ? kAccumulators / kVectors : 8;
  const int64_t row = row_width(width<HD>(job));
  for (int64_t c = 0; c < row; c += kLanes * kVectors) {
    int64_t j = 0;
    for (; j + kRows <= job.L; j += kRows)
      gather_tile<kLanes, kRows, kVectors>(rows + c, weight + j * kQueries, sums + j * row + c, row);
    for (; j < job.L; ++j) gather_tile<kLanes, 1, kVectors>(rows + c, weight + j * kQueries, sums + j * row + c, row);
  }
}

RVRT_INLINE const float* bias_block(const WindowJob& job, int64_t head, int64_t block) {
  const int64_t blocks = ceil_div(job.L, kQueries);
  return job.blocked_bias + (job.bias ? (head * blocks + block) * job.L * kQueries : 0);
}

template <int HD>
RVRT_INLINE void attend(const WindowJob& job, const WindowBuffers& b, bool mixed, int64_t head) {
  const int64_t hd = width<HD>(job), channel = head * hd;
  pack_rows<HD>(job, b.token, job.L, head, 1, b.k);
  pack_rows<HD>(job, b.token, job.L, head, 2, b.v);
  for (int64_t i = 0; i < job.L; i += kQueries) {
    const int64_t count = std::min<int64_t>(kQueries, job.L - i);
    pack_queries<HD>(job, b.token + i, count, job.qkv + channel, job.pad + channel, 3 * job.C, b.q);
    to_lanes<HD>(job, b.q, job.scale * kLog2e, b.q_t);
    vf total[kQueryVectors];
    weights<HD>(job, b, bias_block(job, head, i / kQueries), Mask{mixed ? b.region : nullptr, b.region + i}, total);
    combine<HD>(job, b.v, b.p, b.o_t);
    for (int n = 0; n < kQueryVectors; ++n) total[n] = 1.0f / total[n];
    from_lanes<HD>(job, b.o_t, total, b.token + i, count, job.out + channel, job.C);
  }
}

// b.ds = gradient of the scores, (L, queries), from the weights b.p, which it divides by `total`.
template <int HD>
RVRT_INLINE void score_gradient(const WindowJob& job, const WindowBuffers& b, vf (&total)[kQueryVectors],
                                float* dbias) {
  const int64_t row = row_width(width<HD>(job));
  vf delta[kQueryVectors] = {}, inverse[kQueryVectors];
  for (int n = 0; n < kQueryVectors; ++n) inverse[n] = 1.0f / total[n];
  const auto finish = [&](int64_t j, int n, vf dp) __attribute__((always_inline)) {
    float* p = b.p + j * kQueries + n * W;
    const vf normal = load(p) * inverse[n];
    store(p, normal);
    store(b.ds + j * kQueries + n * W, dp);
    delta[n] += normal * dp;
  };
  int64_t j = 0;
  for (; j + kKeys <= job.L; j += kKeys) {
    vf acc[kKeys][kQueryVectors] = {};
    product_tile<HD, kKeys>(job, b.v + j * row, b.g_t, acc);
    for (int u = 0; u < kKeys; ++u)
      for (int n = 0; n < kQueryVectors; ++n) finish(j + u, n, acc[u][n]);
  }
  for (; j < job.L; ++j) {
    vf acc[1][kQueryVectors] = {};
    product_tile<HD, 1>(job, b.v + j * row, b.g_t, acc);
    for (int n = 0; n < kQueryVectors; ++n) finish(j, n, acc[0][n]);
  }
  for (j = 0; j < job.L; ++j)
    for (int n = 0; n < kQueryVectors; ++n) {
      const int64_t at = j * kQueries + n * W;
      const vf ds = load(b.p + at) * (load(b.ds + at) - delta[n]);
      store(b.ds + at, ds);
      if (dbias) store(dbias + at, load(dbias + at) + ds);
    }
}

template <int HD>
RVRT_INLINE void attend_backward(const WindowJob& job, const WindowBuffers& b, bool mixed, int64_t head, int thread) {
  const int64_t hd = width<HD>(job), row = row_width(hd), channel = head * hd, blocks = ceil_div(job.L, kQueries);
  pack_rows<HD>(job, b.token, job.L, head, 1, b.k);
  pack_rows<HD>(job, b.token, job.L, head, 2, b.v);
  std::memset(b.dk, 0, sizeof(float) * job.L * row);
  std::memset(b.dv, 0, sizeof(float) * job.L * row);
  float* dbias = job.dbias ? job.bias_partials + (thread * job.heads + head) * blocks * job.L * kQueries : nullptr;
  for (int64_t i = 0; i < job.L; i += kQueries) {
    const int64_t count = std::min<int64_t>(kQueries, job.L - i);
    pack_queries<HD>(job, b.token + i, count, job.qkv + channel, job.pad + channel, 3 * job.C, b.q);
    pack_queries<HD>(job, b.token + i, count, job.dout + channel, nullptr, job.C, b.g);
    to_lanes<HD>(job, b.q, job.scale * kLog2e, b.q_t);
    to_lanes<HD>(job, b.g, 1.0f, b.g_t);
    vf total[kQueryVectors];
    weights<HD>(job, b, bias_block(job, head, i / kQueries), Mask{mixed ? b.region : nullptr, b.region + i}, total);
    score_gradient<HD>(job, b, total, dbias ? dbias + i / kQueries * job.L * kQueries : nullptr);
    gather<HD>(job, b.g, b.p, b.dv);
    gather<HD>(job, b.q, b.ds, b.dk);
    combine<HD>(job, b.k, b.ds, b.o_t);
    for (int n = 0; n < kQueryVectors; ++n) total[n] = set1(job.scale);
    from_lanes<HD>(job, b.o_t, total, b.token + i, count, job.dqkv + channel, 3 * job.C);
  }
  float* dpad = job.pad_partials + thread * 3 * job.C + channel;
  for (int64_t j = 0; j < job.L; ++j) {
    const float *dk = b.dk + j * row, *dv = b.dv + j * row;
    if (b.token[j] >= 0) {
      float* to = job.dqkv + b.token[j] * 3 * job.C + channel;
      for (int64_t c = 0; c < hd; ++c) to[job.C + c] = dk[c] * job.scale;
      for (int64_t c = 0; c < hd; ++c) to[2 * job.C + c] = dv[c];
    } else {  // padding: its output is discarded, so its query gets no gradient
      for (int64_t c = 0; c < hd; ++c) dpad[job.C + c] += dk[c] * job.scale;
      for (int64_t c = 0; c < hd; ++c) dpad[2 * job.C + c] += dv[c];
    }
  }
}

// Tasks are heads of windows.
template <int HD, bool BACKWARD>
void window_tasks(const void* context, Span span) {
  const WindowJob& job = *static_cast<const WindowJob*>(context);
  const WindowBuffers b(job, BACKWARD, Arena(job.scratch + span.thread * job.scratch_floats));
  int64_t located = -1;
  bool mixed = false;
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t window = task / job.heads, head = task % job.heads;
    if (window != located) mixed = locate_window(job, located = window, b.token, b.region);
    if (BACKWARD)
      attend_backward<HD>(job, b, mixed, head, span.thread);
    else
      attend<HD>(job, b, mixed, head);
  }
}

template <bool BACKWARD>
Body window_body(int64_t head_width) {
  switch (head_width) {
    case 8:
      return window_tasks<8, BACKWARD>;
    case 12:
      return window_tasks<12, BACKWARD>;
    case 16:
      return window_tasks<16, BACKWARD>;
    case 24:
      return window_tasks<24, BACKWARD>;
    case 32:
      return window_tasks<32, BACKWARD>;
    case 48:
      return window_tasks<48, BACKWARD>;
    default:
      return window_tasks<0, BACKWARD>;
  }
}

// Tasks are (head, block of queries).
void block_bias(const void* context, Span span) {
  const WindowJob& job = *static_cast<const WindowJob*>(context);
  const int64_t blocks = ceil_div(job.L, kQueries);
  for (int64_t task = span.begin; task < span.end; ++task) {
    float* to = job.blocked_bias + task * job.L * kQueries;
    const int64_t first = task % blocks * kQueries;
    const float* from = job.bias + (task / blocks * job.L + first) * job.L;
    for (int64_t j = 0; j < job.L; ++j)
      for (int64_t i = 0; i < kQueries; ++i)
        to[j * kQueries + i] = first + i < job.L ? from[i * job.L + j] * kLog2e : 0.0f;
  }
}

void unblock_bias_gradient(const void* context, Span span) {
  const WindowJob& job = *static_cast<const WindowJob*>(context);
  const int64_t blocks = ceil_div(job.L, kQueries);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t first = task % blocks * kQueries;
    float* to = job.dbias + (task / blocks * job.L + first) * job.L;
    for (int64_t j = 0; j < job.L; ++j)
      for (int64_t i = 0; i < std::min<int64_t>(kQueries, job.L - first); ++i) {
        float total = 0;
        for (int64_t p = 0; p < job.partial_count; ++p)
          total += job.bias_partials[p * job.blocked_bias_floats + (task * job.L + j) * kQueries + i];
        to[i * job.L + j] = total;
      }
  }
}

int run_windows(WindowJob& job, bool backward) {
  const int64_t windows = job.N * job.grid[0] * job.grid[1] * job.grid[2], tasks = windows * job.heads;
  const int64_t blocks = job.heads * ceil_div(job.L, kQueries), pads = 3 * job.C;
  job.partial_count = parallel_width(tasks);
  job.blocked_bias_floats = (job.bias ? blocks : 1) * job.L * kQueries;
  WindowBuffers(job, backward, Arena(nullptr), &job.scratch_floats);
  const Scratch bias(job.blocked_bias_floats, !job.bias), scratch(job.partial_count * job.scratch_floats);
  const Scratch partials(backward && job.dbias ? job.partial_count * job.blocked_bias_floats : 0, true);
  const Scratch pad_partials(backward ? job.partial_count * pads : 0, true);
  RVRT_CHECK(bias.ok() && scratch.ok() && partials.ok() && pad_partials.ok(), kMemory);
  job.blocked_bias = bias.data(), job.scratch = scratch.data();
  job.bias_partials = partials.data(), job.pad_partials = pad_partials.data();
  if (job.bias) parallel(blocks, block_bias, &job);
  if (!backward) return parallel_shared(tasks, window_body<false>(job.head_width), &job);
  parallel(tasks, window_body<true>(job.head_width), &job);
  if (job.dbias) parallel(blocks, unblock_bias_gradient, &job);
  for (int64_t c = 0; c < pads; ++c) {
    job.dpad[c] = 0;
    for (int64_t p = 0; p < job.partial_count; ++p) job.dpad[c] += job.pad_partials[p * pads + c];
  }
  return kOk;
}

int window_forward(WindowJob& job) { return run_windows(job, false); }
int window_backward(WindowJob& job) { return run_windows(job, true); }

#endif
