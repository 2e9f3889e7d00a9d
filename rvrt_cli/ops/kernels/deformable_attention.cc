// SPDX-License-Identifier: Apache-2.0
// Guided deformable attention, forward and backward: bilinear samples, scores, softmax and weighted sum of one pixel at
// a time; no sampled keys or values are ever stored.
//
// Corners and weights of a group's samples are computed with samples along the vector lanes, the sampled values with
// channels along the lanes. Gradients need only the products of the query (and of the output's gradient) with each of
// the four corners: score, offset gradient and scatter weights follow from these.
//
// Keys and values are first copied into a compact clip for each unit of channels (see DeformJob): samples from
// tensors with many channels would map to few cache sets, and those from rows of 2^n pixels all to the same ones.
#ifndef RVRT_ISA

#include "compact_clip.h"

#include <algorithm>

namespace rvrt {
namespace {

struct DeformJob {
  const float *query, *kv, *offset, *offset_end, *dout;
  float *out, *dquery, *dkv, *doffset;
  int64_t N, T, H, W, C, G, K, heads, kernel_h, kernel_w;
  // Heads and groups of keys divide the channels into `units` that share neither: within a unit either one group serves
  // several heads or one head has several groups. A segment belongs to one head and one group.
  int64_t units, unit_heads, unit_groups, segments, segment;
  int64_t width, row_floats, frame_floats, clip_floats;
  float *k, *v, *dk, *dv;  // clips: of the units of one sample (forward), of each thread (backward)
  int64_t sample;          // being computed (forward)
  float* scratch;
  int64_t scratch_floats;

  int64_t samples() const { return T * K; }
  int64_t pixel(int64_t n, int64_t t, int64_t y, int64_t x) const { return ((n * T + t) * H + y) * W + x; }
};

int parse_deform(const Tensors& t, int attributes, DeformJob& job) {
  RVRT_CHECK(t.ndims[0] == 5 && t.ndims[2] == 8, kShape);
  job.N = t.dim(0, 0), job.T = t.dim(0, 1), job.H = t.dim(0, 2), job.W = t.dim(0, 3), job.C = t.dim(0, 4);
  job.G = t.dim(2, 5), job.K = t.dim(2, 6);
  RVRT_CHECK(t.has_shape(1, {job.N, job.T, job.H, job.W, 2 * job.C}), kShape);
  RVRT_CHECK(t.has_shape(2, {job.N, job.T, job.H, job.W, job.T, job.G, job.K, 2}), kShape);
  const int32_t* a = t.ints(attributes);
  job.heads = a[0], job.kernel_h = a[1], job.kernel_w = a[2];
  const int64_t groups = job.G / 2;
  RVRT_CHECK(job.heads > 0 && groups > 0 && job.G % 2 == 0 && job.kernel_h > 0 && job.kernel_w > 0, kAttribute);
  RVRT_CHECK(job.kernel_h * job.kernel_w == job.K, kAttribute);
  RVRT_CHECK(job.heads % groups == 0 || groups % job.heads == 0, kAttribute);
  job.units = std::min(job.heads, groups);
  job.unit_heads = job.heads / job.units, job.unit_groups = groups / job.units;
  job.segments = std::max(job.unit_heads, job.unit_groups);
  RVRT_CHECK(job.C % (job.units * job.segments) == 0, kAttribute);
  job.segment = job.C / (job.units * job.segments), job.width = job.C / job.units;
  const CompactClip clip(job.T, job.H, job.W, job.width);
  job.row_floats = clip.row_floats, job.frame_floats = clip.frame_floats, job.clip_floats = clip.clip_floats;
  RVRT_CHECK(job.clip_floats < (int64_t{1} << 31) && job.H < (1 << 24) && job.W < (1 << 24), kShape);
  job.query = t.f(0), job.kv = t.f(1), job.offset = t.f(2), job.offset_end = job.offset + t.size(2);
  return kOk;
}

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "deformable_attention.cc"
#include "each_isa.h"

// query (N, T, H, W, C), already scaled; key_value (N, T, H, W, 2C): keys | values, each head after head; offset
// (N, T, H, W, T, G, K, 2) px as (y, x), flow included; attributes [heads, kernel_h, kernel_w] with K =
// kernel_h * kernel_w -> out (N, T, H, W, C). The G groups split the 2C channels: the first G/2 belong to the keys, the
// rest to the values; heads is a multiple or a divisor of G/2. For query frame b, field n of the offsets reads frame
// (n + b) % T at
// (y + k / kernel_w - kernel_h / 2 + offset_y, x + k % kernel_w - kernel_w / 2 + offset_x), bilinearly, zero beyond the
// frame; that score of 0 takes part in the softmax.
RVRT_ENTRY(deformable_attention_forward) {
  if (const int bad = t.check(3, 3, 1)) return bad;
  rvrt::DeformJob job{};
  if (const int bad = rvrt::parse_deform(t, 3, job)) return bad;
  RVRT_CHECK(t.same_shape(0, 4), rvrt::kShape);
  job.out = t.f(4);
  return RVRT_DISPATCH(deform_forward)(job);
}

// query, key_value, offset, dout as out, attributes as above -> dquery, dkey_value, doffset. Where a sample lies
// exactly on a row or column of pixels, the offset's gradient is that from below or right. A thread owns units of
// channels (see DeformJob) of a sample: sums do not depend on the number of threads, and at most N * min(heads, G/2)
// threads work.
RVRT_ENTRY(deformable_attention_backward) {
  if (const int bad = t.check(4, 3, 3)) return bad;
  rvrt::DeformJob job{};
  if (const int bad = rvrt::parse_deform(t, 4, job)) return bad;
  RVRT_CHECK(t.same_shape(0, 3), rvrt::kShape);
  RVRT_CHECK(t.same_shape(0, 5) && t.same_shape(1, 6) && t.same_shape(2, 7), rvrt::kShape);
  job.dout = t.f(3), job.dquery = t.f(5), job.dkv = t.f(6), job.doffset = t.f(7);
  return RVRT_DISPATCH(deform_backward)(job);
}

#else

#include "simd.h"
#include "sampled_attention.h"

// A tile of queries: pixels sampled by neighboring queries stay in the cache.
constexpr int64_t kTileHeight = 8, kTileWidth = 32;
constexpr int64_t kAhead = 3;  // prefetch distance [pixels]
constexpr int64_t kRun = 8;    // pixels whose steps alternate, so that one need not wait for the other: see attend_run

// Corners of one group's samples at one pixel, `length` (samples rounded up) long: corner i is (y i / 2, x i % 2). The
// place is where the channels of corner 0 begin in the compact clip; a corner outside the frame has no weight.
struct Corners {
  int32_t* place;
  float* weight[4];
  float *wy[2], *wx[2], *sy[2], *sx[2];  // weights per axis and their derivatives
};

struct DeformBuffers {
  int64_t length;
  float *base_y, *base_x;        // kernel points of all samples
  float *oy, *ox, *pairs;        // their offsets: gradients; as they are stored, (y, x)
  int32_t* frame;                // where each sample's frame begins in the compact clip
  Corners corners[2];            // of keys, of values; (unit_groups, length) each
  float *p, *ds;                 // (unit_heads, length)
  float* dots[2];                // (segments, 4, length)
  float* mixed[4];               // weight of a corner times weight of the sample
  float* partial;                // (length, 16), or (length, 2, 16) for two heads
  Corners run_corners[kRun][2];  // of two heads with one group, at the pixels of a run
  float* run_p[kRun];

  DeformBuffers(const DeformJob& job, Arena arena, int64_t* taken = nullptr) {
    length = round_up(job.samples(), W < 4 ? 4 : W);
    const auto floats = [&](int64_t n) { return arena.take(n * length); };
    base_y = floats(1), base_x = floats(1), oy = floats(1), ox = floats(1), pairs = floats(3);
    frame = reinterpret_cast<int32_t*>(floats(1));
    for (int i = 0; i < kRun; ++i) {
      run_p[i] = floats(2);
      for (Corners& c : run_corners[i]) {
        c.place = reinterpret_cast<int32_t*>(floats(1));
        for (float*& weight : c.weight) weight = floats(1);
      }
    }
    for (Corners& c : corners) {
      c.place = reinterpret_cast<int32_t*>(floats(job.unit_groups));
      for (float*& weight : c.weight) weight = floats(job.unit_groups);
      for (int i = 0; i < 2; ++i) {
        c.wy[i] = floats(job.unit_groups), c.wx[i] = floats(job.unit_groups);
        c.sy[i] = floats(job.unit_groups), c.sx[i] = floats(job.unit_groups);
      }
    }
    p = floats(job.unit_heads), ds = floats(job.unit_heads);
    dots[0] = floats(4 * job.segments), dots[1] = floats(4 * job.segments);
    for (float*& m : mixed) m = floats(1);
    partial = floats(32);
    if (taken) *taken = arena.taken();
  }
};

// Offsets, queries and outputs of a unit lie far apart from pixel to pixel: prefetch them.
RVRT_INLINE void prefetch(const float* p, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(p + i);
}

RVRT_INLINE void prefetch_for_write(const float* p, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(p + i, 1);
}

// Corners of the samples of groups [group, group + unit_groups) at (row, column); `offset` is the pixel's (T, G, K, 2).
template <bool SLOPES>
static void find_corners(const DeformJob& job, const DeformBuffers& b, const float* offset, int64_t group, int64_t row,
                         int64_t column, Corners c) {
  const int32_t row_floats = static_cast<int32_t>(job.row_floats), width = static_cast<int32_t>(job.width);
  for (int64_t g = 0; g < job.unit_groups; ++g) {
    const int64_t numbers = 2 * job.K;
    for (int64_t t = 0; t < job.T; ++t) {
      const float* from = offset + (t * job.G + group + g) * numbers;
      float* to = b.pairs + t * numbers;
      if (from + round_up(numbers, W) <= job.offset_end)  // what whole vectors store in excess, the next frame replaces
        for (int64_t i = 0; i < numbers; i += W) store(to + i, load(from + i));
      else
        std::copy(from, from + numbers, to);
    }
    for (int64_t n = 0; n < b.length; n += W) {
      vf oy, ox, wy[2], wx[2], sy[2], sx[2];
      split_pairs(b.pairs + 2 * n, oy, ox);
      const vi y = axis(load(b.base_y + n) + static_cast<float>(row) + oy, job.H, wy, sy);
      const vi x = axis(load(b.base_x + n) + static_cast<float>(column) + ox, job.W, wx, sx);
      const int64_t at = g * b.length + n;
      store(c.place + at, load(b.frame + n) + y * row_floats + x * width);
      for (int i = 0; i < 4; ++i) store(c.weight[i] + at, wy[i >> 1] * wx[i & 1]);
      for (int i = 0; SLOPES && i < 2; ++i) {  // only the gradient of the offsets needs these
        store(c.wy[i] + at, wy[i]), store(c.wx[i] + at, wx[i]);
        store(c.sy[i] + at, sy[i]), store(c.sx[i] + at, sx[i]);
      }
    }
  }
}

RVRT_INLINE Samples samples_of(const DeformJob& job, const Corners& c, int64_t length, int64_t first) {
  return {job.samples(), length, c.place + first, first, job.width, job.row_floats};
}

// dots[i][n] = sum_c row[c] * base[place[n] + corner(i)][c]; of single channels, added. Places and dots beyond the samples
// up to the next multiple of four are read and written.
template <int LANES, int VECTORS>
RVRT_INLINE void dots_chunk(const Samples& s, const float* base, const float* row, bool add, float* dots) {
  using L = Lanes<LANES>;
  typename L::vec q[VECTORS];
  for (int v = 0; v < VECTORS; ++v) q[v] = L::get(row + v * LANES);
  if constexpr (LANES < 4) {
    for (int i = 0; i < 4; ++i)
      for (int64_t n = 0; n < s.count; ++n) {
        const auto product = q[0] * L::get(base + s.place[n] + s.corner(i));
        dots[i * s.length + n] = (add ? dots[i * s.length + n] : 0.0f) + product[0];
      }
  } else {
    for (int64_t n = 0; n < s.count; n += 4) {
      typename L::vec sum[16];  // of four samples, corner after corner
#pragma GCC unroll 16
      for (int k = 0; k < 16; ++k) {
        const float* p = base + s.place[n + k % 4] + s.corner(k / 4);
        sum[k] = q[0] * L::get(p);
        for (int v = 1; v < VECTORS; ++v) sum[k] += q[v] * L::get(p + v * LANES);
      }
      if (!add) {
        sum_lanes<LANES>(sum, dots + n, s.length);
        continue;
      }
      float sums[16];
      sum_lanes<LANES>(sum, sums, 4);
      for (int i = 0; i < 4; ++i) store4(dots + i * s.length + n, load4(dots + i * s.length + n) + load4(sums + 4 * i));
    }
  }
}

// base[place[n] + corner(i)][c] += mixed[i][n] * row[c].
template <int LANES, int VECTORS>
RVRT_INLINE void scatter_chunk(const Samples& s, float* base, const float* const* mixed, const float* row) {
  using L = Lanes<LANES>;
  typename L::vec q[VECTORS];
  for (int v = 0; v < VECTORS; ++v) q[v] = L::get(row + v * LANES);
  for (int64_t n = 0; n < s.count; ++n)
    for (int i = 0; i < 4; ++i) {
      float* p = base + s.place[n] + s.corner(i);
      for (int v = 0; v < VECTORS; ++v) L::put(p + v * LANES, L::get(p + v * LANES) + q[v] * mixed[i][n]);
    }
}

struct DotsChunk {
  const Samples& s;
  const float *base, *row;
  float* dots;
  template <int LANES, int VECTORS>
  void run(int64_t c) const {
    dots_chunk<LANES, VECTORS>(s, base + c, row + c, c > 0, dots);
  }
};

struct ScatterChunk {
  const Samples& s;
  float* base;
  const float *const *mixed, *row;
  template <int LANES, int VECTORS>
  void run(int64_t c) const {
    scatter_chunk<LANES, VECTORS>(s, base + c, mixed, row + c);
  }
};

RVRT_INLINE void softmax_gradient(int64_t length, const float* p, float* ds) {
  vf total = {};
  for (int64_t n = 0; n < length; n += W) total += load(p + n) * load(ds + n);
  const float delta = sum(total);
  for (int64_t n = 0; n < length; n += W) store(ds + n, load(p + n) * (load(ds + n) - delta));
}

// mixed[i] = weight[i] * factor, over the samples of a group.
RVRT_INLINE void mix(const DeformBuffers& b, const Corners& c, int64_t first, const float* factor) {
  for (int64_t n = 0; n < b.length; n += W)
    for (int i = 0; i < 4; ++i) store(b.mixed[i] + n, load(c.weight[i] + first + n) * load(factor + n));
}

// sums[n] += sum_i weight[i][n] * dots[i][n].
RVRT_INLINE void weigh(const DeformBuffers& b, const Corners& c, int64_t first, const float* dots, float* sums) {
  for (int64_t n = 0; n < b.length; n += W) {
    vf total = load(sums + n);
    for (int i = 0; i < 4; ++i) total += load(c.weight[i] + first + n) * load(dots + i * b.length + n);
    store(sums + n, total);
  }
}

// The part of one segment in the gradient of its group's offsets, into oy, ox: factor * slopes * dots.
RVRT_INLINE void slope(const DeformBuffers& b, const Corners& c, int64_t first, const float* dots, const float* factor,
                       bool add) {
  for (int64_t n = 0; n < b.length; n += W) {
    const int64_t at = first + n;
    const vf d0 = load(dots + n), d1 = load(dots + b.length + n);
    const vf d2 = load(dots + 2 * b.length + n), d3 = load(dots + 3 * b.length + n);
    const vf wy0 = load(c.wy[0] + at), wy1 = load(c.wy[1] + at), wx0 = load(c.wx[0] + at), wx1 = load(c.wx[1] + at);
    const vf along_y = load(c.sy[0] + at) * (wx0 * d0 + wx1 * d1) + load(c.sy[1] + at) * (wx0 * d2 + wx1 * d3);
    const vf along_x = load(c.sx[0] + at) * (wy0 * d0 + wy1 * d2) + load(c.sx[1] + at) * (wy0 * d1 + wy1 * d3);
    store(b.oy + n, (add ? load(b.oy + n) : vf{}) + load(factor + n) * along_y);
    store(b.ox + n, (add ? load(b.ox + n) : vf{}) + load(factor + n) * along_x);
  }
}

// oy, ox -> the gradient of a group's offsets, at a pixel's (T, G, K, 2).
RVRT_INLINE void store_offsets(const DeformJob& job, const DeformBuffers& b, int64_t group, float* to) {
  int64_t n = 0;
  for (int64_t t = 0; t < job.T; ++t) {
    float* o = to + (t * job.G + group) * job.K * 2;
    for (int64_t k = 0; k < job.K; ++k, ++n) o[2 * k] = b.oy[n], o[2 * k + 1] = b.ox[n];
  }
}

// Where the samples of query frame `t` lie before offsets.
static void prepare_frame(const DeformJob& job, const DeformBuffers& b, int64_t t) {
  for (int64_t n = 0; n < b.length; ++n) {
    const int64_t k = n % job.K, from = n < job.samples() ? (n / job.K + t) % job.T : 0;
    b.base_y[n] = static_cast<float>(k / job.kernel_w - job.kernel_h / 2);
    b.base_x[n] = static_cast<float>(k % job.kernel_w - job.kernel_w / 2);
    b.frame[n] = static_cast<int32_t>(from * job.frame_floats);
  }
}

// Row `row` of all frames' rows in a compact clip.
RVRT_INLINE int64_t clip_row(const DeformJob& job, int64_t row) {
  return row / job.H * job.frame_floats + (row % job.H + 1) * job.row_floats;
}

// Channels [channel, channel + width) of one row of the tensor of keys and values -> compact clip, or back.
static void pack_row(const DeformJob& job, int64_t sample, int64_t row, int64_t channel, float* clip) {
  const float* from = job.kv + job.pixel(sample, 0, row, 0) * 2 * job.C + channel;
  float* to = clip + clip_row(job, row);
  if (row % job.H == 0) std::fill(to - job.row_floats, to, 0.0f);
  if (row % job.H == job.H - 1) std::fill(to + job.row_floats, to + 2 * job.row_floats, 0.0f);
  std::fill(to, to + job.width, 0.0f);
  to += job.width;
  for (int64_t x = 0; x < job.W; ++x)
    std::copy(from + x * 2 * job.C, from + x * 2 * job.C + job.width, to + x * job.width);
  std::fill(to + job.W * job.width, to + (job.W + 1) * job.width, 0.0f);
}

static void unpack_row(const DeformJob& job, int64_t sample, int64_t row, int64_t channel, const float* clip) {
  float* to = job.dkv + job.pixel(sample, 0, row, 0) * 2 * job.C + channel;
  const float* from = clip + clip_row(job, row) + job.width;
  for (int64_t x = 0; x < job.W; ++x) std::copy(from + x * job.width, from + (x + 1) * job.width, to + x * 2 * job.C);
}

// A unit of channels at one pixel.
struct Unit {
  int64_t pixel, row, column, channel, group;  // the first channel, the first group of keys
  const float *k, *v;                          // compact clips
  float *dk, *dv;

  const float* offset(const DeformJob& job) const { return job.offset + pixel * job.T * job.G * job.K * 2; }
};

// Called `ahead` pixels before its turn; pixels of the next tile may be prefetched in vain.
RVRT_INLINE void prefetch_unit(const DeformJob& job, const Unit& u, int64_t ahead) {
  const int64_t pixel = std::min(u.pixel + ahead, job.N * job.T * job.H * job.W - 1);
  const int64_t at = pixel * job.C + u.channel, floats = 2 * job.K * job.unit_groups;
  prefetch(job.query + at, job.width);
  if (job.out) prefetch_for_write(job.out + at, job.width);
  if (job.dquery) prefetch(job.dout + at, job.width), prefetch_for_write(job.dquery + at, job.width);
  for (int64_t part = u.group; part < job.G; part += job.G / 2)
    for (int64_t t = 0; t < job.T; ++t) {
      const int64_t o = ((pixel * job.T + t) * job.G + part) * job.K * 2;
      prefetch(job.offset + o, floats);
      if (job.doffset) prefetch_for_write(job.doffset + o, floats);
    }
}

template <int WIDTH>
RVRT_INLINE void attend(const DeformJob& job, const DeformBuffers& b, const Unit& u) {
  const int64_t segment = WIDTH ? WIDTH : job.segment, at = u.pixel * job.C + u.channel;
  const Corners &k = b.corners[0], &v = b.corners[1];
  prefetch_unit(job, u, kAhead);
  find_corners<false>(job, b, u.offset(job), u.group, u.row, u.column, k);
  find_corners<false>(job, b, u.offset(job), u.group + job.G / 2, u.row, u.column, v);
  std::fill(b.p, b.p + job.unit_heads * b.length, 0.0f);
  for (int64_t s = 0; s < job.segments; ++s) {
    const int64_t head = job.unit_heads > 1 ? s * b.length : 0, group = job.unit_groups > 1 ? s * b.length : 0;
    const Samples samples = samples_of(job, k, b.length, group);
    over_segment<WIDTH>(
        segment, ScoreChunk{samples, u.k + s * segment, job.query + at + s * segment, k.weight, b.partial, b.p + head});
  }
  for (int64_t h = 0; h < job.unit_heads; ++h) softmax(job.samples(), b.length, b.p + h * b.length);
  for (int64_t s = 0; s < job.segments; ++s) {
    const int64_t head = job.unit_heads > 1 ? s * b.length : 0, group = job.unit_groups > 1 ? s * b.length : 0;
    const Samples samples = samples_of(job, v, b.length, group);
    mix(b, v, group, b.p + head);
    over_segment<WIDTH>(segment, CombineChunk{samples, u.v + s * segment, b.mixed, job.out + at + s * segment});
  }
}

// A run of pixels in a row, from `u` on. Within a pixel every step waits for the one before, and the processor does not
// look far enough ahead to fill the gaps with the next pixel.
template <int SEGMENT>
RVRT_INLINE void attend_run(const DeformJob& job, const DeformBuffers& b, const Unit& u, int64_t count) {
  using Pair = HeadPair<SEGMENT>;
  const int64_t at = u.pixel * job.C + u.channel, numbers = job.T * job.G * job.K * 2;
  for (int64_t i = 0; i < count; ++i) {
    const Corners* c = b.run_corners[i];
    const float* offset = u.offset(job) + i * numbers;
    prefetch_unit(job, u, i + kRun);
    find_corners<false>(job, b, offset, u.group, u.row, u.column + i, c[0]);
    find_corners<false>(job, b, offset, u.group + job.G / 2, u.row, u.column + i, c[1]);
  }
  for (int64_t i = 0; i < count; ++i) {
    const Corners& c = b.run_corners[i][0];
    Pair::scores(samples_of(job, c, b.length, 0), u.k, job.query + at + i * job.C, c.weight, b.partial, b.run_p[i]);
  }
  for (int64_t i = 0; i < count; ++i)
    for (int h = 0; h < 2; ++h) softmax(job.samples(), b.length, b.run_p[i] + h * b.length);
  for (int64_t i = 0; i < count; ++i) {
    const Corners& c = b.run_corners[i][1];
    Pair::combine(samples_of(job, c, b.length, 0), u.v, c.weight, b.run_p[i], job.out + at + i * job.C);
  }
}

template <int WIDTH>
RVRT_INLINE void attend_backward(const DeformJob& job, const DeformBuffers& b, const Unit& u) {
  const int64_t segment = WIDTH ? WIDTH : job.segment, heads = job.unit_heads * b.length;
  const int64_t at = u.pixel * job.C + u.channel;
  float* const weight[2] = {b.ds, b.p};               // weight of a sample of a key, of a value
  const float* const row[2] = {job.query, job.dout};  // what it multiplies
  const float* const clip[2] = {u.k, u.v};
  float* const gradient[2] = {u.dk, u.dv};
  const auto head_of = [&](int64_t s) { return job.unit_heads > 1 ? s * b.length : 0; };
  const auto group_of = [&](int64_t s) { return job.unit_groups > 1 ? s * b.length : 0; };

  prefetch_unit(job, u, kAhead);
  std::fill(b.p, b.p + heads, 0.0f);
  std::fill(b.ds, b.ds + heads, 0.0f);
  for (int part = 0; part < 2; ++part) {  // scores, then the gradients of the weights
    const Corners& c = b.corners[part];
    find_corners<true>(job, b, u.offset(job), u.group + part * job.G / 2, u.row, u.column, c);
    for (int64_t s = 0; s < job.segments; ++s) {
      const Samples samples = samples_of(job, c, b.length, group_of(s));
      float* dots = b.dots[part] + 4 * s * b.length;
      over_segment<WIDTH>(segment, DotsChunk{samples, clip[part] + s * segment, row[part] + at + s * segment, dots});
      weigh(b, c, group_of(s), dots, weight[1 - part] + head_of(s));
    }
  }
  for (int64_t h = 0; h < heads; h += b.length) {
    softmax(job.samples(), b.length, b.p + h);
    softmax_gradient(b.length, b.p + h, b.ds + h);
  }
  for (int part = 0; part < 2; ++part) {
    const Corners& c = b.corners[part];
    for (int64_t s = 0; s < job.segments; ++s) {
      const Samples samples = samples_of(job, c, b.length, group_of(s));
      mix(b, c, group_of(s), weight[part] + head_of(s));
      if (part == 0)
        over_segment<WIDTH>(segment, CombineChunk{samples, u.k + s * segment, b.mixed, job.dquery + at + s * segment});
      over_segment<WIDTH>(segment,
                          ScatterChunk{samples, gradient[part] + s * segment, b.mixed, row[part] + at + s * segment});
    }
    for (int64_t g = 0; g < job.unit_groups; ++g) {
      const int64_t first = job.unit_groups > 1 ? g : 0, last = job.unit_groups > 1 ? g + 1 : job.segments;
      for (int64_t s = first; s < last; ++s)
        slope(b, c, g * b.length, b.dots[part] + 4 * s * b.length, weight[part] + head_of(s), s > first);
      store_offsets(job, b, u.group + g + part * job.G / 2, job.doffset + u.pixel * job.T * job.G * job.K * 2);
    }
  }
}

// Calls visit(query frame, row, column, count) for runs of up to LENGTH pixels of tile `tile`.
template <int64_t LENGTH, typename Visit>
RVRT_INLINE void over_tile(const DeformJob& job, int64_t tile, const Visit& visit) {
  const int64_t across = ceil_div(job.W, kTileWidth), down = ceil_div(job.H, kTileHeight);
  const int64_t left = tile % across * kTileWidth, top = tile / across % down * kTileHeight, t = tile / (across * down);
  const int64_t right = std::min(left + kTileWidth, job.W);
  for (int64_t y = top; y < std::min(top + kTileHeight, job.H); ++y)
    for (int64_t x = left; x < right; x += LENGTH) visit(t, y, x, std::min(LENGTH, right - x));
}

static int64_t tiles(const DeformJob& job) {
  return job.T * ceil_div(job.W, kTileWidth) * ceil_div(job.H, kTileHeight);
}

// Tasks are rows of the clip.
void pack_tasks(const void* context, Span span) {
  const DeformJob& job = *static_cast<const DeformJob*>(context);
  for (int64_t row = span.begin; row < span.end; ++row)
    for (int64_t unit = 0; unit < job.units; ++unit) {
      pack_row(job, job.sample, row, unit * job.width, job.k + unit * job.clip_floats);
      pack_row(job, job.sample, row, job.C + unit * job.width, job.v + unit * job.clip_floats);
    }
}

// Tasks are units of tiles of one sample; those of a tile follow each other, for their offsets share cache lines.
template <int WIDTH, bool PAIR>
void forward_tasks(const void* context, Span span) {
  const DeformJob& job = *static_cast<const DeformJob*>(context);
  const DeformBuffers b(job, Arena(job.scratch + span.thread * job.scratch_floats));
  int64_t prepared = -1;
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t unit = task % job.units, clip = unit * job.clip_floats;
    over_tile<PAIR ? kRun : 1>(job, task / job.units,
                               [&](int64_t t, int64_t y, int64_t x, [[maybe_unused]] int64_t count)
                                   __attribute__((always_inline)) {
                                     if (t != prepared) prepare_frame(job, b, prepared = t);
                                     const Unit at{job.pixel(job.sample, t, y, x),
                                                   y,
                                                   x,
                                                   unit * job.width,
                                                   unit * job.unit_groups,
                                                   job.k + clip,
                                                   job.v + clip,
                                                   nullptr,
                                                   nullptr};
                                     if constexpr (PAIR)
                                       attend_run<WIDTH>(job, b, at, count);
                                     else
                                       attend<WIDTH>(job, b, at);
                                   });
  }
}

// Tasks are units of samples.
template <int WIDTH>
void backward_tasks(const void* context, Span span) {
  const DeformJob& job = *static_cast<const DeformJob*>(context);
  const DeformBuffers b(job, Arena(job.scratch + span.thread * job.scratch_floats));
  const int64_t clip = span.thread * job.clip_floats;
  float *k = job.k + clip, *v = job.v + clip, *dk = job.dk + clip, *dv = job.dv + clip;
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t sample = task / job.units, unit = task % job.units, channel = unit * job.width;
    for (int64_t row = 0; row < job.T * job.H; ++row) {
      pack_row(job, sample, row, channel, k);
      pack_row(job, sample, row, job.C + channel, v);
    }
    std::fill(dk, dk + job.clip_floats, 0.0f);
    std::fill(dv, dv + job.clip_floats, 0.0f);
    int64_t prepared = -1;
    for (int64_t tile = 0; tile < tiles(job); ++tile)
      over_tile<1>(job, tile, [&](int64_t t, int64_t y, int64_t x, int64_t) __attribute__((always_inline)) {
        if (t != prepared) prepare_frame(job, b, prepared = t);
        attend_backward<WIDTH>(job, b,
                               Unit{job.pixel(sample, t, y, x), y, x, channel, unit * job.unit_groups, k, v, dk, dv});
      });
    for (int64_t row = 0; row < job.T * job.H; ++row) {
      unpack_row(job, sample, row, channel, dk);
      unpack_row(job, sample, row, job.C + channel, dv);
    }
  }
}

int run_forward(DeformJob& job, Body body) {
  const int64_t tasks = job.units * tiles(job), all = job.units * job.clip_floats;
  DeformBuffers(job, Arena(nullptr), &job.scratch_floats);
  const Scratch scratch(parallel_width(tasks) * job.scratch_floats, true), clips(2 * all);
  RVRT_CHECK(scratch.ok() && clips.ok(), kMemory);
  job.scratch = scratch.data(), job.k = clips.data(), job.v = job.k + all;
  for (job.sample = 0; job.sample < job.N; ++job.sample) {
    parallel_shared(job.T * job.H, pack_tasks, &job);
    parallel_shared(tasks, body, &job);
  }
  return kOk;
}

int run_backward(DeformJob& job, Body body) {
  const int64_t tasks = job.N * job.units, workers = parallel_width(tasks), all = workers * job.clip_floats;
  DeformBuffers(job, Arena(nullptr), &job.scratch_floats);
  const Scratch scratch(workers * job.scratch_floats, true), clips(4 * all);
  RVRT_CHECK(scratch.ok() && clips.ok(), kMemory);
  job.scratch = scratch.data();
  job.k = clips.data(), job.v = job.k + all, job.dk = job.v + all, job.dv = job.dk + all;
  return parallel_shared(tasks, body, &job);
}

template <bool PAIR>
int deform_forward_in(DeformJob& job) {
  switch (job.segment) {
    case 8:
      return run_forward(job, forward_tasks<8, PAIR>);
    case 12:
      return run_forward(job, forward_tasks<12, PAIR>);
    case 16:
      return run_forward(job, forward_tasks<16, PAIR>);
    case 24:
      return run_forward(job, forward_tasks<24, PAIR>);
    default:
      return run_forward(job, forward_tasks<0, false>);
  }
}

int deform_forward(DeformJob& job) {
  return job.unit_heads == 2 && job.unit_groups == 1 ? deform_forward_in<true>(job) : deform_forward_in<false>(job);
}

int deform_backward(DeformJob& job) {
  switch (job.segment) {
    case 8:
      return run_backward(job, backward_tasks<8>);
    case 12:
      return run_backward(job, backward_tasks<12>);
    case 16:
      return run_backward(job, backward_tasks<16>);
    case 24:
      return run_backward(job, backward_tasks<24>);
    default:
      return run_backward(job, backward_tasks<0>);
  }
}

#endif
