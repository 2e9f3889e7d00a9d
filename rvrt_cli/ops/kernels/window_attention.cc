// SPDX-License-Identifier: Apache-2.0
// Shifted-window attention (Swin), forward and backward, from qkv to the un-shifted output. Windows are read and written
// by index: no partition, roll or mask is ever materialized.
#ifndef RVRT_ISA

#include "window_grid.h"

#include <algorithm>

namespace rvrt {
namespace {

struct WindowJob : Windows {
  const float *qkv, *pad, *bias, *dout;
  float *out, *dqkv, *dpad, *dbias;
  // Filled by the code of each instruction set:
  BlockedBias blocked_bias;
  float *scratch, *bias_partials, *pad_partials;  // per thread
  int64_t scratch_floats, blocked_bias_floats, partial_count;
};

int parse_window(const Tensors& t, int attributes, WindowJob& job) {
  RVRT_CHECK(t.ndims[0] == 5 && t.dim(0, 4) % 3 == 0, kShape);
  const int32_t* a = t.ints(attributes);
  if (const int bad = parse_windows(t, 0, t.dim(0, 4) / 3, a, job)) return bad;
  job.qkv = t.f(0), job.pad = t.f(1);
  RVRT_CHECK(t.has_shape(1, {3 * job.C}), kShape);
  if (a[7]) {
    RVRT_CHECK(t.has_shape(2, {job.heads, job.L, job.L}), kShape);
    job.bias = t.f(2);
  }
  return kOk;
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

#include "window_math.h"

constexpr int64_t row_width(int64_t head_width) { return (head_width + 3) / 4 * 4; }  // of row-major copies

// Buffers of one thread.
struct WindowBuffers : QueryBuffers {
  int64_t* token;
  int32_t* region;
  float *q, *k, *v;     // (queries, row), (L, row), (L, row)
  float *g, *g_t, *ds;  // backward: (queries, row), (width, queries), (L, queries)
  float *dk, *dv;       // backward: (L, row)

  WindowBuffers(const WindowJob& job, bool backward, Arena arena, int64_t* taken = nullptr) : QueryBuffers(job, arena) {
    const int64_t rows = round_up(job.L, kQueries), row = row_width(job.head_width);
    token = reinterpret_cast<int64_t*>(arena.take(2 * rows));
    region = reinterpret_cast<int32_t*>(arena.take(rows));
    k = arena.take(job.L * row), v = arena.take(job.L * row), q = arena.take(kQueries * row);
    if (backward) {
      g = arena.take(kQueries * row), g_t = arena.take(job.head_width * kQueries);
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

// Where the rows of queries lie in a tensor of tokens: null for those beyond the frame.
struct TokenRows {
  float* base;
  int64_t stride;
  const int64_t* token;
  __attribute__((always_inline)) float* operator()(int64_t query) const {
    return token[query] < 0 ? nullptr : base + token[query] * stride;
  }
};

template <int HD>
RVRT_INLINE void attend(const WindowJob& job, const WindowBuffers& b, bool mixed, int64_t head) {
  const int64_t channel = head * width<HD>(job);
  pack_rows<HD>(job, b.token, job.L, head, 1, b.k);
  pack_rows<HD>(job, b.token, job.L, head, 2, b.v);
  for (int64_t i = 0; i < job.L; i += kQueries) {
    const int64_t count = std::min<int64_t>(kQueries, job.L - i);
    pack_queries<HD>(job, b.token + i, count, job.qkv + channel, job.pad + channel, 3 * job.C, b.q);
    attend_block<HD>(
        job, b, {b.q, b.k, b.v, row_width(width<HD>(job))}, bias_block(job, job.blocked_bias, head, i / kQueries),
        Mask{mixed ? b.region : nullptr, b.region + i}, count, TokenRows{job.out + channel, job.C, b.token + i});
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
    product_tile<HD, kKeys>(job, b.v + j * row, row, b.g_t, acc);
    for (int u = 0; u < kKeys; ++u)
      for (int n = 0; n < kQueryVectors; ++n) finish(j + u, n, acc[u][n]);
  }
  for (; j < job.L; ++j) {
    vf acc[1][kQueryVectors] = {};
    product_tile<HD, 1>(job, b.v + j * row, row, b.g_t, acc);
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
  const int64_t hd = width<HD>(job), row = row_width(hd), channel = head * hd;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(hd));
  pack_rows<HD>(job, b.token, job.L, head, 1, b.k);
  pack_rows<HD>(job, b.token, job.L, head, 2, b.v);
  std::memset(b.dk, 0, sizeof(float) * job.L * row);
  std::memset(b.dv, 0, sizeof(float) * job.L * row);
  float* dbias =
      job.dbias ? job.bias_partials + (thread * job.heads + head) * query_blocks(job) * job.L * kQueries : nullptr;
  for (int64_t i = 0; i < job.L; i += kQueries) {
    const int64_t count = std::min<int64_t>(kQueries, job.L - i);
    pack_queries<HD>(job, b.token + i, count, job.qkv + channel, job.pad + channel, 3 * job.C, b.q);
    pack_queries<HD>(job, b.token + i, count, job.dout + channel, nullptr, job.C, b.g);
    to_lanes<HD>(job, b.q, row, scale * kLog2e, b.q_t);
    to_lanes<HD>(job, b.g, row, 1.0f, b.g_t);
    vf total[kQueryVectors];
    weights<HD>(job, b, b.k, row, bias_block(job, job.blocked_bias, head, i / kQueries),
                Mask{mixed ? b.region : nullptr, b.region + i}, total);
    score_gradient<HD>(job, b, total, dbias ? dbias + i / kQueries * job.L * kQueries : nullptr);
    gather<HD>(job, b.g, b.p, b.dv);
    gather<HD>(job, b.q, b.ds, b.dk);
    combine<HD>(job, b.k, row, b.ds, b.o_t);
    for (int n = 0; n < kQueryVectors; ++n) total[n] = set1(scale);
    from_lanes<HD>(job, b.o_t, total, count, TokenRows{job.dqkv + channel, 3 * job.C, b.token + i});
  }
  float* dpad = job.pad_partials + thread * 3 * job.C + channel;
  for (int64_t j = 0; j < job.L; ++j) {
    const float *dk = b.dk + j * row, *dv = b.dv + j * row;
    if (b.token[j] >= 0) {
      float* to = job.dqkv + b.token[j] * 3 * job.C + channel;
      for (int64_t c = 0; c < hd; ++c) to[job.C + c] = dk[c] * scale;
      for (int64_t c = 0; c < hd; ++c) to[2 * job.C + c] = dv[c];
    } else {  // padding: its output is discarded, so its query gets no gradient
      for (int64_t c = 0; c < hd; ++c) dpad[job.C + c] += dk[c] * scale;
      for (int64_t c = 0; c < hd; ++c) dpad[2 * job.C + c] += dv[c];
    }
  }
}

// Tasks are heads of windows.
template <bool BACKWARD>
struct WindowTasks {
  template <int HD>
  static void run(const void* context, Span span) {
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
};

// Tasks are (head, block of queries).
void block_bias(const void* context, Span span) {
  const WindowJob& job = *static_cast<const WindowJob*>(context);
  const int64_t blocks = query_blocks(job);
  for (int64_t task = span.begin; task < span.end; ++task) {
    float* to = job.blocked_bias.data + task * job.L * kQueries;
    const int64_t first = task % blocks * kQueries, count = std::min<int64_t>(kQueries, job.L - first);
    const float* from = job.bias + (task / blocks * job.L + first) * job.L;
    if (count < kQueries) std::memset(to, 0, sizeof(float) * job.L * kQueries);
    transpose(from, job.L, count, job.L, kLog2e, to, kQueries);
  }
}

void unblock_bias_gradient(const void* context, Span span) {
  const WindowJob& job = *static_cast<const WindowJob*>(context);
  const int64_t blocks = query_blocks(job);
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
  const int64_t tasks = job.count() * job.heads, blocks = job.heads * query_blocks(job), pads = 3 * job.C;
  job.partial_count = parallel_width(tasks);
  job.blocked_bias_floats = bias_floats(job, job.bias);
  WindowBuffers(job, backward, Arena(nullptr), &job.scratch_floats);
  const Scratch bias(job.blocked_bias_floats, !job.bias), scratch(job.partial_count * job.scratch_floats);
  const Scratch partials(backward && job.dbias ? job.partial_count * job.blocked_bias_floats : 0, true);
  const Scratch pad_partials(backward ? job.partial_count * pads : 0, true);
  RVRT_CHECK(bias.ok() && scratch.ok() && partials.ok() && pad_partials.ok(), kMemory);
  job.blocked_bias = {bias.data(), job.bias != nullptr}, job.scratch = scratch.data();
  job.bias_partials = partials.data(), job.pad_partials = pad_partials.data();
  if (job.bias) parallel(blocks, block_bias, &job);
  if (!backward) return parallel_shared(tasks, body_for_width<WindowTasks<false> >(job.head_width), &job);
  parallel(tasks, body_for_width<WindowTasks<true> >(job.head_width), &job);
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
