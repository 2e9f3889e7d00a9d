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
constexpr int64_t kRunPixels = 8;                     // whose steps alternate, so that one need not wait for another

struct GuidedJob;

// What a thread computes at a strip of pixels. Samples are in the order G, T, K, `line` numbers to a pixel.
struct Strip {
  int64_t line, length;                    // length: samples of a group, in whole vectors
  float *base_y, *base_x;                  // where samples lie before offsets [px]
  int32_t *start, *field;                  // where their frames begin in a compact clip; their fields
  float *query, *y, *x;                    // y, x: offsets [px]
  int32_t* place;                          // of the upper left corner in the compact clip
  float* weight[4];                        // of the corners (y i / 2, x i % 2)
  float *attended, *projected, *features;  // features: hidden ones of the feed-forward part
  float *scores, *mixed[4], *partial;      // of the pixels of a run
  float *sums, *rows;                      // of dense layers; projected keys or values
};

// A run of pixels, from pixel `first` of a strip on.
struct Run {
  int64_t unit, first, count;
};

using AttendRun = void (*)(const GuidedJob&, const Strip&, const Run&);

struct GuidedJob {
  int64_t N, T, H, W, A, G, K, heads, kernel_h, kernel_w;  // A channels of query, key and value
  int64_t units, unit_heads, width, segment;               // channels of a unit, of a head
  int64_t row_floats, frame_floats, clip_floats;           // of a compact clip
  float max_offset;
  const float *query, *key, *value, *hidden, *flows;
  PackedDense to_query, to_key, to_value, to_y, to_x, project, in, out;
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
  const DenseWeights to_y(y + n, y, t.dim(kHidden, 4), n, kFloat32), to_x(x + n, x, t.dim(kHidden, 4), n, kFloat32);
  const DenseWeights to_key = layer(kKeyWeight), to_value = layer(kValueWeight), project = layer(kProjectWeight);
  const DenseWeights in = layer(kInWeight), out = layer(kOutWeight);
  for (const DenseWeights* one : {&to_query, &to_y, &to_x, &to_key, &to_value, &project, &in, &out})
    RVRT_CHECK(one->ok(), kMemory);
  job.to_query = to_query.view(), job.to_key = to_key.view(), job.to_value = to_value.view();
  job.to_y = to_y.view(), job.to_x = to_x.view();
  job.to_y.outputs = job.to_x.outputs = padded_floats(n);  // the padding has zero weights: whole vectors are faster
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
  const auto ints = [&](int64_t n) { return reinterpret_cast<int32_t*>(arena.take(n)); };
  s.line = padded(job.offsets());
  s.length = round_up(job.samples(), W < 4 ? 4 : W);
  const int64_t all = kStripPixels * s.line + W, run = kRunPixels * job.unit_heads * s.length + W;
  s.base_y = arena.take(s.line), s.base_x = arena.take(s.line), s.start = ints(s.line), s.field = ints(s.line);
  s.query = arena.take(kStripPixels * padded(job.A)), s.y = arena.take(all), s.x = arena.take(all);
  s.place = ints(all);
  for (float*& corner : s.weight) corner = arena.take(all);
  s.attended = arena.take(kStripPixels * padded(job.A));
  s.projected = arena.take(kStripPixels * padded(job.project.outputs));
  s.features = arena.take(kStripPixels * padded(job.in.outputs));
  s.scores = arena.take(run);
  for (float*& corner : s.mixed) corner = arena.take(s.length);
  s.partial = arena.take(32 * (s.length + 4));
  s.sums = arena.take(kBlock * kPanelFloats), s.rows = arena.take(kBlock * padded(job.A));
  if (taken) *taken = arena.taken();
  return s;
}

// --- keys and values

// Pixels of a row into its units' compact clips, from pixel `first` on.
inline void pack_pixels(const GuidedJob& job, const float* pixels, int64_t first, int64_t count, float* clip) {
  const int64_t ld = padded(job.A);
  for (int64_t unit = 0; unit < job.units; ++unit, clip += job.clip_floats, pixels += job.width)
    for (int64_t i = 0; i < count; ++i)
      std::copy(pixels + i * ld, pixels + i * ld + job.width, clip + (first + i + 1) * job.width);
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

// Where the samples of query frame `t` lie before offsets; no field beyond the last sample.
static void prepare_frame(const GuidedJob& job, const Strip& s, int64_t t) {
  for (int64_t n = 0; n < s.line; ++n) {
    const int64_t k = n % job.K, field = n / job.K % job.T;
    s.field[n] = n < job.offsets() ? static_cast<int32_t>(field) : -1;
    s.base_y[n] = static_cast<float>(k / job.kernel_w - job.kernel_h / 2);
    s.base_x[n] = static_cast<float>(k % job.kernel_w - job.kernel_w / 2);
    s.start[n] = static_cast<int32_t>((field + t) % job.T * job.frame_floats);
  }
}

// The offsets of pixel i of a strip, and from them corners and their weights; (row, column) of the pixel.
static void find_corners(const GuidedJob& job, const Strip& s, int64_t i, const float* flow, int64_t row,
                         int64_t column) {
  const int64_t step = job.H * job.W * 2;
  const int32_t row_floats = static_cast<int32_t>(job.row_floats), width = static_cast<int32_t>(job.width);
  for (int64_t n = 0; n < s.line; n += W) {
    const int64_t at = i * s.line + n;
    const vi field = load(s.field + n);
    vf guide_y = {}, guide_x = {};
    for (int64_t f = 0; f < job.T; ++f) {
      const vi here = field == static_cast<int32_t>(f);
      guide_x = here ? set1(flow[f * step]) : guide_x, guide_y = here ? set1(flow[f * step + 1]) : guide_y;
    }
    const vf oy = job.max_offset * tanh(load(s.y + at)) + guide_y;
    const vf ox = job.max_offset * tanh(load(s.x + at)) + guide_x;
    store(s.y + at, oy), store(s.x + at, ox);
    vf wy[2], wx[2], slope[2];
    const vi y = axis(load(s.base_y + n) + static_cast<float>(row) + oy, job.H, wy, slope);
    const vi x = axis(load(s.base_x + n) + static_cast<float>(column) + ox, job.W, wx, slope);
    store(s.place + at, load(s.start + n) + y * row_floats + x * width);
    for (int k = 0; k < 4; ++k) store(s.weight[k] + at, wy[k >> 1] * wx[k & 1]);
  }
}

// The mean offsets of the fields of pixel i.
static void correct_flows(const GuidedJob& job, const Strip& s, int64_t i, float* corrected) {
  const float over = 1.0f / static_cast<float>(job.G * job.K);
  for (int64_t f = 0; f < job.T; ++f, corrected += job.H * job.W * 2) {
    vf y = {}, x = {};
    for (int64_t n = 0; n < s.line; n += W) {
      const vi here = load(s.field + n) == static_cast<int32_t>(f);
      y += (vf)((vi)load(s.y + i * s.line + n) & here), x += (vf)((vi)load(s.x + i * s.line + n) & here);
    }
    corrected[0] = sum(x) * over, corrected[1] = sum(y) * over;
  }
}

// --- attention

// The samples of a unit's keys or values at pixel i, and where their weights begin.
RVRT_INLINE Samples samples_of(const GuidedJob& job, const Strip& s, int64_t i, int64_t group,
                               const float* (&weight)[4]) {
  const int64_t at = i * s.line + group * job.samples();
  for (int k = 0; k < 4; ++k) weight[k] = s.weight[k] + at;
  return {job.samples(), s.length, s.place + at, 0, job.width, job.row_floats};
}

template <int SEGMENT, bool PAIR>
static void attend_run(const GuidedJob& job, const Strip& s, const Run& r) {
  const int64_t ld = padded(job.A), channel = r.unit * job.width, scores = job.unit_heads * s.length;
  const float *keys = job.keys + r.unit * job.clip_floats, *values = job.values + r.unit * job.clip_floats;
  const float* weight[4];
  std::fill(s.scores, s.scores + r.count * scores, 0.0f);
  for (int64_t i = 0; i < r.count; ++i) {
    const Samples samples = samples_of(job, s, r.first + i, r.unit, weight);
    const float* query = s.query + (r.first + i) * ld + channel;
    if constexpr (PAIR)
      HeadPair<SEGMENT>::scores(samples, keys, query, weight, s.partial, s.scores + i * scores);
    else
      for (int64_t h = 0, c = 0; h < job.unit_heads; ++h, c += job.segment)
        over_segment<SEGMENT>(job.segment, ScoreChunk{samples, keys + c, query + c, weight, s.partial,
                                                      s.scores + i * scores + h * s.length});
  }
  for (int64_t h = 0; h < r.count * job.unit_heads; ++h) softmax(job.samples(), s.length, s.scores + h * s.length);
  for (int64_t i = 0; i < r.count; ++i) {
    const Samples samples = samples_of(job, s, r.first + i, r.unit + job.units, weight);
    float* out = s.attended + (r.first + i) * ld + channel;
    if constexpr (PAIR) {
      HeadPair<SEGMENT>::combine(samples, values, weight, s.scores + i * scores, out);
    } else {
      for (int64_t h = 0, c = 0; h < job.unit_heads; ++h, c += job.segment) {
        const float* share = s.scores + i * scores + h * s.length;
        for (int64_t n = 0; n < s.length; n += W)
          for (int k = 0; k < 4; ++k) store(s.mixed[k] + n, load(weight[k] + n) * load(share + n));
        over_segment<SEGMENT>(job.segment, CombineChunk{samples, values + c, s.mixed, out + c});
      }
    }
  }
}

static void attend_strip(const GuidedJob& job, const Strip& s, int64_t t, int64_t row, int64_t column, int64_t count) {
  const int64_t pixel = job.pixel(t, row, column), ld = padded(job.A);
  const auto rows = [&](const PackedDense& layer, const float* x, float* y, int64_t ldy) {
    dense_rows(count, layer, x + pixel * layer.inputs, layer.inputs, s.sums, {kNone, nullptr, 0, y, ldy});
  };
  rows(job.to_query, job.query, s.query, ld);
  rows(job.to_y, job.hidden, s.y, s.line), rows(job.to_x, job.hidden, s.x, s.line);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t flow = job.flow_at(pixel + i);
    find_corners(job, s, i, job.flows + flow, row, column + i);
    correct_flows(job, s, i, job.corrected + flow);
  }
  for (int64_t unit = 0; unit < job.units; ++unit)
    for (int64_t first = 0; first < count; first += kRunPixels)
      job.attend(job, s, {unit, first, std::min(kRunPixels, count - first)});
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
  int64_t prepared = -1;
  for (int64_t tile = span.begin; tile < span.end; ++tile) {
    const int64_t t = tile / (across * down), top = tile / across % down * kStripRows;
    const int64_t left = tile % across * kStripPixels;
    if (t != prepared) prepare_frame(job, s, prepared = t);
    for (int64_t row = top; row < std::min(top + kStripRows, job.H); ++row)
      attend_strip(job, s, t, row, left, std::min(kStripPixels, job.W - left));
  }
}

template <int SEGMENT>
AttendRun attention_of(const GuidedJob& job) {
  return job.unit_heads == 2 ? attend_run<SEGMENT, true> : attend_run<SEGMENT, false>;
}

// Sets `attend` and `scratch_floats`.
inline void choose_attention(GuidedJob& job) {
  strip_in(nullptr, job, &job.scratch_floats);
  job.attend = job.segment == 8    ? attention_of<8>(job)
               : job.segment == 12 ? attention_of<12>(job)
               : job.segment == 16 ? attention_of<16>(job)
               : job.segment == 24 ? attention_of<24>(job)
                                   : attend_run<0, false>;
}
#endif
