// SPDX-License-Identifier: Apache-2.0
// 2-D convolution, stride 1, zero padding, channels last: forward and gradients.
//
// A tile of the image is copied with its halo into scratch memory. There the kw taps of one kernel row lie side by
// side, so the convolution is kh products of depth kw * Ci whose rows overlap: no column buffer. With g the gradient of
// the output before the activation, dx is the convolution of g with the flipped weights, and the weights' gradient is
// sum over p of x[p] g[p - tap], taken from the tile of x and the tile of g with halo.
#ifndef RVRT_ISA

#include "bfloat16.h"
#include "convolution.h"
#include "row_blocks.h"

#include <algorithm>

namespace rvrt {

// One convolution from `inputs` to `outputs` channels and how it is cut into tiles.
struct Convolution {
  int64_t batch, height, width, inputs, outputs, kh, kw;
  int64_t rows, columns;          // of a tile; the last ones may be smaller
  int64_t down, across;           // tiles per image
  bool project;                   // few outputs: see conv_tile
  int64_t groups, group_outputs;  // products per kernel row: depth groups * inputs, group_outputs columns
  int64_t tiles() const { return batch * down * across; }
  int64_t halo_width() const { return columns + kw - 1; }
  int64_t halo_floats(int64_t channels) const { return (rows + kh - 1) * halo_width() * channels + 64; }
};

struct PackJob {
  const Convolution* conv;
  const float* weight;
  bool flipped;  // weight is (inputs, outputs, kh, kw) of `conv`, taps reversed
  float* packed;
};

struct ConvForwardJob {
  Convolution conv;
  Sources x;
  const float *bias, *residual, *packed;
  float* y;
  int activation;
  float* scratch;
  int64_t scratch_floats;
};

// The forward pass with bfloat16 operands.
struct HalfConvJob {
  Convolution conv;
  Sources x;
  HalfPackJob weights;
  const float *bias, *residual;
  float* y;
  int activation;
  float* scratch;  // halo as bfloat16, sums
  int64_t scratch_floats, halo_floats;
};

struct ConvBackwardJob {
  Convolution conv;  // from dy to dx: inputs are the layer's outputs
  const float *x, *y, *dy, *packed, *bias;
  float* dx;
  int activation;
  float* scratch;
  int64_t scratch_floats, tile_floats, sum_columns;
};

struct ConvReduceJob {
  int64_t inputs, outputs, kh, kw;
  const float* sums;  // per thread: the weights' gradient (kh, inputs, sum_columns), then the bias's
  int64_t stride, sum_columns;
  int threads;
  float *dweight, *dbias;
};

constexpr int64_t kHalfPart = 96;  // pixels whose sums are finished together

}  // namespace rvrt

#define RVRT_KERNEL "conv2d.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

// Tiles of about 256 pixels whose halo fits half a megabyte, and enough of them for all threads.
Convolution plan(int64_t batch, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh,
                 int64_t kw) {
  Convolution c{batch, height, width, inputs, outputs, kh, kw, 0, 0, 0, 0, false, 0, 0};
  c.across = ceil_div(width, 72);
  c.columns = std::min(width, round_up(ceil_div(width, c.across), RVRT_DISPATCH(kTile)));
  c.across = ceil_div(width, c.columns);
  const int64_t line = c.halo_width() * std::max(inputs, outputs);
  c.rows = std::min({std::max<int64_t>(65536 / line - (kh - 1), 1), ceil_div(256, c.columns), height});
  while (c.rows > 1 && batch * ceil_div(height, c.rows) * c.across < 8 * threads()) --c.rows;
  c.rows = ceil_div(height, ceil_div(height, c.rows));
  c.down = ceil_div(height, c.rows);
  const int64_t lanes = RVRT_DISPATCH(W);
  c.project = kw > 1 && 3 * ceil_div(kw * outputs, lanes) <= 2 * kw * ceil_div(outputs, lanes);
  c.groups = c.project ? 1 : kw;
  c.group_outputs = c.project ? kw * outputs : outputs;
  return c;
}

int64_t packed_floats(const Convolution& c) { return c.kh * c.groups * c.inputs * padded_floats(c.group_outputs); }

// Partial sums of a tile: one panel, or all of them where outputs are projected.
int64_t sum_floats(const Convolution& c) {
  const int64_t panel = RVRT_DISPATCH(kPanelFloats);
  return c.rows * (c.project ? c.halo_width() * padded_floats(c.group_outputs) : c.columns * panel) +
         4;  // read four at a time
}

struct Sizes {
  int64_t batch, height, width, inputs, outputs, kh, kw;
};

// x (..., H, W, Ci), the first tensors of the call, and weight (Co, Ci, [1,] kh, kw), kh and kw odd.
int conv_sizes(const Tensors& t, const Sources& x, int weight, Sizes* s) {
  const int nx = t.ndims[0], nw = t.ndims[weight];
  RVRT_CHECK(nx >= 3 && (nw == 4 || (nw == 5 && t.dim(weight, 2) == 1)), kShape);
  s->height = t.dim(0, nx - 3);
  s->width = t.dim(0, nx - 2);
  s->inputs = x.total();
  s->outputs = t.dim(weight, 0);
  s->kh = t.dim(weight, nw - 2);
  s->kw = t.dim(weight, nw - 1);
  RVRT_CHECK(t.dim(weight, 1) == s->inputs && s->inputs > 0 && s->outputs > 0, kShape);
  RVRT_CHECK(s->kh % 2 == 1 && s->kw % 2 == 1, kShape);
  const int64_t image = s->height * s->width * x.channels[0];
  s->batch = image > 0 ? t.size(0) / image : 0;
  return kOk;
}

// Zeros in `count` tensors from `first` on.
void clear(const Tensors& t, int first, int count) {
  for (int i = first; i < first + count; ++i) std::memset(t.f(i), 0, sizeof(float) * t.size(i));
}

// The tensors of a layer's input as one, or the gradient of that one as one of each.
struct JoinJob {
  const Sources* apart;
  const Destinations* to;
  float* whole;
};

void join_pixels(const void* pointer, Span span) {
  const JoinJob& job = *static_cast<const JoinJob*>(pointer);
  float* out = job.whole + span.begin * job.apart->total();
  for (int64_t pixel = span.begin; pixel < span.end; ++pixel)
    for (int i = 0; i < job.apart->count; out += job.apart->channels[i++])
      std::memcpy(out, job.apart->data[i] + pixel * job.apart->channels[i], sizeof(float) * job.apart->channels[i]);
}

void split_pixels(const void* pointer, Span span) {
  const JoinJob& job = *static_cast<const JoinJob*>(pointer);
  const int64_t channels = job.apart->total();
  for (int64_t pixel = span.begin; pixel < span.end; ++pixel)
    scatter_channels(job.whole + pixel * channels, *job.to, pixel, 0, channels);
}

// conv2d_forward and conv2d_backward by Winograd's algorithm; `convolve` is that of float32 or of bfloat16.
int winograd_forward(const Tensors& t, const Sources& x, const Sizes& s, int (*convolve)(const WinogradCall&)) {
  const int weight = x.count;
  const int32_t* attributes = t.ints(weight + 3);
  WinogradCall call{};
  call.batch = s.batch, call.height = s.height, call.width = s.width;
  call.inputs = s.inputs, call.outputs = s.outputs;
  call.x = x;
  call.weight = t.f(weight);
  call.bias = attributes[1] ? t.f(weight + 1) : nullptr;
  call.residual = attributes[2] ? t.f(weight + 2) : nullptr;
  call.y = {1, {t.f(weight + 4)}, {s.outputs}};
  call.y_stride = s.outputs;
  call.activation = attributes[0];
  return convolve(call);
}

int winograd_backward(const Tensors& t, const Sources& x, const Destinations& dx, const Sizes& s) {
  const int weight = x.count, y = weight + 1, dy = weight + 2, dweight = weight + 4 + dx.count;
  const int32_t* attributes = t.ints(weight + 3);
  if (attributes[1]) {
    WinogradCall call{};  // from dy to dx: inputs are the layer's outputs
    call.batch = s.batch, call.height = s.height, call.width = s.width;
    call.inputs = s.outputs, call.outputs = s.inputs;
    call.x = {1, {t.f(dy)}, {s.outputs}, {s.outputs}};
    call.through = attributes[0] ? t.f(y) : nullptr;
    call.through_activation = attributes[0];
    call.weight = t.f(weight);
    call.flipped = true;
    call.y = dx;
    call.y_stride = s.inputs;
    if (int status = winograd_convolve(call)) return status;
  } else {
    clear(t, weight + 4, dx.count);
  }
  WinogradGradientCall call{};
  call.batch = s.batch, call.height = s.height, call.width = s.width;
  call.inputs = s.inputs, call.outputs = s.outputs;
  call.x = x;
  call.y = attributes[0] ? t.f(y) : nullptr;
  call.dy = t.f(dy);
  call.activation = attributes[0];
  call.dweight = t.f(dweight), call.dbias = t.f(dweight + 1);
  return winograd_weight_gradient(call);
}

}  // namespace
}  // namespace rvrt

namespace rvrt {
namespace {

// Few channels fill no tile of operands. Without AMX, products of bfloat16 are at best twice as fast as those of float32,
// less than what Winograd's algorithm gains.
bool half_suits(const Sizes& s, bool winograd) {
  if (operands() == kFloat32 || s.kw * s.inputs < kHalfDepth || s.outputs < 16) return false;
  return !multiplies_pairs() || !winograd;
}

constexpr int64_t kHalfHalo = 1 << 18;  // numbers
constexpr int64_t kHalfTileRows = 16;

// Cuts a convolution into tiles whose halo of `margin` rows and columns, half as large as in float32, stays in the L2 cache
// with the weights; wide ones if there are few channels.
void plan_half(Convolution& c, int64_t margin) {
  const int64_t widest = std::clamp<int64_t>(round_up(10752 / c.inputs, 16), 64, 336);
  c.columns = std::min(c.width, round_up(ceil_div(c.width, ceil_div(c.width, widest)), 16));
  c.across = ceil_div(c.width, c.columns);
  c.rows = kHalfHalo / ((c.columns + margin) * c.inputs) - margin;
  c.rows = std::clamp<int64_t>(c.rows, 1, std::min(kHalfTileRows, c.height));
  while (c.rows > 4 && c.batch * ceil_div(c.height, c.rows) * c.across < 4 * threads()) --c.rows;
  c.rows = ceil_div(c.height, ceil_div(c.height, c.rows));
  c.down = ceil_div(c.height, c.rows);
}

int half_forward(const Tensors& t, const Sources& x, const Sizes& s) {
  const int weight = x.count;
  const int32_t* attributes = t.ints(weight + 3);
  HalfConvJob job{};
  Convolution& c = job.conv;
  c = plan(s.batch, s.height, s.width, s.inputs, s.outputs, s.kh, s.kw);
  plan_half(c, std::max(c.kh, c.kw) - 1);
  job.weights = {t.f(weight), c.inputs, c.outputs, c.kh, c.kw, nullptr};
  // Rows are read beyond the halo: up to whole tiles of pixels and of channels.
  const int64_t halo = c.halo_floats(c.inputs) + 16 * c.inputs + job.weights.depth(), sums = kHalfPart * kHalfColumns;
  job.halo_floats = round_up(ceil_div(halo, 2), 16);
  job.scratch_floats = job.halo_floats + sums;
  const Scratch scratch(parallel_width(c.tiles()) * job.scratch_floats, true);
  const Scratch packed(job.weights.floats()), bias(job.weights.panels() * kHalfColumns, true);
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok(), kMemory);
  job.x = x;
  if (attributes[1]) std::memcpy(bias.data(), t.f(weight + 1), sizeof(float) * c.outputs);
  job.bias = bias.data();
  job.residual = attributes[2] ? t.f(weight + 2) : nullptr;
  job.y = t.f(weight + 4);
  job.activation = attributes[0];
  job.weights.packed = reinterpret_cast<uint16_t*>(packed.data());
  job.scratch = scratch.data();
  pack_half(job.weights);
  return parallel_shared(c.tiles(), RVRT_DISPATCH(half_conv_tiles), &job);
}

}  // namespace
}  // namespace rvrt

// y = activation(x * weight + bias) + residual.
// Inputs: x (..., H, W, Ci), or up to five such tensors whose channels lie side by side; weight (Co, Ci, [1,] kh, kw),
//   odd; bias (Co); residual (..., H, W, Co); attributes int32 [activation, has_bias, has_residual]. For an absent
//   tensor pass any float32 tensor; it is not read. activation: 0 none, 1 leaky ReLU 0.1, 2 leaky ReLU 0.2, 3 ReLU.
// Output: y (..., H, W, Co).
RVRT_ENTRY(conv2d_forward) {
  using namespace rvrt;
  const int weight = t.count - 5;
  if (int status = t.check(weight + 3, 3, 1)) return status;
  Sources x;
  if (int status = read_sources(t, weight, &x)) return status;
  Sizes s;
  if (int status = conv_sizes(t, x, weight, &s)) return status;
  const int bias = weight + 1, residual = weight + 2, y = weight + 4;
  const int32_t* attributes = t.ints(weight + 3);
  RVRT_CHECK(attributes[0] >= 0 && attributes[0] <= 3, kAttribute);
  const int64_t pixels = s.batch * s.height * s.width;
  RVRT_CHECK(t.size(y) == pixels * s.outputs, kShape);
  RVRT_CHECK(!attributes[1] || t.size(bias) == s.outputs, kShape);
  RVRT_CHECK(!attributes[2] || t.size(residual) == pixels * s.outputs, kShape);
  if (!pixels) return kOk;
  if (half_winograd_suits(s.batch, s.height, s.width, s.inputs, s.outputs, s.kh, s.kw))
    return winograd_forward(t, x, s, half_winograd_convolve);
  const bool wide = x.count == 1 && winograd_7x7_suits(s.height, s.width, s.inputs, s.outputs, s.kh, s.kw);
  const bool winograd = wide || winograd_suits(s.batch, s.height, s.width, s.inputs, s.outputs, s.kh, s.kw);
  if (wide && multiplies_pairs()) return winograd_forward(t, x, s, half_winograd_7x7_convolve);
  if (half_suits(s, winograd)) return half_forward(t, x, s);
  if (winograd) return winograd_forward(t, x, s, wide ? winograd_7x7_convolve : winograd_convolve);
  ConvForwardJob job{};
  job.conv = plan(s.batch, s.height, s.width, s.inputs, s.outputs, s.kh, s.kw);
  const Convolution& c = job.conv;
  const int n = parallel_width(c.tiles());
  job.scratch_floats = round_up(c.halo_floats(c.inputs), 16) + round_up(sum_floats(c), 16);
  const Scratch scratch(n * job.scratch_floats), packed(packed_floats(c));
  const Scratch padded_bias(padded_floats(c.outputs) + padded_floats(c.group_outputs), true);
  RVRT_CHECK(scratch.ok() && packed.ok() && padded_bias.ok(), kMemory);
  const PackJob pack{&c, t.f(weight), false, packed.data()};
  parallel(c.inputs, RVRT_DISPATCH(conv_pack), &pack, workers_for(packed_floats(c)));
  if (attributes[1]) std::memcpy(padded_bias.data(), t.f(bias), sizeof(float) * s.outputs);
  job.x = x;
  job.bias = padded_bias.data();
  job.residual = attributes[2] ? t.f(residual) : nullptr;
  job.packed = packed.data();
  job.y = t.f(y);
  job.activation = attributes[0];
  job.scratch = scratch.data();
  return parallel_shared(c.tiles(), RVRT_DISPATCH(conv_forward_tiles), &job);
}

namespace rvrt {
namespace {

int direct_backward(const Tensors& t, const Sources& x, const Destinations& dx, const Sizes& s) {
  const int weight = x.count, y = weight + 1, dy = weight + 2, dweight = weight + 4 + dx.count;
  const int32_t* attributes = t.ints(weight + 3);
  ConvBackwardJob job{};
  job.conv =
      plan(s.batch, std::max<int64_t>(s.height, 1), std::max<int64_t>(s.width, 1), s.outputs, s.inputs, s.kh, s.kw);
  const Convolution& c = job.conv;
  const int64_t pixels = s.batch * s.height * s.width;
  job.sum_columns = padded_floats(s.kw * s.outputs);
  const int64_t bias_floats = round_up(s.outputs, 16);
  const int64_t gradient = round_up(s.kh * s.inputs * job.sum_columns, 16);
  job.tile_floats = round_up(c.halo_floats(s.outputs), 16);
  const int n = parallel_width(c.tiles());
  job.scratch_floats = job.tile_floats + round_up(c.halo_floats(s.inputs), 16) + round_up(sum_floats(c), 16);
  const int64_t stride = gradient + bias_floats;
  const Scratch scratch(n * (job.scratch_floats + stride), true), packed(packed_floats(c));
  const Scratch bias(padded_floats(c.outputs) + padded_floats(c.group_outputs), true);
  const Scratch together(x.count > 1 ? 2 * pixels * s.inputs : 0);  // x, dx
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok() && together.ok(), kMemory);
  if (attributes[1]) {
    const PackJob pack{&c, t.f(weight), true, packed.data()};
    parallel(c.inputs, RVRT_DISPATCH(conv_pack), &pack, workers_for(packed_floats(c)));
  } else {
    clear(t, weight + 4, dx.count);
  }
  job.x = x.data[0], job.dx = dx.data[0];
  if (x.count > 1) {
    const JoinJob join{&x, nullptr, together.data()};
    parallel(pixels, join_pixels, &join);
    job.x = together.data(), job.dx = together.data() + pixels * s.inputs;
  }
  const JoinJob split{&x, &dx, job.dx};
  if (!attributes[1]) job.dx = nullptr;
  job.y = t.f(y);
  job.dy = t.f(dy);
  job.packed = packed.data();
  job.bias = bias.data();
  job.activation = attributes[0];
  job.scratch = scratch.data();
  job.scratch_floats += stride;
  if (pixels) parallel(c.tiles(), RVRT_DISPATCH(conv_backward_tiles), &job);
  if (x.count > 1 && attributes[1]) parallel(pixels, split_pixels, &split);
  const ConvReduceJob reduce{
      s.inputs,           s.outputs,       s.kh, s.kw,         scratch.data() + job.scratch_floats - stride,
      job.scratch_floats, job.sum_columns, n,    t.f(dweight), t.f(dweight + 1)};
  return parallel(s.outputs, RVRT_DISPATCH(conv_reduce_outputs), &reduce, workers_for(t.size(dweight)));
}

}  // namespace
}  // namespace rvrt

// Gradients of conv2d_forward (the residual's is dy itself).
// Inputs: x (..., H, W, Ci), or up to five such tensors as there; weight (Co, Ci, [1,] kh, kw); y (..., H, W, Co), what the
//   activation gave, without a residual (unread without activation); dy (..., H, W, Co); attributes as there, with needs_dx
//   in place of has_bias.
// Outputs: dx of each x (where it is not needed zeros, of any shape), dweight, dbias (Co).
RVRT_ENTRY(conv2d_backward) {
  using namespace rvrt;
  const int sources = (t.count - 6) / 2, weight = sources, y = weight + 1, dy = weight + 2, dweight = 2 * sources + 4;
  RVRT_CHECK(t.count == 2 * sources + 6, kCount);
  if (int status = t.check(sources + 3, 3, sources + 2)) return status;
  Sources x;
  if (int status = read_sources(t, sources, &x)) return status;
  const int32_t* attributes = t.ints(weight + 3);
  Destinations dx{};
  dx.count = sources;
  if (attributes[1])
    if (int status = read_destinations(t, x, weight + 4, &dx)) return status;
  Sizes s;
  if (int status = conv_sizes(t, x, weight, &s)) return status;
  RVRT_CHECK(attributes[0] >= 0 && attributes[0] <= 3, kAttribute);
  const int64_t pixels = s.batch * s.height * s.width;
  RVRT_CHECK(t.size(dy) == pixels * s.outputs && (!attributes[0] || t.same_shape(y, dy)), kShape);
  RVRT_CHECK(t.size(dweight) == t.size(weight) && t.size(dweight + 1) == s.outputs, kShape);
  if (pixels && winograd_suits(s.batch, s.height, s.width, s.inputs, s.outputs, s.kh, s.kw))
    return winograd_backward(t, x, dx, s);
  return direct_backward(t, x, dx, s);
}

#else

#include "simd.h"
#include "gemm.h"

// The weights of input channels [begin, end) into panels, one matrix per kernel row: B[kx * inputs + c, n], or
// B[c, kx * outputs + n] where outputs are projected.
inline void conv_pack(const void* pointer, Span span) {
  const PackJob& job = *static_cast<const PackJob*>(pointer);
  const Convolution& c = *job.conv;
  const int64_t taps = c.kh * c.kw, depth = c.groups * c.inputs;
  const int64_t stride_in = job.flipped ? c.outputs * taps : taps, stride_out = job.flipped ? taps : c.inputs * taps;
  const int64_t matrix = depth * padded(c.group_outputs), all = vectors(c.group_outputs);
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    const int64_t ld = width * W;
    const int64_t count = c.group_outputs - v * W < ld ? c.group_outputs - v * W : ld;
    const float* sources[kPanelFloats];  // of each column
    for (int64_t j = 0; j < count; ++j) {
      const int64_t column = v * W + j, out = column % c.outputs, kx = c.project ? column / c.outputs : 0;
      sources[j] = job.weight + out * stride_out + (job.flipped ? taps - 1 - kx : kx);
    }
    for (int64_t in = span.begin; in < span.end; ++in)
      for (int64_t ky = 0; ky < c.kh; ++ky)
        for (int64_t group = 0; group < c.groups; ++group) {
          const int64_t tap = ky * c.kw + group, at = in * stride_in + (job.flipped ? -tap : tap);
          float* row = job.packed + ky * matrix + v * W * depth + (group * c.inputs + in) * ld;
          for (int64_t j = 0; j < count; ++j) row[j] = sources[j][at];
          for (int64_t j = count; j < ld; ++j) row[j] = 0.0f;
        }
    v += width;
  }
}

struct TilePlace {
  int64_t image, y, x, rows, columns;
};

inline TilePlace place(const Convolution& c, int64_t tile) {
  const int64_t image = tile / (c.down * c.across), y = tile / c.across % c.down * c.rows,
                x = tile % c.across * c.columns;
  const int64_t rows = c.height - y < c.rows ? c.height - y : c.rows;
  const int64_t columns = c.width - x < c.columns ? c.width - x : c.columns;
  return {image, y, x, rows, columns};
}

// The tile's pixels and `top` rows, `left` columns around it, zeros beyond the image, in rows of columns + 2 * left.
// With `y`, the gradient `image` goes through the activation.
inline void copy_halo(const Convolution& c, const TilePlace& p, const float* image, const float* y, float slope,
                      int64_t channels, int64_t top, int64_t left, float* out) {
  const int64_t first = p.x - left < 0 ? 0 : p.x - left;
  const int64_t last = p.x + p.columns + left > c.width ? c.width : p.x + p.columns + left;
  const int64_t line = (p.columns + 2 * left) * channels;
  const int64_t before = (first - (p.x - left)) * channels, count = (last - first) * channels;
  for (int64_t row = p.y - top; row < p.y + p.rows + top; ++row, out += line) {
    if (row < 0 || row >= c.height) {
      std::memset(out, 0, sizeof(float) * line);
      continue;
    }
    const int64_t source = ((p.image * c.height + row) * c.width + first) * channels;
    std::memset(out, 0, sizeof(float) * before);
    if (y)
      copy_gradient(image + source, y + source, slope, count, out + before);
    else
      std::memcpy(out + before, image + source, sizeof(float) * count);
    std::memset(out + before + count, 0, sizeof(float) * (line - before - count));
  }
}

// The same of several tensors, whose channels come to lie side by side.
inline void copy_halo(const Convolution& c, const TilePlace& p, const Sources& x, float* out) {
  if (x.count == 1) return copy_halo(c, p, x.data[0], nullptr, 1.0f, c.inputs, c.kh / 2, c.kw / 2, out);
  for (int64_t row = p.y - c.kh / 2; row < p.y + p.rows + c.kh / 2; ++row)
    for (int64_t column = p.x - c.kw / 2; column < p.x + p.columns + c.kw / 2; ++column) {
      const bool inside = row >= 0 && row < c.height && column >= 0 && column < c.width;
      const int64_t pixel = (p.image * c.height + row) * c.width + column;
      for (int i = 0; i < x.count; out += x.channels[i++]) {
        if (inside)
          std::memcpy(out, x.data[i] + pixel * x.channels[i], sizeof(float) * x.channels[i]);
        else
          std::memset(out, 0, sizeof(float) * x.channels[i]);
      }
    }
}

// Few outputs leave most of a vector empty. So for each pixel of a row all kw * outputs products are formed, and a
// pixel's sum is gathered from its kw neighbors.
inline void gather_projected(const Convolution& c, int64_t columns, const float* sums, const float* bias,
                             const Finish& f) {
  const int64_t ld = padded(c.group_outputs);
  const float slope = negative_slope(f.activation);
  for (int64_t x = 0; x < columns; ++x)
    for (int64_t n = 0; n < c.outputs; n += 4) {
      v4 s = load4(bias + n);
      for (int64_t kx = 0; kx < c.kw; ++kx) s += load4(sums + (x + kx) * ld + kx * c.outputs + n);
      s = s > 0.0f ? s : s * slope;
      const int64_t at = x * f.ldo + n, count = c.outputs - n < 4 ? c.outputs - n : 4;
      if (f.residual)
        for (int64_t i = 0; i < count; ++i) s[i] += f.residual[at + i];
      if (count == 4)
        store4(f.out + at, s);
      else
        for (int64_t i = 0; i < count; ++i) f.out[at + i] = s[i];
    }
}

// One tile: `halo` as copy_halo left it; `f` starts at the tile's first pixel, f.ldo is a pixel's stride.
inline void conv_tile(const Convolution& c, const TilePlace& p, const float* halo, const float* packed,
                      const float* bias, float* sums, const Finish& f) {
  const int64_t line = (p.columns + c.kw - 1) * c.inputs, depth = c.groups * c.inputs;
  const int64_t matrix = depth * padded(c.group_outputs), all = vectors(c.group_outputs);
  const int64_t width_out = c.project ? p.columns + c.kw - 1 : p.columns;
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    const int64_t first = v * W, ld = c.project ? padded(c.group_outputs) : width * W;
    float* panel_sums = c.project ? sums + first : sums;
    const int64_t count = c.outputs - first < width * W ? c.outputs - first : width * W;
    for (int64_t ky = 0; ky < c.kh; ++ky)
      for (int64_t row = 0; row < p.rows; ++row) {
        float* out = panel_sums + row * width_out * ld;
        const bool begins = ky == 0;
        const float* start =
            !begins ? out : bias + (c.project ? padded(c.outputs) : first);  // zeros lie behind the bias
        product({width_out, width, depth, halo + (row + ky) * line, c.inputs, packed + ky * matrix + first * depth,
                 width * W, start, begins ? 0 : ld, out, ld});
        if (ky == c.kh - 1 && !c.project) {
          const int64_t offset = row * c.width * f.ldo + first;
          finish(p.columns, count, out, ld,
                 {f.activation, f.residual ? f.residual + offset : nullptr, f.ldo, f.out + offset, f.ldo});
        }
      }
    v += width;
  }
  if (c.project)
    for (int64_t row = 0; row < p.rows; ++row) {
      const int64_t offset = row * c.width * f.ldo;
      gather_projected(c, p.columns, sums + row * width_out * padded(c.group_outputs), bias,
                       {f.activation, f.residual ? f.residual + offset : nullptr, f.ldo, f.out + offset, f.ldo});
    }
}

inline void conv_forward_tiles(const void* pointer, Span span) {
  const ConvForwardJob& job = *static_cast<const ConvForwardJob*>(pointer);
  const Convolution& c = job.conv;
  float* halo = job.scratch + span.thread * job.scratch_floats;
  float* sums = halo + (c.halo_floats(c.inputs) + 15) / 16 * 16;
  for (int64_t tile = span.begin; tile < span.end; ++tile) {
    const TilePlace p = place(c, tile);
    copy_halo(c, p, job.x, halo);
    const int64_t offset = ((p.image * c.height + p.y) * c.width + p.x) * c.outputs;
    conv_tile(c, p, halo, job.packed, job.bias, sums,
              {job.activation, job.residual ? job.residual + offset : nullptr, c.outputs, job.y + offset, c.outputs});
  }
}

// --- bfloat16

// The tile's pixels with their halo, as bfloat16, zeros beyond the image.
inline void copy_half_halo(const Convolution& c, const Sources& x, const TilePlace& p, uint16_t* out) {
  const int64_t top = c.kh / 2, left = c.kw / 2, line = (p.columns + 2 * left) * c.inputs;
  const int64_t first = p.x - left < 0 ? 0 : p.x - left;
  const int64_t last = p.x + p.columns + left > c.width ? c.width : p.x + p.columns + left;
  const int64_t before = (first - (p.x - left)) * c.inputs, count = (last - first) * c.inputs;
  for (int64_t row = p.y - top; row < p.y + p.rows + top; ++row, out += line) {
    if (row < 0 || row >= c.height) {
      std::memset(out, 0, sizeof(uint16_t) * line);
      continue;
    }
    std::memset(out, 0, sizeof(uint16_t) * before);
    std::memset(out + before + count, 0, sizeof(uint16_t) * (line - before - count));
    const int64_t pixel = (p.image * c.height + row) * c.width + first;
    if (x.count == 1) {
      round_to_half(x.data[0] + pixel * c.inputs, count, out + before);
      continue;
    }
    uint16_t* to = out + before;
    for (int k = 0; k < x.count; to += x.channels[k++])
      round_pixels(x.data[k] + pixel * x.channels[k], last - first, x.channels[k], 1.0f, to, c.inputs);
  }
}

// The rows of pixels of `product`, in parts whose sums stay in the L1 cache, through `finish` with `f`.
inline void half_row(HalfProduct product, int64_t pixels, int64_t columns, const Finish& f) {
  for (int64_t x = 0; x < pixels; x += kHalfPart) {
    product.rows = pixels - x < kHalfPart ? pixels - x : kHalfPart;
    half_product(product);
    finish(product.rows, columns, product.c, product.ldc,
           {f.activation, f.residual ? f.residual + x * f.ldr : nullptr, f.ldr, f.out + x * f.ldo, f.ldo});
    product.a += kHalfPart * product.lda;
  }
}

inline void half_conv_tiles(const void* pointer, Span span) {
  const HalfConvJob& job = *static_cast<const HalfConvJob*>(pointer);
  const Convolution& c = job.conv;
  float* scratch = job.scratch + span.thread * job.scratch_floats;
  uint16_t* halo = reinterpret_cast<uint16_t*>(scratch);
  float* sums = scratch + job.halo_floats;
  for (int64_t tile = span.begin; tile < span.end; ++tile) {
    const TilePlace p = place(c, tile);
    copy_half_halo(c, job.x, p, halo);
    const int64_t stride = (p.columns + c.kw - 1) * c.inputs;
    for (int64_t panel = 0; panel < job.weights.panels(); ++panel) {
      const int64_t first = panel * kHalfColumns;
      const int64_t count = c.outputs - first < kHalfColumns ? c.outputs - first : kHalfColumns;
      for (int64_t row = 0; row < p.rows; ++row) {
        const int64_t at = (((p.image * c.height + p.y + row) * c.width) + p.x) * c.outputs + first;
        half_row({0, job.weights.depth(), c.kh, halo + row * stride, c.inputs, stride,
                  job.weights.packed + panel * job.weights.panel_elements(), job.bias + first, sums, kHalfColumns},
                 p.columns, count,
                 {job.activation, job.residual ? job.residual + at : nullptr, c.outputs, job.y + at, c.outputs});
      }
    }
  }
}

// Adds a tile's part of the weights' gradient to sums (kh, Ci, kw * Co), taps reversed. x lies in rows as wide as those
// of g, zeros in the gap, so that the sum runs over all rows at once.
inline void add_weight_gradient(const Convolution& c, const TilePlace& p, const float* x, const float* g, float* sums,
                                int64_t sum_columns) {
  const int64_t line = p.columns + c.kw - 1, total = (p.rows - 1) * line + p.columns;
  const int64_t blocks = (total + 127) / 128, channels = c.outputs, gradients = c.inputs;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = total * block / blocks, end = total * (block + 1) / blocks;
    for (int64_t ky = 0; ky < c.kh; ++ky)
      add_outer(channels, c.kw * gradients, end - begin, x + begin * channels, channels,
                g + (ky * line + begin) * gradients, gradients, sums + ky * channels * sum_columns);
  }
}

inline void conv_backward_tiles(const void* pointer, Span span) {
  const ConvBackwardJob& job = *static_cast<const ConvBackwardJob*>(pointer);
  const Convolution& c = job.conv;
  const int64_t gradients = c.inputs, channels = c.outputs;
  float* g = job.scratch + span.thread * job.scratch_floats;
  float* x = g + job.tile_floats;
  float* tile_sums = x + (c.halo_floats(channels) + 15) / 16 * 16;
  float* bias_sums = job.scratch + (span.thread + 1) * job.scratch_floats - (gradients + 15) / 16 * 16;
  float* weight_sums = bias_sums - (c.kh * channels * job.sum_columns + 15) / 16 * 16;
  for (int64_t tile = span.begin; tile < span.end; ++tile) {
    const TilePlace p = place(c, tile);
    copy_halo(c, p, job.dy, job.activation ? job.y : nullptr, negative_slope(job.activation), gradients, c.kh / 2,
              c.kw / 2, g);
    const int64_t first = (p.image * c.height + p.y) * c.width + p.x, line = p.columns + c.kw - 1;
    if (job.dx)
      conv_tile(c, p, g, job.packed, job.bias, tile_sums,
                {kNone, nullptr, channels, job.dx + first * channels, channels});
    for (int64_t row = 0; row < p.rows; ++row) {
      float* out = x + row * line * channels;
      std::memcpy(out, job.x + (first + row * c.width) * channels, sizeof(float) * p.columns * channels);
      std::memset(out + p.columns * channels, 0, sizeof(float) * (c.kw - 1) * channels);
    }
    add_weight_gradient(c, p, x, g, weight_sums, job.sum_columns);
    for (int64_t row = 0; row < p.rows; ++row)
      add_columns(p.columns, gradients, g + ((row + c.kh / 2) * line + c.kw / 2) * gradients, gradients, bias_sums);
  }
}

// Gradients of the weights and biases of output channels [begin, end): the per-thread sums, added in order.
inline void conv_reduce_outputs(const void* pointer, Span span) {
  const ConvReduceJob& job = *static_cast<const ConvReduceJob*>(pointer);
  const int64_t taps = job.kh * job.kw, gradient = (job.kh * job.inputs * job.sum_columns + 15) / 16 * 16;
  for (int64_t in = 0; in < job.inputs; ++in)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t ky = job.kh - 1 - tap / job.kw, kx = job.kw - 1 - tap % job.kw;
      const float* sums = job.sums + (ky * job.inputs + in) * job.sum_columns + kx * job.outputs;
      for (int64_t out = span.begin; out < span.end; ++out) {
        float s = 0;
        for (int thread = 0; thread < job.threads; ++thread) s += sums[thread * job.stride + out];
        job.dweight[(out * job.inputs + in) * taps + tap] = s;
      }
    }
  for (int64_t out = span.begin; out < span.end; ++out) {
    float s = 0;
    for (int thread = 0; thread < job.threads; ++thread) s += job.sums[thread * job.stride + gradient + out];
    job.dbias[out] = s;
  }
}
#endif
