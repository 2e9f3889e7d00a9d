// SPDX-License-Identifier: Apache-2.0
// Attention to the neighborhood of the query's position in every frame of the clip (RVRT Light), forward and backward.
//
// Pixels of a row lie along the vector lanes. Rows of keys and values are transposed once to (channel, column) and kept
// in a ring of kernel_h rows; a neighbor is then the same row read at another column. Query frames are processed
// in pairs, so that each loaded key serves two queries.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>

namespace rvrt {
namespace {

struct NeighborhoodJob {
  const float *query, *kv, *dout;
  float *out, *dquery, *dkv;
  int64_t N, T, H, W, C, heads, head_width, kernel_h, kernel_w;
  int64_t bands, strips, groups;  // tiles of a frame, groups of heads; a task is a tile of one sample and group
  int64_t group_width;            // channels of a group
  float* scratch;
  int64_t scratch_floats;
  bool backward;

  int64_t keys() const { return T * kernel_h * kernel_w; }
  int64_t up() const { return kernel_h / 2; }  // a query reaches this far up and left,
  int64_t left() const { return kernel_w / 2; }
  int64_t down() const { return kernel_h - 1 - up(); }  // and this far down and right
  int64_t right() const { return kernel_w - 1 - left(); }
};

// A tile of keys and the queries to compute for it: in the backward pass all queries that reach into it.
struct NeighborhoodTile {
  int64_t sample, channel;                                 // first of the group
  int64_t top, bottom, west, east;                         // owned
  int64_t first_row, last_row, first_column, last_column;  // queries, exclusive ends

  NeighborhoodTile(const NeighborhoodJob& job, int64_t task) {
    // Groups come last: together they read whole cache lines.
    channel = task % job.groups * job.group_width, task /= job.groups;
    const int64_t strip = task % job.strips, band = task / job.strips % job.bands;
    sample = task / (job.strips * job.bands);
    top = band * job.H / job.bands, bottom = (band + 1) * job.H / job.bands;
    west = strip * job.W / job.strips, east = (strip + 1) * job.W / job.strips;
    first_row = top, last_row = bottom, first_column = west, last_column = east;
    if (!job.backward) return;
    first_row = std::max<int64_t>(top - job.down(), 0), last_row = std::min(bottom + job.up(), job.H);
    first_column = std::max<int64_t>(west - job.right(), 0), last_column = std::min(east + job.left(), job.W);
  }
};

int parse_neighborhood(const Tensors& t, int attributes, NeighborhoodJob& job) {
  RVRT_CHECK(t.ndims[0] == 5, kShape);
  job.N = t.dim(0, 0), job.T = t.dim(0, 1), job.H = t.dim(0, 2), job.W = t.dim(0, 3), job.C = t.dim(0, 4);
  RVRT_CHECK(t.has_shape(1, {job.N, job.T, job.H, job.W, 2 * job.C}), kShape);
  const int32_t* a = t.ints(attributes);
  job.heads = a[0], job.kernel_h = a[1], job.kernel_w = a[2];
  RVRT_CHECK(job.heads > 0 && job.C % job.heads == 0 && job.kernel_h > 0 && job.kernel_w > 0, kAttribute);
  job.head_width = job.C / job.heads;
  job.query = t.f(0), job.kv = t.f(1);
  return kOk;
}

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "neighborhood_attention.cc"
#include "each_isa.h"

// query (N, T, H, W, C), already scaled, key_value (N, T, H, W, 2C): keys | values, each head after head; attributes
// [heads, kernel_h, kernel_w] -> out (N, T, H, W, C). The keys of a query are the kernel_h x kernel_w neighbors of its
// position in every frame; beyond the frame key and value are zero, and that score of 0 takes part in the softmax.
RVRT_ENTRY(neighborhood_attention_forward) {
  if (const int bad = t.check(2, 3, 1)) return bad;
  rvrt::NeighborhoodJob job{};
  if (const int bad = rvrt::parse_neighborhood(t, 2, job)) return bad;
  RVRT_CHECK(t.same_shape(0, 3), rvrt::kShape);
  job.out = t.f(3);
  return RVRT_DISPATCH(neighborhood_run)(job);
}

// query, key_value, dout as out, attributes as above -> dquery, dkey_value. Sums do not depend on the number of
// threads: every thread owns tiles of dkey_value and recomputes the queries beside a tile that reach into it.
RVRT_ENTRY(neighborhood_attention_backward) {
  if (const int bad = t.check(3, 3, 2)) return bad;
  rvrt::NeighborhoodJob job{};
  if (const int bad = rvrt::parse_neighborhood(t, 3, job)) return bad;
  RVRT_CHECK(t.same_shape(0, 2) && t.same_shape(0, 4) && t.same_shape(1, 5), rvrt::kShape);
  job.dout = t.f(2), job.dquery = t.f(4), job.dkv = t.f(5), job.backward = true;
  return RVRT_DISPATCH(neighborhood_run)(job);
}

#else

#include "simd.h"

constexpr int kKeys = 6;                             // keys in a tile of scores, of two query frames
constexpr int kChannels = kRegisters == 32 ? 8 : 4;  // channels in a tile of outputs
constexpr int64_t kStrip = 128;                      // largest number of columns in a tile
constexpr int64_t kScratch = 160 << 10;  // limit of a thread's buffers [floats], so that they fit in the L2 cache

// Buffers of one thread. Column i of a row of queries stands for column first_column + i, column m of a row of keys for
// first_column - left + m: key column = query column + dx. Rows of queries have zeros on both sides, for the sums over
// dx.
struct NeighborhoodBuffers {
  int64_t lanes, margin, stride;
  float *k, *v, *dk, *dv;          // ring (kernel_h, T, channels, stride)
  float *q, *g, *result, *p, *ds;  // (T, channels, stride) three times, (T, keys, stride) twice
  const float **key, **value;      // where the keys of this row begin

  NeighborhoodBuffers(const NeighborhoodJob& job, Arena arena, int64_t* taken = nullptr) {
    const int64_t columns = ceil_div(job.W, job.strips) + (job.backward ? job.kernel_w - 1 : 0);
    lanes = round_up(columns, W);
    margin = round_up(job.kernel_w, W);
    stride = lanes + 2 * margin;
    const int64_t row = job.T * job.group_width * stride, weights = job.T * job.keys() * stride;
    arena.take(margin);  // `key` counts from a margin before the first key
    k = arena.take(job.kernel_h * row), v = arena.take(job.kernel_h * row);
    q = arena.take(row), result = arena.take(row), p = arena.take(weights);
    if (job.backward) {
      dk = arena.take(job.kernel_h * row), dv = arena.take(job.kernel_h * row);
      g = arena.take(row), ds = arena.take(weights);
    }
    key = reinterpret_cast<const float**>(arena.take(2 * job.keys()));
    value = reinterpret_cast<const float**>(arena.take(2 * job.keys()));
    if (taken) *taken = arena.taken();
  }
  int64_t slot(const NeighborhoodJob& job, int64_t row, int64_t frame) const {
    const int64_t at = (row % job.kernel_h + job.kernel_h) % job.kernel_h;
    return (at * job.T + frame) * job.group_width * stride;
  }
};

// Pixels of `pixel` floats from `from` on -> columns [begin, end) of to (channels, stride), zeros elsewhere.
static void pack_row(const NeighborhoodJob& job, const float* from, int64_t pixel, int64_t begin, int64_t end,
                     float factor, float* to, int64_t stride) {
  for (int64_t c = 0; c < job.group_width; ++c) {
    std::fill(to + c * stride, to + c * stride + begin, 0.0f);
    std::fill(to + c * stride + end, to + (c + 1) * stride, 0.0f);
  }
  transpose(from, pixel, end - begin, job.group_width, factor, to + begin, stride);
}

// Keys and values of one image row in all frames into the ring.
static void push_row(const NeighborhoodJob& job, const NeighborhoodTile& tile, const NeighborhoodBuffers& b,
                     int64_t row) {
  const int64_t west = std::max<int64_t>(tile.first_column - job.left(), 0);
  const int64_t east = std::min(tile.last_column + job.right(), job.W);
  const int64_t begin = west - (tile.first_column - job.left()),
                end = row >= 0 && row < job.H ? begin + east - west : begin;
  for (int64_t t = 0; t < job.T; ++t) {
    const int64_t pixel = ((tile.sample * job.T + t) * job.H + row) * job.W + west, slot = b.slot(job, row, t);
    const float* from = job.kv + (begin < end ? pixel * 2 * job.C + tile.channel : 0);
    pack_row(job, from, 2 * job.C, begin, end, 1.0f, b.k + slot, b.stride);
    pack_row(job, from + job.C, 2 * job.C, begin, end, 1.0f, b.v + slot, b.stride);
    if (!job.backward) continue;
    std::fill(b.dk + slot, b.dk + slot + job.group_width * b.stride, 0.0f);
    std::fill(b.dv + slot, b.dv + slot + job.group_width * b.stride, 0.0f);
  }
}

// Write out the gradients of a row that no later query reaches.
static void pop_row(const NeighborhoodJob& job, const NeighborhoodTile& tile, const NeighborhoodBuffers& b,
                    int64_t row) {
  if (row < tile.top || row >= tile.bottom) return;
  const int64_t column = tile.west - (tile.first_column - job.left());
  for (int64_t t = 0; t < job.T; ++t) {
    float* to = job.dkv + (((tile.sample * job.T + t) * job.H + row) * job.W + tile.west) * 2 * job.C + tile.channel;
    const int64_t slot = b.slot(job, row, t) + column;
    transpose(b.dk + slot, b.stride, job.group_width, tile.east - tile.west, 1 / kLog2e, to,
              2 * job.C);  // of scaled queries
    transpose(b.dv + slot, b.stride, job.group_width, tile.east - tile.west, 1.0f, to + job.C, 2 * job.C);
  }
}

// scores[t][key] = sum_c rows[t][c] * keys[key][c] for QUERIES frames, KEYS keys and one vector of columns.
template <int QUERIES, int KEYS>
RVRT_INLINE void score_tile(const NeighborhoodJob& job, int64_t stride, const float* rows, const float* const* keys,
                            int64_t column, float* scores) {
  const int64_t frame = job.group_width * stride;
  vf acc[KEYS][QUERIES] = {};
  for (int64_t at = column; at < column + job.head_width * stride; at += stride) {
    vf q[QUERIES];
    for (int t = 0; t < QUERIES; ++t) q[t] = load(rows + t * frame + at);
    for (int u = 0; u < KEYS; ++u) {
      const vf k = load(keys[u] + at);
      for (int t = 0; t < QUERIES; ++t) acc[u][t] += q[t] * k;
    }
  }
  for (int u = 0; u < KEYS; ++u)
    for (int t = 0; t < QUERIES; ++t) store(scores + (t * job.keys() + u) * stride + column, acc[u][t]);
}

template <int QUERIES>
RVRT_INLINE void score(const NeighborhoodJob& job, int64_t stride, const float* rows, const float* const* keys,
                       int64_t column, float* scores) {
  int64_t u = 0;
  for (; u + kKeys <= job.keys(); u += kKeys)
    score_tile<QUERIES, kKeys>(job, stride, rows, keys + u, column, scores + u * stride);
  for (; u + 3 <= job.keys(); u += 3) score_tile<QUERIES, 3>(job, stride, rows, keys + u, column, scores + u * stride);
  for (; u < job.keys(); ++u) score_tile<QUERIES, 1>(job, stride, rows, keys + u, column, scores + u * stride);
}

// rows[t][c] = sum_key weights[t][key] * keys[key][c], CHANNELS channels at a time.
template <int QUERIES, int CHANNELS>
RVRT_INLINE void combine_tile(const NeighborhoodJob& job, int64_t stride, const float* weights,
                              const float* const* keys, int64_t column, int64_t channel, float* rows) {
  vf acc[CHANNELS][QUERIES] = {};
  for (int64_t u = 0; u < job.keys(); ++u) {
    vf p[QUERIES];
    for (int t = 0; t < QUERIES; ++t) p[t] = load(weights + (t * job.keys() + u) * stride + column);
    const float* key = keys[u] + channel * stride + column;
    for (int c = 0; c < CHANNELS; ++c) {
      const vf k = load(key + c * stride);
      for (int t = 0; t < QUERIES; ++t) acc[c][t] += p[t] * k;
    }
  }
  for (int c = 0; c < CHANNELS; ++c)
    for (int t = 0; t < QUERIES; ++t) store(rows + (t * job.group_width + channel + c) * stride + column, acc[c][t]);
}

template <int QUERIES>
RVRT_INLINE void combine(const NeighborhoodJob& job, int64_t stride, const float* weights, const float* const* keys,
                         int64_t column, float* rows) {
  int64_t c = 0;
  for (; c + kChannels <= job.head_width; c += kChannels)
    combine_tile<QUERIES, kChannels>(job, stride, weights, keys, column, c, rows);
  for (; c < job.head_width; ++c) combine_tile<QUERIES, 1>(job, stride, weights, keys, column, c, rows);
}

// Scores times log2(e) -> weights of the softmax, one query frame, one vector of columns.
RVRT_INLINE void softmax(int64_t keys, int64_t stride, float* p) {
  vf highest = load(p), total = {};
  for (int64_t u = 1; u < keys; ++u) highest = vmax(highest, load(p + u * stride));
  for (int64_t u = 0; u < keys; ++u) {
    const vf e = exp2(load(p + u * stride) - highest);
    total += e;
    store(p + u * stride, e);
  }
  total = 1.0f / total;
  for (int64_t u = 0; u < keys; ++u) store(p + u * stride, load(p + u * stride) * total);
}

// Weights p and gradients of the weights ds -> gradients of the scores ds.
RVRT_INLINE void softmax_gradient(int64_t keys, int64_t stride, const float* p, float* ds) {
  vf delta = {};
  for (int64_t u = 0; u < keys; ++u) delta += load(p + u * stride) * load(ds + u * stride);
  for (int64_t u = 0; u < keys; ++u) store(ds + u * stride, load(p + u * stride) * (load(ds + u * stride) - delta));
}

// One row of QUERIES query frames from frame t on, of the head whose channels begin at `first` in b.q, b.g and
// b.result: b.result is the output, or the gradient of the query.
template <int QUERIES>
RVRT_INLINE void attend_row(const NeighborhoodJob& job, const NeighborhoodBuffers& b, int64_t first, int64_t t,
                            int64_t columns) {
  const int64_t row = t * job.group_width * b.stride + first, weights = t * job.keys() * b.stride;
  for (int64_t x = b.margin; x < b.margin + columns; x += W) {
    score<QUERIES>(job, b.stride, b.q + row, b.key, x, b.p + weights);
    for (int u = 0; u < QUERIES; ++u) softmax(job.keys(), b.stride, b.p + weights + u * job.keys() * b.stride + x);
    if (!job.backward) {
      combine<QUERIES>(job, b.stride, b.p + weights, b.value, x, b.result + row);
      continue;
    }
    score<QUERIES>(job, b.stride, b.g + row, b.value, x, b.ds + weights);
    for (int u = 0; u < QUERIES; ++u) {
      const int64_t at = weights + u * job.keys() * b.stride + x;
      softmax_gradient(job.keys(), b.stride, b.p + at, b.ds + at);
    }
    combine<QUERIES>(job, b.stride, b.ds + weights, b.key, x, b.result + row);
  }
}

// sums[frame][c] += sum_{t, dx} weights[t][key of frame, dx] * rows[t][c], both read dx columns to the left: FRAMES
// frames of keys, CHANNELS channels, one vector of key columns.
template <int FRAMES, int CHANNELS>
RVRT_INLINE void spread_tile(const NeighborhoodJob& job, int64_t stride, const float* weights, const float* rows,
                             int64_t column, float* sums) {
  const int64_t frame = job.group_width * stride, keys = job.kernel_h * job.kernel_w * stride;
  vf acc[FRAMES][CHANNELS];
  for (int f = 0; f < FRAMES; ++f)
    for (int c = 0; c < CHANNELS; ++c) acc[f][c] = load(sums + f * frame + c * stride);
  for (int64_t t = 0; t < job.T; ++t)
    for (int64_t dx = 0; dx < job.kernel_w; ++dx) {
      const float* w = weights + t * job.T * keys + dx * stride + column - dx;
      const float* r = rows + t * frame + column - dx;
      vf p[FRAMES];
      for (int f = 0; f < FRAMES; ++f) p[f] = load(w + f * keys);
      for (int c = 0; c < CHANNELS; ++c) {
        const vf q = load(r + c * stride);
        for (int f = 0; f < FRAMES; ++f) acc[f][c] += p[f] * q;
      }
    }
  for (int f = 0; f < FRAMES; ++f)
    for (int c = 0; c < CHANNELS; ++c) store(sums + f * frame + c * stride, acc[f][c]);
}

template <int FRAMES>
RVRT_INLINE void spread_frames(const NeighborhoodJob& job, int64_t stride, const float* weights, const float* rows,
                               int64_t column, float* sums) {
  int64_t c = 0;
  for (; c + kChannels <= job.head_width; c += kChannels)
    spread_tile<FRAMES, kChannels>(job, stride, weights, rows + c * stride, column, sums + c * stride);
  for (; c < job.head_width; ++c)
    spread_tile<FRAMES, 1>(job, stride, weights, rows + c * stride, column, sums + c * stride);
}

// Gradients of the keys (from ds and q) or of the values (from p and g) that one row of queries reaches.
RVRT_INLINE void spread_row(const NeighborhoodJob& job, const NeighborhoodBuffers& b, int64_t row, int64_t columns,
                            const float* weights, const float* rows, float* sums_of_head) {
  for (int64_t dy = 0; dy < job.kernel_h; ++dy) {
    const float* w = weights + dy * job.kernel_w * b.stride;
    const int64_t keys = job.kernel_h * job.kernel_w * b.stride;
    float* sums = sums_of_head + b.slot(job, row - job.up() + dy, 0);
    for (int64_t m = 0; m < columns + job.kernel_w - 1; m += W) {
      int64_t f = 0;
      for (; f + 2 <= job.T; f += 2)
        spread_frames<2>(job, b.stride, w + f * keys, rows, b.margin + m, sums + f * job.group_width * b.stride + m);
      for (; f < job.T; ++f)
        spread_frames<1>(job, b.stride, w + f * keys, rows, b.margin + m, sums + f * job.group_width * b.stride + m);
    }
  }
}

// Where the keys of a row of queries begin, less the margin that a column of queries counts from.
static void point_at_keys(const NeighborhoodJob& job, const NeighborhoodBuffers& b, int64_t first, int64_t row) {
  int64_t u = 0;
  for (int64_t f = 0; f < job.T; ++f)
    for (int64_t dy = 0; dy < job.kernel_h; ++dy)
      for (int64_t dx = 0; dx < job.kernel_w; ++dx, ++u) {
        const int64_t at = b.slot(job, row - job.up() + dy, f) + first + dx;
        b.key[u] = b.k + at - b.margin;
        b.value[u] = b.v + at - b.margin;
      }
}

static void attend_tile(const NeighborhoodJob& job, const NeighborhoodTile& tile, const NeighborhoodBuffers& b) {
  const int64_t columns = tile.last_column - tile.first_column, channel = tile.channel;
  const int64_t pixel_row = job.W * job.C, frame = job.group_width * b.stride;
  for (int64_t row = tile.first_row - job.up(); row < tile.first_row + job.down(); ++row) push_row(job, tile, b, row);
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    push_row(job, tile, b, row + job.down());
    const int64_t base = (tile.sample * job.T * job.H + row) * pixel_row + channel;
    for (int64_t t = 0; t < job.T; ++t) {
      const int64_t from = base + t * job.H * pixel_row + tile.first_column * job.C;
      pack_row(job, job.query + from, job.C, b.margin, b.margin + columns, kLog2e, b.q + t * frame, b.stride);
      if (job.backward)
        pack_row(job, job.dout + from, job.C, b.margin, b.margin + columns, 1.0f, b.g + t * frame, b.stride);
    }
    for (int64_t first = 0; first < frame; first += job.head_width * b.stride) {
      point_at_keys(job, b, first, row);
      int64_t t = 0;
      for (; t + 2 <= job.T; t += 2) attend_row<2>(job, b, first, t, columns);
      for (; t < job.T; ++t) attend_row<1>(job, b, first, t, columns);
      if (!job.backward) continue;
      spread_row(job, b, row, columns, b.ds, b.q + first, b.dk + first);
      spread_row(job, b, row, columns, b.p, b.g + first, b.dv + first);
    }
    if (job.backward) pop_row(job, tile, b, row - job.up());
    if (row < tile.top || row >= tile.bottom) continue;
    float* to = (job.backward ? job.dquery : job.out) + base + tile.west * job.C;
    for (int64_t t = 0; t < job.T; ++t)
      transpose(b.result + t * frame + b.margin + tile.west - tile.first_column, b.stride, job.group_width,
                tile.east - tile.west, 1.0f, to + t * job.H * pixel_row, job.C);
  }
  if (!job.backward) return;
  for (int64_t row = tile.last_row - job.up(); row < tile.last_row + job.down(); ++row) pop_row(job, tile, b, row);
}

static void neighborhood_tasks(const void* context, Span span) {
  const NeighborhoodJob& job = *static_cast<const NeighborhoodJob*>(context);
  const NeighborhoodBuffers b(job, Arena(job.scratch + span.thread * job.scratch_floats));
  for (int64_t task = span.begin; task < span.end; ++task) attend_tile(job, NeighborhoodTile(job, task), b);
}

static int neighborhood_run(NeighborhoodJob& job) {
  if (job.N * job.T * job.H * job.W * job.C == 0) return kOk;
  job.strips = ceil_div(job.W, kStrip);
  for (job.groups = 1; job.groups <= job.heads; ++job.groups) {
    job.group_width = job.C / job.groups;
    if (job.heads % job.groups) continue;
    NeighborhoodBuffers(job, Arena(nullptr), &job.scratch_floats);
    if (job.scratch_floats <= kScratch) break;
  }
  job.groups = job.C / job.group_width;
  const int64_t parts = job.N * job.strips * job.groups;
  job.bands = std::min(ceil_div(job.H, 8), ceil_div(4 * threads(), parts));
  const int64_t tasks = parts * job.bands;
  // Zeroed, because margins of the weights are read, and multiplied by margins of zeros.
  const Scratch scratch(parallel_width(tasks) * job.scratch_floats, true);
  RVRT_CHECK(scratch.ok(), kMemory);
  job.scratch = scratch.data();
  return parallel_shared(tasks, neighborhood_tasks, &job);
}

#endif
