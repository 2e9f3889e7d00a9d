// SPDX-License-Identifier: Apache-2.0
// A whole Swin layer, window by window: LayerNorm, q | k | v, attention, projection, and the feed-forward part, each with
// its residual; at the end of a group of layers, the dense layer that follows it too. A window's rows stay in the cache from
// x to y, and nothing between the two is ever a tensor.
#ifndef RVRT_ISA

#include "half_attention.h"
#include "row_blocks.h"

#include <algorithm>

namespace rvrt {
namespace {

struct SwinJob : BiasJob {
  const float *x, *norm1_g, *norm1_b, *norm2_g, *norm2_b;
  PackedDense qkv, proj, fc1, fc2;
  PackedDense last;       // the dense layer after this one; without inputs if there is none
  const float* residual;  // of that layer
  bool in_pairs;          // whether attention multiplies pairs of bfloat16
  float *scratch, *y;     // scratch per thread
  int64_t scratch_floats;
};

// Where the inputs of a call are, see swin_layer_forward: with `more` tensors before the index.
struct SwinInputs {
  int more;
  int index() const { return 14 + more; }
  int attributes() const { return 15 + more; }
  int y() const { return 16 + more; }
};

int parse_table(const Tensors& t, const SwinInputs& at, SwinJob& job) {
  if (!t.ints(at.attributes())[7]) return kOk;
  RVRT_CHECK(t.ndims[13] == 2 && t.dim(13, 1) == job.heads && t.has_shape(at.index(), {job.L, job.L}), kShape);
  job.table = t.f(13), job.index = t.ints(at.index());
  for (int64_t i = 0; i < job.L * job.L; ++i) RVRT_CHECK(job.index[i] >= 0 && job.index[i] < t.dim(13, 0), kAttribute);
  return kOk;
}

int parse_swin(const Tensors& t, const SwinInputs& at, SwinJob& job) {
  RVRT_CHECK(t.ndims[0] == 5 && t.ndims[9] == 2, kShape);
  const int64_t c = t.dim(0, 4), hidden = t.dim(9, 0);
  if (const int bad = parse_windows(t, 0, c, t.ints(at.attributes()), job)) return bad;
  for (int i : {1, 2, 6, 7, 8, 12}) RVRT_CHECK(t.has_shape(i, {c}), kShape);
  RVRT_CHECK(t.has_shape(3, {3 * c, c}) && t.has_shape(4, {3 * c}) && t.has_shape(5, {c, c}), kShape);
  RVRT_CHECK(hidden > 0 && t.has_shape(9, {hidden, c}) && t.has_shape(10, {hidden}), kShape);
  RVRT_CHECK(t.has_shape(11, {c, hidden}) && t.same_shape(at.y(), 0), kShape);
  RVRT_CHECK(!at.more || (t.has_shape(14, {c, c}) && t.has_shape(15, {c}) && t.same_shape(16, 0)), kShape);
  job.x = t.f(0), job.y = t.f(at.y());
  job.norm1_g = t.f(1), job.norm1_b = t.f(2), job.norm2_g = t.f(7), job.norm2_b = t.f(8);
  return parse_table(t, at, job);
}

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "swin_layer.cc"
#include "each_isa.h"
#include "packed_weights.h"

namespace rvrt {
namespace {

int run_swin(const Tensors& t, const SwinInputs& at) {
  if (const int bad = t.check(14 + at.more, 8, 1, 1)) return bad;
  SwinJob job{};
  if (const int bad = parse_swin(t, at, job)) return bad;
  const int64_t c = job.C, hidden = t.dim(9, 0);
  const DenseWeights qkv(t.f(3), t.f(4), c, 3 * c, operands()), proj(t.f(5), t.f(6), c, c, operands());
  const DenseWeights fc1(t.f(9), t.f(10), c, hidden, operands());
  const DenseWeights fc2(t.f(11), t.f(12), hidden, c, operands());
  const DenseWeights last(at.more ? t.f(14) : nullptr, at.more ? t.f(15) : nullptr, at.more ? c : 0, c, operands());
  job.in_pairs = suits_pairs(job);
  const Scratch bias(job.in_pairs ? pair_bias_floats(job) : RVRT_DISPATCH(bias_floats)(job, job.table), !job.table);
  job.qkv = qkv.view(), job.proj = proj.view(), job.fc1 = fc1.view(), job.fc2 = fc2.view();
  job.last = last.view(), job.residual = at.more ? t.f(16) : nullptr;
  job.scratch_floats = RVRT_DISPATCH(swin_scratch_floats)(job);
  const Scratch scratch(parallel_width(job.count()) * job.scratch_floats);
  RVRT_CHECK(qkv.ok() && proj.ok() && fc1.ok() && fc2.ok() && last.ok() && bias.ok() && scratch.ok(), kMemory);
  job.bias = {bias.data(), job.table != nullptr}, job.scratch = scratch.data();
  if (job.in_pairs)
    block_pair_bias(job);
  else if (job.table)
    parallel(job.heads * RVRT_DISPATCH(query_blocks)(job), RVRT_DISPATCH(block_table), static_cast<BiasJob*>(&job));
  return parallel_shared(job.count(), RVRT_DISPATCH(swin_body)(job.head_width), &job);
}

}  // namespace
}  // namespace rvrt

// Inputs: x (N, D, H, W, C); LayerNorm gamma (C), beta (C); q | k | v weight (3C, C), bias (3C); projection weight (C, C),
//   bias (C); LayerNorm gamma (C), beta (C); feed-forward weight (hidden, C), bias (hidden), weight (C, hidden), bias (C);
//   table (rows, heads) of position biases and int32 index (L, L), its row for each query and key of a window, anything
//   where has_table is 0; attributes int32 [heads, wd, wh, ww, sd, sh, sw, has_table]: windows (wd, wh, ww) of the frame
//   shifted cyclically by (sd, sh, sw), as in window_attention.cc. The frame is padded with zeros after its LayerNorm.
// Output: y (N, D, H, W, C).
RVRT_ENTRY(swin_layer_forward) { return rvrt::run_swin(t, {0}); }

// The same and a dense layer, y = residual + weight swin(x) + bias.
// Inputs: as there up to the table; weight (C, C); bias (C); residual (N, D, H, W, C); index and attributes as there.
RVRT_ENTRY(swin_layer_onto_forward) { return rvrt::run_swin(t, {3}); }

#else

#include "simd.h"
#include "gemm.h"
#include "row_math.h"
#include "window_math.h"

// Buffers of one thread, for the rows of one window.
struct SwinBuffers : QueryBuffers {
  int64_t* token;
  int32_t* region;
  RowStatistics* statistics;
  float* rows;    // (L, C): x, then with attention added, then y
  float* normal;  // (L, ldn): normalized rows, and what attention makes of them
  float* wide;    // (whole blocks of queries, ldw): q | k | v, and (L, ldw): hidden features
  float* sums;    // of a panel
  int64_t ldn, ldw;

  SwinBuffers(const SwinJob& job, Arena& arena) : QueryBuffers(job, arena) {
    const int64_t whole = round_up(job.L, kQueries);
    token = reinterpret_cast<int64_t*>(arena.take(2 * job.L));
    region = reinterpret_cast<int32_t*>(arena.take(whole));
    statistics = reinterpret_cast<RowStatistics*>(arena.take(2 * job.L));
    // An odd number of cache lines: rows of one head's keys must not compete for a few sets of the cache.
    ldw = (ceil_div(std::max(3 * job.C, job.fc1.outputs), 16) | 1) * 16, ldn = padded(job.C);
    rows = arena.take(job.L * job.C), normal = arena.take(job.L * ldn);
    wide = arena.take(whole * ldw), sums = arena.take(job.L * kPanelFloats);
  }
};

inline int64_t swin_scratch_floats(const SwinJob& job) {
  Arena arena(nullptr);
  const SwinBuffers buffers(job, arena);
  return arena.taken();
}

// b.normal = attention among the window's q | k | v, the first 3C columns of b.wide.
template <int HD>
RVRT_INLINE void attend_window(const SwinJob& job, const SwinBuffers& b, bool mixed) {
  if (job.in_pairs) return attend_in_pairs({&job, b.wide, b.ldw, mixed ? b.region : nullptr, b.normal, b.ldn});
  for (int64_t head = 0; head < job.heads; ++head) {
    const int64_t channel = head * width<HD>(job);
    for (int64_t i = 0; i < job.L; i += kQueries) {
      float* to = b.normal + i * b.ldn + channel;
      const float* q = b.wide + i * b.ldw + channel;
      const HeadRows rows{q, b.wide + job.C + channel, b.wide + 2 * job.C + channel, b.ldw};
      attend_block<HD>(job, b, rows, bias_block(job, job.bias, head, i / kQueries),
                       {mixed ? b.region : nullptr, b.region + i}, std::min<int64_t>(kQueries, job.L - i),
                       [&](int64_t query) __attribute__((always_inline)) { return to + query * b.ldn; });
    }
  }
}

template <int HD>
RVRT_INLINE void swin_window(const SwinJob& job, const SwinBuffers& b, bool mixed) {
  const int64_t L = job.L, C = job.C, row = sizeof(float) * C;
  for (int64_t i = 0; i < L; ++i) {
    if (b.token[i] >= 0)
      std::memcpy(b.rows + i * C, job.x + b.token[i] * C, row);
    else
      std::memset(b.rows + i * C, 0, row);
  }
  row_statistics(L, C, b.rows, b.statistics);
  normalize(L, C, b.rows, b.statistics, job.norm1_g, job.norm1_b, b.normal, b.ldn);
  for (int64_t i = 0; i < L; ++i)  // the frame is padded after its LayerNorm
    if (b.token[i] < 0) std::memset(b.normal + i * b.ldn, 0, row);
  dense_rows(L, job.qkv, b.normal, b.ldn, b.sums, {kNone, nullptr, 0, b.wide, b.ldw});
  for (int64_t i = L; i % kQueries; ++i) std::memset(b.wide + i * b.ldw, 0, row);  // queries that do not exist
  attend_window<HD>(job, b, mixed);
  dense_rows(L, job.proj, b.normal, b.ldn, b.sums, {kNone, b.rows, C, b.rows, C});
  row_statistics(L, C, b.rows, b.statistics);
  normalize(L, C, b.rows, b.statistics, job.norm2_g, job.norm2_b, b.normal, b.ldn);
  dense_rows(L, job.fc1, b.normal, b.ldn, b.sums, {kGelu, nullptr, 0, b.wide, b.ldw});
  dense_rows(L, job.fc2, b.wide, b.ldw, b.sums, {kNone, b.rows, C, b.rows, C});
  if (!job.residual) {
    for (int64_t i = 0; i < L; ++i)
      if (b.token[i] >= 0) std::memcpy(job.y + b.token[i] * C, b.rows + i * C, row);
    return;
  }
  dense_rows(L, job.last, b.rows, C, b.sums, {kNone, nullptr, 0, b.normal, b.ldn});
  for (int64_t i = 0; i < L; ++i)
    if (b.token[i] >= 0) {
      const float* residual = job.residual + b.token[i] * C;
      float* y = job.y + b.token[i] * C;
      for (int64_t j = 0; j < C; j += W)
        store_row(y, j, C, load_row(residual, j, C) + load_row(b.normal + i * b.ldn, j, C));
    }
}

// Tasks are windows.
struct SwinTasks {
  template <int HD>
  static void run(const void* context, Span span) {
    const SwinJob& job = *static_cast<const SwinJob*>(context);
    Arena arena(job.scratch + span.thread * job.scratch_floats);
    const SwinBuffers b(job, arena);
    for (int64_t window = span.begin; window < span.end; ++window) {
      const bool mixed = locate_window(job, window, b.token, b.region);
      swin_window<HD>(job, b, mixed);
    }
  }
};

inline Body swin_body(int64_t head_width) { return body_for_width<SwinTasks>(head_width); }

#endif
