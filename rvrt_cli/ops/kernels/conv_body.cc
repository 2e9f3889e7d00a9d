// SPDX-License-Identifier: Apache-2.0
// Convolutions one after the other with bfloat16 operands, in inference: a convolution of several tensors side by side, and
// residual blocks or a chain of convolutions that keep the number of channels.
//
// The rows of an image pass through all layers: as soon as a layer has three rows, the next one computes the row between. Of
// what lies between two layers three rows are kept, as bfloat16, and of what a residual block adds to a few more, as
// float32, so that none of it leaves the cache. Threads share images, or parts of them; a part begins as many rows and
// columns early as there are layers, since each of them spoils one at the edge.
#ifndef RVRT_ISA

#include "bfloat16.h"
#include "convolution.h"

#include <algorithm>

namespace rvrt {
namespace {

constexpr int kMostLayers = 17;
constexpr int64_t kPartPixels = 96;       // whose sums are finished together
constexpr int64_t kKeptFloats = 1 << 18;  // of all layers, in the cache: wider images are cut into columns
constexpr int64_t kNarrowest = 64;        // part of a row [px]

struct BodyLayer {
  HalfPackJob weights;
  const float* bias;
  bool activated;  // by a leaky ReLU
  bool adds;       // to the features before the residual block
  bool keeps;      // its output is the features before the next residual block
};

struct BodyJob {
  int64_t batch, height, width, channels;
  Sources x;
  float scale;  // of the last source
  bool onto;    // that is added to the output
  bool keeps_input;
  int layers;
  BodyLayer layer[kMostLayers];
  float* y;
  int64_t bands, strips;  // parts of an image along each axis
  int64_t line[kMostLayers], ring[kMostLayers];  // numbers of a row and of three, for each layer's input
  float* scratch;
  int64_t scratch_floats, ring_floats;

  int64_t strip_pixels() const {  // at most
    return strips == 1 ? width : std::min(width, ceil_div(width, strips) + 2 * layers);
  }
  int64_t kept_rows() const { return layers + 1; }
};

// A part of an image: output rows [top, bottom) and columns [left, right), and what is computed for them.
struct BodyPart {
  int64_t image, top, bottom, left, right;
  int64_t first_row, last_row, first, pixels;
  uint16_t* ring[kMostLayers];
  float *kept, *row, *sums;  // features before a residual block; one row of a layer's output
};

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "conv_body.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

// What a call computes; tensors are numbered as in conv_body_forward.
struct BodyCall {
  int sources, layers, scale, y;
  bool merges, residual, onto;

  int weight(int layer) const { return sources + 2 * layer; }
  bool activated(int layer) const { return residual ? layer >= merges && (layer - merges) % 2 == 0 : layer >= merges; }
  bool adds(int layer) const { return residual && layer >= merges && !activated(layer); }
};

int read_body(const Tensors& t, BodyCall* call, Sources* x) {
  const int attributes = t.count - 2;
  RVRT_CHECK(attributes > 0, kCount);
  if (int status = t.check(attributes, 4, 1)) return status;
  const int32_t* a = t.ints(attributes);
  for (int i = 1; i < 4; ++i) RVRT_CHECK(a[i] == 0 || a[i] == 1, kAttribute);
  call->sources = a[0], call->merges = a[1], call->residual = a[2], call->onto = a[3];
  call->scale = attributes - 1, call->y = attributes + 1;
  RVRT_CHECK(a[0] >= 1 && (call->merges || a[0] == 1), kAttribute);
  call->layers = (call->scale - a[0]) / 2;
  RVRT_CHECK(call->weight(call->layers) == call->scale && call->layers >= 1, kCount);
  RVRT_CHECK(call->layers <= kMostLayers && (!call->residual || (call->layers - call->merges) % 2 == 0), kCount);
  RVRT_CHECK(t.size(call->scale) == 1 && t.ndims[0] >= 3, kShape);
  if (int status = read_sources(t, call->sources, x)) return status;
  const int y = call->y, last = t.ndims[y] - 1;
  RVRT_CHECK(t.ndims[y] == t.ndims[0], kShape);
  for (int axis = 0; axis < last; ++axis) RVRT_CHECK(t.dim(y, axis) == t.dim(0, axis), kShape);
  const int64_t channels = t.dim(y, last);
  RVRT_CHECK(channels > 0 && (!call->onto || x->channels[x->count - 1] == channels), kShape);
  for (int i = 0; i < call->layers; ++i) {
    const int weight = call->weight(i), end = t.ndims[weight] - 1;
    const int64_t inputs = i ? channels : x->total();
    RVRT_CHECK(end >= 3 && t.dim(weight, end) == 3 && t.dim(weight, end - 1) == 3, kShape);
    RVRT_CHECK(t.dim(weight, 0) == channels && t.dim(weight, 1) == inputs, kShape);
    RVRT_CHECK(t.size(weight) == 9 * channels * inputs && t.size(weight + 1) == channels, kShape);
  }
  RVRT_CHECK(call->merges || x->total() == channels, kShape);
  return kOk;
}

// Parts of images: as few as keep all threads busy, since each computes some rows twice, and as wide as the cache allows.
void divide_images(BodyJob& job) {
  const int64_t pixel = job.kept_rows() * job.channels + 3 * job.channels * job.layers / 2;
  const int64_t widest = std::max(kKeptFloats / pixel, 4 * int64_t{job.layers} + kNarrowest);
  job.strips = job.bands = 1;
  while (job.strip_pixels() > widest) ++job.strips;
  const auto parts = [&] { return job.batch * job.strips * job.bands; };
  while (parts() % threads() && parts() < 4 * threads() && job.height / (job.bands + 1) > 2 * job.layers) ++job.bands;
}

int body_forward(const Tensors& t, const BodyCall& call, const Sources& x) {
  BodyJob job{};
  job.x = x, job.y = t.f(call.y), job.scale = t.f(call.scale)[0], job.onto = call.onto, job.layers = call.layers;
  job.keeps_input = call.residual && !call.merges;
  const int nx = t.ndims[0];
  job.height = t.dim(0, nx - 3), job.width = t.dim(0, nx - 2), job.channels = t.dim(call.y, nx - 1);
  job.batch = t.size(call.y) / (job.height * job.width * job.channels);
  divide_images(job);
  const int64_t columns = round_up(job.channels, kHalfColumns);
  int64_t packed_floats = 0;
  for (int i = 0; i < job.layers; ++i) {
    BodyLayer& layer = job.layer[i];
    layer = {{t.f(call.weight(i)), i ? job.channels : x.total(), job.channels, 3, 3, nullptr}, nullptr,
             call.activated(i), call.adds(i), call.residual && !call.activated(i)};
    packed_floats += layer.weights.floats();
    job.line[i] = round_up((job.strip_pixels() + 2) * layer.weights.inputs, 32);
    // Rows are read up to whole tiles of pixels and of channels.
    job.ring[i] = 3 * job.line[i] + round_up(16 * layer.weights.inputs + layer.weights.depth(), 32);
    job.ring_floats += job.ring[i] / 2;
  }
  job.scratch_floats = job.ring_floats + round_up((job.kept_rows() + 1) * job.strip_pixels() * job.channels, 16) +
                       kPartPixels * kHalfColumns;
  const int64_t tasks = job.batch * job.bands * job.strips;
  const Scratch scratch(parallel_width(tasks) * job.scratch_floats, true);
  const Scratch packed(packed_floats), bias(job.layers * columns, true);
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok(), kMemory);
  job.scratch = scratch.data();
  float* to = packed.data();
  for (int i = 0; i < job.layers; ++i) {
    BodyLayer& layer = job.layer[i];
    layer.weights.packed = reinterpret_cast<uint16_t*>(to);
    layer.bias = bias.data() + i * columns;
    std::memcpy(bias.data() + i * columns, t.f(call.weight(i) + 1), sizeof(float) * job.channels);
    pack_half(layer.weights);
    to += layer.weights.floats();
  }
  return parallel_shared(tasks, RVRT_DISPATCH(body_parts), &job);
}

}  // namespace
}  // namespace rvrt

// Only with bfloat16 operands.
// Inputs: x (..., H, W, Ci), or with `merges` up to five such tensors, whose channels lie side by side; weight
//   (C, Ci, [1,] 3, 3), bias (C) of each layer; scale float32 (1) of the last x; attributes int32
//   [tensors x, merges, residual, onto]. `merges`: the first layer has no activation, and the others follow it. With
//   `residual` these are blocks of two, of which the first passes through a leaky ReLU 0.1 and the second is added to the
//   block's input; otherwise each passes through one. `onto`: the last x, scaled, is added to the output.
// Output: y (..., H, W, C).
RVRT_ENTRY(conv_body_forward) {
  using namespace rvrt;
  BodyCall call;
  Sources x;
  if (int status = read_body(t, &call, &x)) return status;
  RVRT_CHECK(operands() != kFloat32, kAttribute);
  if (!t.size(call.y)) return kOk;
  return body_forward(t, call, x);
}

#else

#include "simd.h"
#include "gemm.h"

RVRT_INLINE uint16_t* ring_row(const BodyJob& job, const BodyPart& p, int layer, int64_t row) {
  return p.ring[layer] + (row + 3) % 3 * job.line[layer];
}

RVRT_INLINE float* kept_row(const BodyJob& job, const BodyPart& p, int64_t row) {
  return p.kept + row % job.kept_rows() * p.pixels * job.channels;
}

static void clear_row(const BodyJob& job, const BodyPart& p, int layer, int64_t row) {
  std::memset(ring_row(job, p, layer, row), 0, sizeof(uint16_t) * job.line[layer]);
}

// Zeros on either side of a row.
RVRT_INLINE void close_row(const BodyJob& job, const BodyPart& p, int layer, uint16_t* row) {
  const int64_t channels = job.layer[layer].weights.inputs;
  std::memset(row, 0, sizeof(uint16_t) * channels);
  std::memset(row + (p.pixels + 1) * channels, 0, sizeof(uint16_t) * channels);
}

// A row of the input of the first layer.
static void take_row(const BodyJob& job, const BodyPart& p, int64_t row) {
  const int64_t pixel = (p.image * job.height + row) * job.width + p.first, all = job.layer[0].weights.inputs;
  uint16_t* to = ring_row(job, p, 0, row);
  close_row(job, p, 0, to);
  to += all;
  for (int k = 0; k < job.x.count; to += job.x.channels[k++]) {
    const float* from = job.x.data[k] + pixel * job.x.channels[k];
    round_pixels(from, p.pixels, job.x.channels[k], k + 1 == job.x.count ? job.scale : 1.0f, to, all);
    if (!job.keeps_input) continue;
    float* kept = kept_row(job, p, row);
    for (int64_t i = 0; i < p.pixels * all; ++i) kept[i] = job.scale * from[i];
  }
}

// Writes the part's columns of an output row that lies in `row`.
static void put_row(const BodyJob& job, const BodyPart& p, int64_t at, const float* row) {
  const int64_t pixel = (p.image * job.height + at) * job.width + p.left, count = (p.right - p.left) * job.channels;
  const float* from = row + (p.left - p.first) * job.channels;
  float* to = job.y + pixel * job.channels;
  if (!job.onto) {
    std::memcpy(to, from, sizeof(float) * count);
    return;
  }
  const float* last = job.x.data[job.x.count - 1] + pixel * job.channels;
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] + job.scale * last[i];
}

// A row of a layer's output.
static void body_row(const BodyJob& job, const BodyPart& p, int index, int64_t row) {
  const BodyLayer& layer = job.layer[index];
  const int64_t channels = job.channels, inputs = layer.weights.inputs;
  const bool last = index + 1 == job.layers;
  float* kept = kept_row(job, p, row);
  float* out = layer.keeps ? kept : p.row;
  uint16_t* next = last ? nullptr : ring_row(job, p, index + 1, row);
  if (next) close_row(job, p, index + 1, next);
  const uint16_t* taps[3];
  for (int k = 0; k < 3; ++k) taps[k] = ring_row(job, p, index, row - 1 + k);
  for (int64_t x = 0; x < p.pixels; x += kPartPixels) {
    const int64_t count = std::min(kPartPixels, p.pixels - x);
    for (int64_t panel = 0; panel < layer.weights.panels(); ++panel) {
      const int64_t first = panel * kHalfColumns, at = x * channels + first;
      half_product({count, layer.weights.depth(), 3, nullptr, inputs, 0,
                    layer.weights.packed + panel * layer.weights.panel_elements(), layer.bias + first, p.sums,
                    kHalfColumns, taps});
      finish(count, std::min(kHalfColumns, channels - first), p.sums, kHalfColumns,
             {layer.activated ? kLeaky01 : kNone, layer.adds ? kept + at : nullptr, channels, out + at, channels});
    }
    if (next) round_to_half(out + x * channels, count * channels, next + (1 + x) * channels);
    for (const uint16_t*& tap : taps) tap += kPartPixels * inputs;
  }
  if (last) put_row(job, p, row, out);
}

static BodyPart part_of(const BodyJob& job, int64_t task, float* scratch) {
  BodyPart p{};
  const int64_t band = task / job.strips % job.bands, strip = task % job.strips;
  p.image = task / (job.strips * job.bands);
  p.top = job.height * band / job.bands, p.bottom = job.height * (band + 1) / job.bands;
  p.left = job.width * strip / job.strips, p.right = job.width * (strip + 1) / job.strips;
  p.first_row = std::max<int64_t>(0, p.top - job.layers), p.last_row = std::min(job.height, p.bottom + job.layers);
  p.first = std::max<int64_t>(0, p.left - job.layers);
  p.pixels = std::min(job.width, p.right + job.layers) - p.first;
  uint16_t* ring = reinterpret_cast<uint16_t*>(scratch);
  for (int i = 0; i < job.layers; ring += job.ring[i++]) p.ring[i] = ring;
  p.kept = scratch + job.ring_floats;
  p.row = p.kept + job.kept_rows() * job.strip_pixels() * job.channels;
  p.sums = scratch + job.scratch_floats - kPartPixels * kHalfColumns;
  return p;
}

// Tasks are parts of images.
inline void body_parts(const void* pointer, Span span) {
  const BodyJob& job = *static_cast<const BodyJob*>(pointer);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const BodyPart p = part_of(job, task, job.scratch + span.thread * job.scratch_floats);
    for (int i = 0; i < job.layers; ++i) clear_row(job, p, i, p.first_row - 1);
    for (int64_t step = p.first_row; step < p.last_row + job.layers; ++step) {
      if (step < p.last_row) take_row(job, p, step);
      if (step == p.last_row) clear_row(job, p, 0, step);
      for (int i = 0; i < job.layers; ++i) {
        const int64_t row = step - 1 - i, later = job.layers - 1 - i;
        if (row == p.last_row && later) clear_row(job, p, i + 1, row);
        if (row < p.first_row || row >= p.last_row || row < p.top - later || row >= p.bottom + later) continue;
        body_row(job, p, i, row);
      }
    }
  }
}
#endif
