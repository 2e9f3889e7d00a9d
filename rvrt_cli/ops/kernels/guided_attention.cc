// SPDX-License-Identifier: Apache-2.0
// Guided deformable attention in inference, from the features to the aligned features: query, offsets, attention,
// projection and feed-forward part of a strip of pixels follow each other in the cache, so that neither the offsets nor
// the samples are ever stored. deformable_attention.cc computes the attention alone, with gradients.
//
// Keys and values are projected straight into a compact clip for each unit of channels: heads that share one group of
// offsets.
#ifndef RVRT_ISA

#include "compact_clip.h"
#include "row_blocks.h"

#include <algorithm>
#include <cmath>

namespace rvrt {
namespace {

constexpr int64_t kStripPixels = 32, kStripRows = 8;  // of a tile: pixels sampled by neighbors stay in the cache

struct GuidedJob;

// What a thread computes at a strip of pixels. What belongs to samples lies in rows of pixels, so that each step takes a
// vector of them.
struct Strip {
  float *hidden, *y, *x;  // hidden transposed; offsets before their bias and bound, in the order G, T, K
  float* guide;           // the flows' (y, x) of each field at the pixels of a run
  float* mean;            // the same for the sums of offsets
  float* query;
  int32_t* place;                          // of a sample's upper left corner in the compact clip
  float* weight[4];                        // of its corners (y i / 2, x i % 2)
  float *scores, *mixed[4], *partial;      // scores of each head of a unit
  float *attended, *projected, *features;  // features: hidden ones of the feed-forward part
  float *sums, *rows, *zeros;              // of dense layers; projected keys or values
};

// A run of pixels, a vector of them, from pixel `first` of a strip on, in row `row` and from column `column` of frame `t`.
struct Run {
  int64_t first, t, row, column;
};

using AttendRun = void (*)(const GuidedJob&, const Strip&, const Run&, int64_t unit);

struct GuidedJob {
  int64_t N, T, H, W, A, G, K, heads, kernel_h, kernel_w;  // A channels of query, key and value
  int64_t units, unit_heads, width, segment;               // channels of a unit, of a head
  int64_t row_floats, frame_floats, clip_floats;           // of a compact clip
  float max_offset;
  const float *query, *key, *value, *hidden, *flows;
  PackedDense to_query, to_key, to_value, project, in, out;
  const float *to_y, *to_x;  // the layer that predicts the offsets: biases, then weights (offsets, I)
  int64_t I;                 // its inputs
  float *aligned, *corrected;
  float *keys, *values;  // compact clips of the units of one sample
  int64_t sample;        // being computed
  AttendRun attend;
  float* scratch;
  int64_t scratch_floats;

  int64_t samples() const { return T * K; }      // of a group, at one pixel
  int64_t offsets() const { return G * T * K; }  // of a pixel, in this order
  int64_t pixel(int64_t t, int64_t y, int64_t x) const { return ((sample * T + t) * H + y) * W + x; }
  // Place in the flows (N, T, T, H, W, 2) of field 0 of a pixel.
  int64_t flow_at(int64_t pixel) const { return (pixel / (H * W) * T * H * W + pixel % (H * W)) * 2; }
};

enum GuidedInput {
  kQuery,
  kKey,
  kValue,
  kHidden,
  kFlows,
  kMaxOffset,
  kOffsetWeight,
  kQueryWeight = 8,
  kKeyWeight = 10,
  kValueWeight = 12,
  kProjectWeight = 14,
  kInWeight = 16,
  kOutWeight = 18,
  kGuidedAttributes = 20
};

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "guided_attention.cc"
#include "each_isa.h"
#include "packed_weights.h"

namespace rvrt {
namespace {

bool is_layer(const Tensors& t, int weight, int64_t inputs, int64_t outputs) {
  return inputs > 0 && outputs > 0 && t.has_shape(weight, {outputs, inputs}) && t.size(weight + 1) == outputs;
}

int guided_sizes(const Tensors& t, GuidedJob& job) {
  for (int i : {kQuery, kKey, kValue, kHidden}) {
    RVRT_CHECK(t.ndims[i] == 5, kShape);
    for (int axis = 0; axis < 4; ++axis) RVRT_CHECK(t.dim(i, axis) == t.dim(kQuery, axis), kShape);
  }
  for (int i = kOffsetWeight; i < kGuidedAttributes; i += 2) RVRT_CHECK(t.ndims[i] == 2, kShape);
  job.N = t.dim(0, 0), job.T = t.dim(0, 1), job.H = t.dim(0, 2), job.W = t.dim(0, 3);
  RVRT_CHECK(t.has_shape(kFlows, {job.N, job.T, job.T, job.H, job.W, 2}) && t.size(kMaxOffset) == 1, kShape);
  const int32_t* a = t.ints(kGuidedAttributes);
  job.heads = a[0], job.kernel_h = a[1], job.kernel_w = a[2], job.G = a[3];
  RVRT_CHECK(job.heads > 0 && job.kernel_h > 0 && job.kernel_w > 0, kAttribute);
  RVRT_CHECK(job.G > 0 && job.G % 2 == 0 && job.heads % (job.G / 2) == 0, kAttribute);
  job.K = job.kernel_h * job.kernel_w, job.A = t.dim(kQueryWeight, 0);
  RVRT_CHECK(job.A > 0 && job.A % job.heads == 0, kAttribute);
  RVRT_CHECK(is_layer(t, kOffsetWeight, t.dim(kHidden, 4), 2 * job.offsets()), kShape);
  for (int i = 0; i < 3; ++i) RVRT_CHECK(is_layer(t, kQueryWeight + 2 * i, t.dim(kQuery + i, 4), job.A), kShape);
  const int64_t channels = t.dim(kProjectWeight, 0), wide = t.dim(kInWeight, 0);
  RVRT_CHECK(is_layer(t, kProjectWeight, job.A, channels) && is_layer(t, kInWeight, channels, wide), kShape);
  RVRT_CHECK(is_layer(t, kOutWeight, wide, channels), kShape);
  RVRT_CHECK(t.has_shape(kGuidedAttributes + 1, {job.N, job.T, job.H, job.W, channels}), kShape);
  RVRT_CHECK(t.same_shape(kGuidedAttributes + 2, kFlows), kShape);
  job.units = job.G / 2, job.unit_heads = job.heads / job.units;
  job.width = job.A / job.units, job.segment = job.A / job.heads;
  const CompactClip clip(job.T, job.H, job.W, job.width);
  job.row_floats = clip.row_floats, job.frame_floats = clip.frame_floats, job.clip_floats = clip.clip_floats;
  RVRT_CHECK(job.clip_floats < (int64_t{1} << 31) && job.H < (1 << 24) && job.W < (1 << 24), kShape);
  return kOk;
}

// The layer that predicts the offsets, of one axis (0: y, 1: x), its outputs in the order G, T, K.
void select_axis(const Tensors& t, const GuidedJob& job, int axis, float* weight, float* bias) {
  const int64_t inputs = t.dim(kHidden, 4);
  for (int64_t n = 0; n < job.offsets(); ++n) {
    const int64_t g = n / job.samples(), field = n / job.K % job.T, k = n % job.K;
    const int64_t row = ((field * job.G + g) * job.K + k) * 2 + axis;
    std::memcpy(weight + n * inputs, t.f(kOffsetWeight) + row * inputs, sizeof(float) * inputs);
    bias[n] = t.f(kOffsetWeight + 1)[row];
  }
}

int guided_forward(const Tensors& t, GuidedJob& job) {
  const int64_t of_query = t.size(kQueryWeight), n = job.offsets();
  const int64_t of_axis = n * (t.dim(kHidden, 4) + 1);
  const Scratch chosen(2 * of_axis + of_query + job.A);
  RVRT_CHECK(chosen.ok(), kMemory);
  float *y = chosen.data(), *x = y + of_axis, *query = x + of_axis;
  select_axis(t, job, 0, y + n, y), select_axis(t, job, 1, x + n, x);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(job.segment)));
  for (int64_t i = 0; i < of_query; ++i) query[i] = scale * t.f(kQueryWeight)[i];
  for (int64_t i = 0; i < job.A; ++i) query[of_query + i] = scale * t.f(kQueryWeight + 1)[i];
  const auto layer = [&](int weight) {
    return DenseWeights(t.f(weight), t.f(weight + 1), t.dim(weight, 1), t.dim(weight, 0), operands());
  };
  const DenseWeights to_query(query, query + of_query, t.dim(kQueryWeight, 1), job.A, operands());
  const DenseWeights to_key = layer(kKeyWeight), to_value = layer(kValueWeight), project = layer(kProjectWeight);
  const DenseWeights in = layer(kInWeight), out = layer(kOutWeight);
  for (const DenseWeights* one : {&to_query, &to_key, &to_value, &project, &in, &out}) RVRT_CHECK(one->ok(), kMemory);
  job.to_query = to_query.view(), job.to_key = to_key.view(), job.to_value = to_value.view();
  job.to_y = y, job.to_x = x, job.I = t.dim(kHidden, 4);
  job.project = project.view(), job.in = in.view(), job.out = out.view();
  RVRT_DISPATCH(choose_attention)(job);
  const int64_t tiles = job.T * ceil_div(job.H, kStripRows) * ceil_div(job.W, kStripPixels);
  const int64_t workers = parallel_width(std::max(tiles, job.T * job.H));
  const int64_t all = job.units * job.clip_floats;
  const Scratch scratch(workers * job.scratch_floats, true), clips(2 * all);
  RVRT_CHECK(scratch.ok() && clips.ok(), kMemory);
  job.scratch = scratch.data(), job.keys = clips.data(), job.values = job.keys + all;
  for (job.sample = 0; job.sample < job.N; ++job.sample) {
    parallel_shared(job.T * job.H, RVRT_DISPATCH(project_rows), &job);
    parallel_shared(tiles, RVRT_DISPATCH(attend_tiles), &job);
  }
  return kOk;
}

}  // namespace
}  // namespace rvrt

// Inputs: query, key, value (N, T, H, W, ...), features; hidden (N, T, H, W, I), from which a last layer predicts the
//   offsets; flows (N, T, T, H, W, 2) px as (x, y); max_offset float32 (1); weight and bias of each layer: offsets
//   (T * G * K * 2, I), query (A, Cq), not scaled yet, key (A, Ck), value (A, Cv), projection (C, A), feed-forward (F, C)
//   and (C, F); attributes int32 [heads, kernel_h, kernel_w, G], K = kernel_h * kernel_w, heads a multiple of G / 2.
// Outputs: aligned (N, T, H, W, C), the attention of deformable_attention_forward at the offsets of
//   guided_offsets_forward, through project_mlp_forward; the corrected flows of guided_offsets_forward.
RVRT_ENTRY(guided_attention_forward) {
  using namespace rvrt;
  if (int status = t.check(kGuidedAttributes, 4, 2)) return status;
  GuidedJob job{};
  if (int status = guided_sizes(t, job)) return status;
  if (t.size(kQuery) == 0) return kOk;
  job.query = t.f(kQuery), job.key = t.f(kKey), job.value = t.f(kValue);
  job.hidden = t.f(kHidden), job.flows = t.f(kFlows), job.max_offset = t.f(kMaxOffset)[0];
  job.aligned = t.f(kGuidedAttributes + 1), job.corrected = t.f(kGuidedAttributes + 2);
  return guided_forward(t, job);
}

#else

#include "simd.h"
#include "gemm.h"
#include "row_math.h"
#include "sampled_attention.h"

// The arrays of a strip in `block`; on a null block, `taken` says how large that must be.
static Strip strip_in(float* block, const GuidedJob& job, int64_t* taken = nullptr) {
  Strip s{};
  Arena arena(block);
  const int64_t run = job.samples() * W;
  s.hidden = arena.take(job.I * kStripPixels);
  s.y = arena.take(job.offsets() * kStripPixels), s.x = arena.take(job.offsets() * kStripPixels);
  s.guide = arena.take(2 * job.T * W), s.mean = arena.take(2 * job.T * W);
  s.query = arena.take(kStripPixels * padded(job.A) + W);
  s.place = reinterpret_cast<int32_t*>(arena.take(run));
  for (float*& corner : s.weight) corner = arena.take(run);
  s.scores = arena.take(job.unit_heads * run);
  for (float*& corner : s.mixed) corner = arena.take(run);
  s.partial = arena.take(2 * W * 16);
  s.attended = arena.take(kStripPixels * padded(job.A) + W);
  s.projected = arena.take(kStripPixels * padded(job.project.outputs));
  s.features = arena.take(kStripPixels * padded(job.in.outputs));
  s.sums = arena.take(kBlock * kPanelFloats), s.rows = arena.take(kBlock * padded(job.A));
  s.zeros = arena.take(kStripPixels);
  if (taken) *taken = arena.taken();
  return s;
}

// --- keys and values

// Pixels of a row into its units' compact clips, from pixel `first` on.
inline void pack_pixels(const GuidedJob& job, const float* pixels, int64_t first, int64_t count, float* clip) {
  const int64_t ld = padded(job.A);
  for (int64_t unit = 0; unit < job.units; ++unit, clip += job.clip_floats, pixels += job.width)
    for (int64_t i = 0; i < count; ++i) {
      const float* from = pixels + i * ld;
      float* to = clip + (first + i + 1) * job.width;
      if (job.width % W == 0)
        for (int64_t c = 0; c < job.width; c += W) store(to + c, load(from + c));
      else
        std::copy(from, from + job.width, to);
    }
}

// The zeros around a row.
inline void close_row(const GuidedJob& job, int64_t row, float* clip) {
  for (int64_t unit = 0; unit < job.units; ++unit, clip += job.clip_floats) {
    if (row == 0) std::fill(clip - job.row_floats, clip, 0.0f);
    if (row == job.H - 1) std::fill(clip + job.row_floats, clip + 2 * job.row_floats, 0.0f);
    std::fill(clip, clip + job.width, 0.0f);
    std::fill(clip + (job.W + 1) * job.width, clip + (job.W + 2) * job.width, 0.0f);
  }
}

// Tasks are rows of the clip.
inline void project_rows(const void* pointer, Span span) {
  const GuidedJob& job = *static_cast<const GuidedJob*>(pointer);
  const Strip s = strip_in(job.scratch + span.thread * job.scratch_floats, job);
  const int64_t ld = padded(job.A);
  for (int64_t task = span.begin; task < span.end; ++task)
    for (bool keys : {true, false}) {
      const PackedDense& layer = keys ? job.to_key : job.to_value;
      const int64_t t = task / job.H, row = task % job.H;
      const float* x = (keys ? job.key : job.value) + job.pixel(t, row, 0) * layer.inputs;
      float* clip = (keys ? job.keys : job.values) + t * job.frame_floats + (row + 1) * job.row_floats;
      for (int64_t first = 0; first < job.W; first += kBlock) {
        const int64_t count = std::min(kBlock, job.W - first);
        dense_rows(count, layer, x + first * layer.inputs, layer.inputs, s.sums, {kNone, nullptr, 0, s.rows, ld});
        pack_pixels(job, s.rows, first, count, clip);
      }
      close_row(job, row, clip);
    }
}

// --- offsets

// y and x of a strip, before their bias and bound: a product with the features of each pixel in a column.
static void predict_offsets(const GuidedJob& job, const Strip& s, const float* hidden, int64_t count) {
  transpose(hidden, job.I, count, job.I, 1.0f, s.hidden, kStripPixels);
  constexpr int kWidth = 2;  // vectors
  for (int64_t i = 0; i < count; i += kWidth * W)
    for (bool down : {true, false}) {
      const float* layer = down ? job.to_y : job.to_x;
      product({job.offsets(), kWidth, job.I, layer + job.offsets(), job.I, s.hidden + i, kStripPixels, s.zeros, 0,
               (down ? s.y : s.x) + i, kStripPixels});
    }
}

// The flows of a run; those beyond the end of a row are zero.
static void load_guides(const GuidedJob& job, const Strip& s, const Run& r, int64_t count, const float* flow) {
  for (int64_t f = 0; f < job.T; ++f, flow += job.H * job.W * 2) {
    float pairs[2 * W] = {};
    std::copy(flow, flow + 2 * count, pairs);
    vf x, y;
    split_pairs(pairs, x, y);
    store(s.guide + 2 * f * W, y), store(s.guide + (2 * f + 1) * W, x);
    store(s.mean + 2 * f * W, vf{}), store(s.mean + (2 * f + 1) * W, vf{});
  }
}

// The mean offsets of a run.
static void correct_flows(const GuidedJob& job, const Strip& s, int64_t count, float* corrected) {
  const float over = 1.0f / static_cast<float>(job.G * job.K);
  for (int64_t f = 0; f < job.T; ++f, corrected += job.H * job.W * 2) {
    const float *y = s.mean + 2 * f * W, *x = y + W;
    for (int64_t i = 0; i < count; ++i) corrected[2 * i] = x[i] * over, corrected[2 * i + 1] = y[i] * over;
  }
}

// One axis: where the first of two pixels is in a padded row or column, and their weights. Beyond the frame the padding is
// zero. Coordinates are clamped before they become integers, so any float is safe.
RVRT_INLINE vi padded_axis(vf at, int64_t size, vf (&weight)[2]) {
  const int32_t length = static_cast<int32_t>(size);
  const vf limited = vmin(vmax(at, set1(-1.0f)), set1(static_cast<float>(length)));
  vi first = __builtin_convertvector(limited, vi);
  first += __builtin_convertvector(first, vf) > limited;  // truncation to floor; true is -1
  const vi last = vi{} + (length - 1);
  first = first < last ? first : last;
  weight[1] = limited - __builtin_convertvector(first, vf), weight[0] = 1.0f - weight[1];
  return first + 1;
}

// The corners of the samples of a group and their weights; adds up the offsets.
static void find_corners(const GuidedJob& job, const Strip& s, const Run& r, int64_t group) {
  const int32_t row_floats = static_cast<int32_t>(job.row_floats), width = static_cast<int32_t>(job.width);
  float lanes[W];
  for (int i = 0; i < W; ++i) lanes[i] = static_cast<float>(r.column + i);
  const vf column = load(lanes), row = set1(static_cast<float>(r.row));
  for (int64_t f = 0, i = 0, n = group * job.samples(); f < job.T; ++f) {
    const vf guide_y = load(s.guide + 2 * f * W), guide_x = load(s.guide + (2 * f + 1) * W);
    const int32_t start = static_cast<int32_t>((f + r.t) % job.T * job.frame_floats);
    vf sum_y = load(s.mean + 2 * f * W), sum_x = load(s.mean + (2 * f + 1) * W);
    for (int64_t down = -(job.kernel_h / 2), k = 0; k < job.K; ++down)
      for (int64_t right = -(job.kernel_w / 2), end = right + job.kernel_w; right < end; ++right, ++k, ++i, ++n) {
        const vf raw_y = load(s.y + n * kStripPixels + r.first) + job.to_y[n];
        const vf raw_x = load(s.x + n * kStripPixels + r.first) + job.to_x[n];
        const vf oy = job.max_offset * tanh(raw_y) + guide_y, ox = job.max_offset * tanh(raw_x) + guide_x;
        sum_y += oy, sum_x += ox;
        vf wy[2], wx[2];
        const vi y = padded_axis(row + static_cast<float>(down) + oy, job.H, wy);
        const vi x = padded_axis(column + static_cast<float>(right) + ox, job.W, wx);
        store(s.place + i * W, start + y * row_floats + x * width);
        for (int c = 0; c < 4; ++c) store(s.weight[c] + i * W, wy[c >> 1] * wx[c & 1]);
      }
    store(s.mean + 2 * f * W, sum_y), store(s.mean + (2 * f + 1) * W, sum_x);
  }
}

// --- attention

// The sample of LANES channels at p, from its corners' weights.
template <int LANES>
RVRT_INLINE typename Lanes<LANES>::vec sample_at(const float* p, int64_t right, int64_t down, const float (&w)[4]) {
  using L = Lanes<LANES>;
  return (L::get(p) * w[0] + L::get(p + right) * w[1]) + (L::get(p + down) * w[2] + L::get(p + down + right) * w[3]);
}

// Sums over the lanes of LANES floats at `partial` for each of W pixels, `step` floats apart.
template <int LANES>
RVRT_INLINE vf sum_pixels(const float* partial, int64_t step) {
  float sums[W];
  if constexpr (LANES == W) {
    vf r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) r[i] = load(partial + i * step);
    return sum_each(r);
  } else if constexpr (LANES < 4) {
    for (int i = 0; i < W; ++i) {
      sums[i] = partial[i * step];
      for (int l = 1; l < LANES; ++l) sums[i] += partial[i * step + l];
    }
  } else {
    for (int i = 0; i < W; i += 4) {
      v4 r[4];
      for (int u = 0; u < 4; ++u) {
        r[u] = load4(partial + (i + u) * step);
        for (int l = 4; l < LANES; l += 4) r[u] += load4(partial + (i + u) * step + l);
      }
      transpose4(r[0], r[1], r[2], r[3]);
      store4(sums + i, (r[0] + r[1]) + (r[2] + r[3]));
    }
  }
  return load(sums);
}

// What the samples of a run's pixels are read from and written to: `base` and `row` are those of a head's first channel.
struct RunSamples {
  const GuidedJob& job;
  const Strip& s;
  const float* base;  // compact clip
  float* row;         // of the first pixel: query, or attended
  int64_t ld;         // floats from a pixel's row to the next one's
  int64_t right;      // floats from a pixel of the compact clip to the next one
};

// scores[n] += the products of query and samples, over LANES * VECTORS channels from c on.
template <int LANES, int VECTORS>
RVRT_INLINE void score_channels(const RunSamples& r, int64_t c, float* scores) {
  using L = Lanes<LANES>;
  const Strip& s = r.s;
  const float *base = r.base + c, *row = r.row + c;
  const float *w0 = s.weight[0], *w1 = s.weight[1], *w2 = s.weight[2], *w3 = s.weight[3];
  const int32_t* place = s.place;
  const int64_t ld = r.ld, down = r.job.row_floats, end = r.job.samples() * W;
  for (int64_t n = 0; n < end; n += W) {
    const auto partial_at = [&](int i) __attribute__((always_inline)) {
      const float w[4] = {w0[n + i], w1[n + i], w2[n + i], w3[n + i]};
      const float *p = base + place[n + i], *q = row + i * ld;
      typename L::vec sum = {};
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v)
        sum += L::get(q + v * LANES) * sample_at<LANES>(p + v * LANES, r.right, down, w);
      return sum;
    };
    vf score;
    if constexpr (LANES == W) {
      vf partial[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) partial[i] = partial_at(i);
      score = sum_each(partial);
    } else {
      for (int i = 0; i < W; ++i) L::put(s.partial + i * LANES, partial_at(i));
      score = sum_pixels<LANES>(s.partial, LANES);
    }
    store(scores + n, load(scores + n) + score);
  }
}

// row = the samples of LANES * VECTORS channels from c on, weighted by `mixed`.
template <int LANES, int VECTORS>
RVRT_INLINE void combine_channels(const RunSamples& r, int64_t c) {
  using L = Lanes<LANES>;
  const float* base = r.base + c;
  const float* const w[4] = {r.s.mixed[0], r.s.mixed[1], r.s.mixed[2], r.s.mixed[3]};
  const int32_t* place = r.s.place;
  const int64_t down = r.job.row_floats, end = r.job.samples() * W;
  constexpr int kSums =
      kRegisters / 4 / VECTORS;  // pixels whose sums stay in registers, rounded down to a divisor of W
  constexpr int kPixels = kSums >= 8 && W >= 8 ? 8 : kSums >= 4 ? 4 : kSums >= 2 ? 2 : 1;
  for (int first = 0; first < W; first += kPixels) {
    typename L::vec sum[kPixels][VECTORS] = {}, more[kPixels][VECTORS] = {};
    for (int64_t n = first; n < end; n += W) {
#pragma GCC unroll 8
      for (int i = 0; i < kPixels; ++i) {
        const float *p = base + place[n + i], *below = p + down;
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
          sum[i][v] += L::get(p + v * LANES) * w[0][n + i];
          more[i][v] += L::get(p + r.right + v * LANES) * w[1][n + i];
          sum[i][v] += L::get(below + v * LANES) * w[2][n + i];
          more[i][v] += L::get(below + r.right + v * LANES) * w[3][n + i];
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) L::put(r.row + c + (first + i) * r.ld + v * LANES, sum[i][v] + more[i][v]);
  }
}

struct ScoreChannels {
  const RunSamples& r;
  float* scores;
  template <int LANES, int VECTORS>
  __attribute__((always_inline)) void run(int64_t c) const {
    score_channels<LANES, VECTORS>(r, c, scores);
  }
};

struct CombineChannels {
  const RunSamples& r;
  template <int LANES, int VECTORS>
  __attribute__((always_inline)) void run(int64_t c) const {
    combine_channels<LANES, VECTORS>(r, c);
  }
};

// `score_channels` of two heads of SEGMENT channels each.
template <int SEGMENT>
RVRT_INLINE void score_pair(const RunSamples& r, float* scores) {
  using Pair = HeadPair<SEGMENT>;
  using L = typename Pair::L;
  constexpr int kLanes = Pair::kLanes;
  const Strip& s = r.s;
  float rows[2][W][Pair::kWidth] = {};  // the query, zero in the channels of the other head
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < W; ++i) {
      const float* query = r.row + i * r.ld + h * SEGMENT;
      std::copy(query, query + SEGMENT, rows[h][i] + h * SEGMENT);
    }
  for (int64_t n = 0; n < r.job.samples(); ++n) {
    for (int i = 0; i < W; ++i) {
      const int64_t at = n * W + i;
      const float w[4] = {s.weight[0][at], s.weight[1][at], s.weight[2][at], s.weight[3][at]};
      const float* p = r.base + s.place[at];
      typename L::vec sum[2] = {};
#pragma GCC unroll 12
      for (int v = 0; v < Pair::kVectors; ++v) {
        const auto value = sample_at<kLanes>(p + v * kLanes, r.right, r.job.row_floats, w);
        for (int h = 0; h < 2; ++h)
          if (Pair::has(v, h)) sum[h] += L::get(rows[h][i] + v * kLanes) * value;
      }
      for (int h = 0; h < 2; ++h) L::put(s.partial + (2 * i + h) * kLanes, sum[h]);
    }
    for (int h = 0; h < 2; ++h)
      store(scores + (h * r.job.samples() + n) * W, sum_pixels<kLanes>(s.partial + h * kLanes, 2 * kLanes));
  }
}

// `combine_channels` of two heads, from their shares and the corners' weights.
template <int SEGMENT>
RVRT_INLINE void combine_pair(const RunSamples& r, const float* share) {
  using Pair = HeadPair<SEGMENT>;
  using L = typename Pair::L;
  constexpr int kLanes = Pair::kLanes;
  const Strip& s = r.s;
  float ones[Pair::kWidth];  // of head 0
  for (int c = 0; c < Pair::kWidth; ++c) ones[c] = c < SEGMENT ? 1.0f : 0.0f;
  for (int i = 0; i < W; ++i) {
    typename L::vec total[Pair::kVectors] = {};
    for (int64_t n = 0; n < r.job.samples(); ++n) {
      const int64_t at = n * W + i;
      const float w[4] = {s.weight[0][at], s.weight[1][at], s.weight[2][at], s.weight[3][at]};
      const float* p = r.base + s.place[at];
      const auto first = share[at] - typename L::vec{}, second = share[r.job.samples() * W + at] - typename L::vec{};
#pragma GCC unroll 12
      for (int v = 0; v < Pair::kVectors; ++v) {
        const auto both = L::get(ones + v * kLanes) > 0.5f ? first : second;
        total[v] += (Pair::has(v, 0) && Pair::has(v, 1) ? both
                     : Pair::has(v, 0)                  ? first
                                                        : second) *
                    sample_at<kLanes>(p + v * kLanes, r.right, r.job.row_floats, w);
      }
    }
    for (int v = 0; v < Pair::kVectors; ++v) L::put(r.row + i * r.ld + v * kLanes, total[v]);
  }
}

// Scores of one head -> weights of its softmax, for each pixel of a run. The sum has the order of `softmax`, so that this
// attention equals that of deformable_attention.cc bit by bit.
RVRT_INLINE void softmax_of_run(int64_t count, float* scores) {
  vf most = load(scores), lanes[W] = {};
  for (int64_t n = 1; n < count; ++n) most = vmax(most, load(scores + n * W));
  for (int64_t n = 0; n < count; ++n) {
    const vf share = exp2((load(scores + n * W) - most) * kLog2e);
    store(scores + n * W, share), lanes[n % W] += share;
  }
  for (int l = 4; l < W; ++l) lanes[l % 4] += lanes[l];
  const vf inverse = 1.0f / ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
  for (int64_t n = 0; n < count; ++n) store(scores + n * W, load(scores + n * W) * inverse);
}

// HEADS: of a unit, 1 or 2 heads of SEGMENT channels; 0 where it has more, or SEGMENT is 0 and says nothing.
template <int SEGMENT, int HEADS>
static void attend_run(const GuidedJob& job, const Strip& s, const Run& run, int64_t unit) {
  const int64_t ld = padded(job.A), at = run.first * ld + unit * job.width, head = job.samples() * W;
  RunSamples r{job, s, job.keys + unit * job.clip_floats, s.query + at, ld, HEADS ? HEADS * SEGMENT : job.width};
  find_corners(job, s, run, unit);
  if constexpr (HEADS == 2) {
    score_pair<SEGMENT>(r, s.scores);
  } else {
    std::fill(s.scores, s.scores + job.unit_heads * head, 0.0f);
    for (int64_t h = 0; h < job.unit_heads; ++h, r.base += job.segment, r.row += job.segment)
      over_segment<SEGMENT>(job.segment, ScoreChannels{r, s.scores + h * head});
  }
  for (int64_t h = 0; h < job.unit_heads; ++h) softmax_of_run(job.samples(), s.scores + h * head);
  r.base = job.values + unit * job.clip_floats, r.row = s.attended + at;
  find_corners(job, s, run, unit + job.units);
  if constexpr (HEADS == 2) {
    combine_pair<SEGMENT>(r, s.scores);
  } else {
    for (int64_t h = 0; h < job.unit_heads; ++h, r.base += job.segment, r.row += job.segment) {
      for (int64_t n = 0; n < head; n += W)
        for (int k = 0; k < 4; ++k) store(s.mixed[k] + n, load(s.weight[k] + n) * load(s.scores + h * head + n));
      over_segment<SEGMENT>(job.segment, CombineChannels{r});
    }
  }
}

static void attend_strip(const GuidedJob& job, const Strip& s, int64_t t, int64_t row, int64_t column, int64_t count) {
  const int64_t pixel = job.pixel(t, row, column), ld = padded(job.A);
  dense_rows(count, job.to_query, job.query + pixel * job.to_query.inputs, job.to_query.inputs, s.sums,
             {kNone, nullptr, 0, s.query, ld});
  predict_offsets(job, s, job.hidden + pixel * job.I, count);
  for (int64_t first = 0; first < count; first += W) {
    const Run run{first, t, row, column + first};
    const int64_t flow = job.flow_at(pixel + first), within = std::min<int64_t>(W, count - first);
    load_guides(job, s, run, within, job.flows + flow);
    for (int64_t unit = 0; unit < job.units; ++unit) job.attend(job, s, run, unit);
    correct_flows(job, s, within, job.corrected + flow);
  }
  const int64_t channels = job.project.outputs, ldp = padded(channels), ldf = padded(job.in.outputs);
  dense_rows(count, job.project, s.attended, ld, s.sums, {kNone, nullptr, 0, s.projected, ldp});
  dense_rows(count, job.in, s.projected, ldp, s.sums, {kGelu, nullptr, 0, s.features, ldf});
  dense_rows(count, job.out, s.features, ldf, s.sums,
             {kNone, s.projected, ldp, job.aligned + pixel * channels, channels});
}

inline void attend_tiles(const void* pointer, Span span) {
  const GuidedJob& job = *static_cast<const GuidedJob*>(pointer);
  const Strip s = strip_in(job.scratch + span.thread * job.scratch_floats, job);
  const int64_t across = ceil_div(job.W, kStripPixels), down = ceil_div(job.H, kStripRows);
  for (int64_t tile = span.begin; tile < span.end; ++tile) {
    const int64_t t = tile / (across * down), top = tile / across % down * kStripRows;
    const int64_t left = tile % across * kStripPixels;
    for (int64_t row = top; row < std::min(top + kStripRows, job.H); ++row)
      attend_strip(job, s, t, row, left, std::min(kStripPixels, job.W - left));
  }
}

template <int SEGMENT>
AttendRun attention_of(const GuidedJob& job) {
  return job.unit_heads == 1   ? attend_run<SEGMENT, 1>
         : job.unit_heads == 2 ? attend_run<SEGMENT, 2>
                               : attend_run<SEGMENT, 0>;
}

// Sets `attend` and `scratch_floats`.
inline void choose_attention(GuidedJob& job) {
  strip_in(nullptr, job, &job.scratch_floats);
  job.attend = job.segment == 8    ? attention_of<8>(job)
               : job.segment == 12 ? attention_of<12>(job)
               : job.segment == 16 ? attention_of<16>(job)
               : job.segment == 24 ? attention_of<24>(job)
                                   : attend_run<0, 0>;
}
#endif
