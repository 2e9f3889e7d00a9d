// SPDX-License-Identifier: Apache-2.0
// 2-D convolution with a stride, zero padding by half the kernel, channels last: forward and gradients.
//
// As in conv2d.cc, the kw taps of a kernel row lie side by side, so the convolution is kh products of depth kw * Ci whose
// rows overlap; here a row begins `stride` pixels after the one before. The weights' gradient is the sum of outer products
// of the same rows with the gradient g. A row of dx gathers the products of g with the transposed weights, of every
// kernel row that reaches it: no two tasks write the same pixel.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>

namespace rvrt {

struct StridedConv {
  int64_t batch, height, width, inputs, outputs, kh, kw, stride;
  int64_t rows, columns;  // of the output
  int64_t depth() const { return kw * inputs; }
  int64_t line() const { return (kMostColumns * stride + kw) * inputs; }  // floats of a kernel row's input, at most
  static constexpr int64_t kMostColumns = 64;                             // of a block: rows of a product
};

struct StridedPackJob {
  const StridedConv* conv;
  const float* weight;
  bool transposed;  // for dx: from outputs to (kx, input)
  float* packed;
};

struct StridedForwardJob {
  StridedConv conv;
  const float *x, *packed, *bias;
  float* y;
  int activation;
  float* scratch;  // per thread: input rows, sums
  int64_t scratch_floats;
};

struct StridedBackwardJob {
  StridedConv conv;
  const float *x, *y, *dy, *packed;
  float* dx;
  int activation;
  float* scratch;
  int64_t scratch_floats, sum_floats;  // sums: the weights' gradient (kh * depth, padded outputs), then the bias's
  int threads;
  float *dweight, *dbias;
};

}  // namespace rvrt

#define RVRT_KERNEL "strided_conv.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

// x (B, H, W, Ci), weight (Co, Ci, [1,] kh, kw), attributes [activation, stride].
int strided_sizes(const Tensors& t, const int32_t* attributes, StridedConv* c) {
  const int nw = t.ndims[1];
  RVRT_CHECK(t.ndims[0] == 4 && (nw == 4 || (nw == 5 && t.dim(1, 2) == 1)), kShape);
  RVRT_CHECK(attributes[0] >= 0 && attributes[0] <= 3 && attributes[1] >= 1, kAttribute);
  *c = {t.dim(0, 0),      t.dim(0, 1),      t.dim(0, 2),   t.dim(0, 3), t.dim(1, 0),
        t.dim(1, nw - 2), t.dim(1, nw - 1), attributes[1], 0,           0};
  RVRT_CHECK(t.dim(1, 1) == c->inputs && c->inputs > 0 && c->outputs > 0, kShape);
  RVRT_CHECK(c->kh % 2 == 1 && c->kw % 2 == 1, kShape);
  c->rows = ceil_div(c->height, c->stride);
  c->columns = ceil_div(c->width, c->stride);
  return kOk;
}

}  // namespace
}  // namespace rvrt

// y = activation(x * weight + bias).
// Inputs: x (B, H, W, Ci); weight (Co, Ci, [1,] kh, kw), odd; bias (Co); attributes int32 [activation, stride], as of
//   conv2d_forward. Output: y (B, ceil(H / stride), ceil(W / stride), Co).
RVRT_ENTRY(strided_conv2d_forward) {
  using namespace rvrt;
  if (int status = t.check(3, 2, 1)) return status;
  StridedForwardJob job{};
  StridedConv& c = job.conv;
  if (int status = strided_sizes(t, t.ints(3), &c)) return status;
  RVRT_CHECK(t.size(2) == c.outputs && t.has_shape(4, {c.batch, c.rows, c.columns, c.outputs}), kShape);
  const int64_t tasks = c.batch * c.rows, panel = RVRT_DISPATCH(kPanelFloats);
  job.scratch_floats = round_up(c.kh * c.line(), 16) + c.kMostColumns * panel;
  const Scratch scratch(parallel_width(tasks) * job.scratch_floats);
  const Scratch packed(c.kh * c.depth() * padded_floats(c.outputs)), bias(padded_floats(c.outputs), true);
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok(), kMemory);
  const StridedPackJob pack{&c, t.f(1), false, packed.data()};
  parallel(c.kh * c.depth(), RVRT_DISPATCH(strided_pack), &pack);
  std::memcpy(bias.data(), t.f(2), sizeof(float) * c.outputs);
  job.x = t.f(0);
  job.packed = packed.data();
  job.bias = bias.data();
  job.y = t.f(4);
  job.activation = t.ints(3)[0];
  job.scratch = scratch.data();
  return parallel_shared(tasks, RVRT_DISPATCH(strided_forward_rows), &job);
}

// Inputs: x, weight, y (what the activation gave), dy, attributes as there. Outputs: dx, dweight, dbias (Co).
RVRT_ENTRY(strided_conv2d_backward) {
  using namespace rvrt;
  if (int status = t.check(4, 2, 3)) return status;
  StridedBackwardJob job{};
  StridedConv& c = job.conv;
  if (int status = strided_sizes(t, t.ints(4), &c)) return status;
  RVRT_CHECK(t.has_shape(3, {c.batch, c.rows, c.columns, c.outputs}) && t.same_shape(2, 3), kShape);
  RVRT_CHECK(t.same_shape(5, 0) && t.size(6) == t.size(1) && t.size(7) == c.outputs, kShape);
  const int64_t outputs = padded_floats(c.outputs), depth = padded_floats(c.depth());
  job.threads = parallel_width(c.batch * c.height);
  job.sum_floats = round_up(c.kh * c.depth() * outputs + outputs, 16);
  // input rows and a block of g; or the block, its products, and a row of dx
  const int64_t block = round_up(c.kMostColumns * outputs, 16);
  const int64_t of_weights = round_up(c.kh * c.line(), 16);
  const int64_t of_dx = c.kMostColumns * depth + round_up((c.columns * c.stride + c.kw) * c.inputs, 16);
  job.scratch_floats = block + std::max(of_weights, of_dx) + job.sum_floats;
  const Scratch scratch(job.threads * job.scratch_floats, true), packed(c.kh * c.outputs * depth);
  RVRT_CHECK(scratch.ok() && packed.ok(), kMemory);
  const StridedPackJob pack{&c, t.f(1), true, packed.data()};
  parallel(c.kh * c.outputs, RVRT_DISPATCH(strided_pack), &pack);
  job.x = t.f(0);
  job.y = t.f(2);
  job.dy = t.f(3);
  job.packed = packed.data();
  job.dx = t.f(5);
  job.activation = t.ints(4)[0];
  job.scratch = scratch.data();
  job.dweight = t.f(6);
  job.dbias = t.f(7);
  parallel(c.batch * c.rows, RVRT_DISPATCH(strided_weight_rows), &job, job.threads);
  parallel(c.outputs, RVRT_DISPATCH(strided_reduce), &job);
  return parallel(c.batch * c.height, RVRT_DISPATCH(strided_dx_rows), &job, job.threads);
}

#else

#include "simd.h"
#include "gemm.h"

// Rows [begin, end) of the matrices, one of each kernel row, in panels: row kx * inputs + c of (depth, outputs), or row n
// of (outputs, depth).
inline void strided_pack(const void* pointer, Span span) {
  const StridedPackJob& job = *static_cast<const StridedPackJob*>(pointer);
  const StridedConv& c = *job.conv;
  const int64_t rows = job.transposed ? c.outputs : c.depth(), columns = job.transposed ? c.depth() : c.outputs;
  const int64_t all = vectors(columns);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t ky = task / rows, row = task % rows;
    float* matrix = job.packed + ky * rows * padded(columns);
    for (int64_t v = 0; v < all;) {
      const int width = panel_vectors(all - v);
      for (int64_t j = 0; j < width * W; ++j) {
        const int64_t column = v * W + j, place = job.transposed ? column : row, out = job.transposed ? row : column;
        const float* source = job.weight + ((out * c.inputs + place % c.inputs) * c.kh + ky) * c.kw + place / c.inputs;
        matrix[v * W * rows + row * width * W + j] = column < columns ? *source : 0.0f;
      }
      v += width;
    }
  }
}

struct StridedBlock {
  int64_t image, row, first, count;  // columns [first, first + count) of an output row
};

// The input of a block: kh rows of pixels, zeros beyond the image. Returns the floats of a row.
inline int64_t copy_input(const StridedConv& c, const StridedBlock& b, const float* x, float* out) {
  const int64_t pixels = (b.count - 1) * c.stride + c.kw, begin = b.first * c.stride - c.kw / 2;
  const int64_t first = begin < 0 ? 0 : begin, last = begin + pixels > c.width ? c.width : begin + pixels;
  for (int64_t ky = 0; ky < c.kh; ++ky, out += pixels * c.inputs) {
    const int64_t row = b.row * c.stride + ky - c.kh / 2;
    if (row < 0 || row >= c.height) {
      std::memset(out, 0, sizeof(float) * pixels * c.inputs);
      continue;
    }
    const int64_t before = (first - begin) * c.inputs, count = (last - first) * c.inputs;
    std::memset(out, 0, sizeof(float) * before);
    std::memcpy(out + before, x + ((b.image * c.height + row) * c.width + first) * c.inputs, sizeof(float) * count);
    std::memset(out + before + count, 0, sizeof(float) * (pixels * c.inputs - before - count));
  }
  return pixels * c.inputs;
}

// The gradient of a block, through the activation; rows of padded(outputs) floats.
inline void copy_block_gradient(const StridedBackwardJob& job, const StridedBlock& b, float* out) {
  const StridedConv& c = job.conv;
  const int64_t ld = padded(c.outputs), at = ((b.image * c.rows + b.row) * c.columns + b.first) * c.outputs;
  for (int64_t i = 0; i < b.count; ++i) {
    const int64_t pixel = at + i * c.outputs;
    if (job.activation)
      copy_gradient(job.dy + pixel, job.y + pixel, negative_slope(job.activation), c.outputs, out + i * ld);
    else
      std::memcpy(out + i * ld, job.dy + pixel, sizeof(float) * c.outputs);
    std::memset(out + i * ld + c.outputs, 0, sizeof(float) * (ld - c.outputs));
  }
}

inline StridedBlock block_of(const StridedConv& c, int64_t task, int64_t first) {
  const int64_t left = c.columns - first;
  return {task / c.rows, task % c.rows, first, left < c.kMostColumns ? left : c.kMostColumns};
}

inline void strided_forward_rows(const void* pointer, Span span) {
  const StridedForwardJob& job = *static_cast<const StridedForwardJob*>(pointer);
  const StridedConv& c = job.conv;
  float* input = job.scratch + span.thread * job.scratch_floats;
  float* sums = input + (c.kh * c.line() + 15) / 16 * 16;
  const int64_t all = vectors(c.outputs), matrix = c.depth() * padded(c.outputs);
  for (int64_t task = span.begin; task < span.end; ++task)
    for (int64_t column = 0; column < c.columns; column += c.kMostColumns) {
      const StridedBlock b = block_of(c, task, column);
      const int64_t line = copy_input(c, b, job.x, input);
      float* out = job.y + (task * c.columns + column) * c.outputs;
      for (int64_t v = 0; v < all;) {
        const int width = panel_vectors(all - v);
        const int64_t first = v * W, ld = width * W, count = c.outputs - first < ld ? c.outputs - first : ld;
        for (int64_t ky = 0; ky < c.kh; ++ky)
          product({b.count, width, c.depth(), input + ky * line, c.stride * c.inputs,
                   job.packed + ky * matrix + first * c.depth(), ld, ky ? sums : job.bias + first, ky ? ld : 0, sums,
                   ld});
        finish(b.count, count, sums, ld, {job.activation, nullptr, 0, out + first, c.outputs});
        v += width;
      }
    }
}

inline void strided_weight_rows(const void* pointer, Span span) {
  const StridedBackwardJob& job = *static_cast<const StridedBackwardJob*>(pointer);
  const StridedConv& c = job.conv;
  const int64_t ld = padded(c.outputs);
  float* g = job.scratch + span.thread * job.scratch_floats;
  float* input = g + (c.kMostColumns * ld + 15) / 16 * 16;
  float* sums = job.scratch + (span.thread + 1) * job.scratch_floats - job.sum_floats;
  for (int64_t task = span.begin; task < span.end; ++task)
    for (int64_t column = 0; column < c.columns; column += c.kMostColumns) {
      const StridedBlock b = block_of(c, task, column);
      const int64_t line = copy_input(c, b, job.x, input);
      copy_block_gradient(job, b, g);
      for (int64_t ky = 0; ky < c.kh; ++ky)
        add_outer(c.depth(), c.outputs, b.count, input + ky * line, c.stride * c.inputs, g, ld,
                  sums + ky * c.depth() * ld);
      add_columns(b.count, c.outputs, g, ld, sums + c.kh * c.depth() * ld);
    }
}

// Gradients of the weights and biases of output channels [begin, end): the threads' sums, in order.
inline void strided_reduce(const void* pointer, Span span) {
  const StridedBackwardJob& job = *static_cast<const StridedBackwardJob*>(pointer);
  const StridedConv& c = job.conv;
  const int64_t ld = padded(c.outputs), places = c.kh * c.depth();
  const float* sums = job.scratch + job.scratch_floats - job.sum_floats;
  for (int64_t place = 0; place <= places; ++place)
    for (int64_t out = span.begin; out < span.end; ++out) {
      float s = 0;
      for (int thread = 0; thread < job.threads; ++thread) s += sums[thread * job.scratch_floats + place * ld + out];
      const int64_t ky = place / c.depth(), kx = place % c.depth() / c.inputs, in = place % c.inputs;
      if (place < places)
        job.dweight[((out * c.inputs + in) * c.kh + ky) * c.kw + kx] = s;
      else
        job.dbias[out] = s;
    }
}

// Rows [begin, end) of dx.
inline void strided_dx_rows(const void* pointer, Span span) {
  const StridedBackwardJob& job = *static_cast<const StridedBackwardJob*>(pointer);
  const StridedConv& c = job.conv;
  const int64_t ld = padded(c.outputs), ldp = padded(c.depth()), all = vectors(c.depth());
  const float zeros[kPanelFloats] = {};
  float* g = job.scratch + span.thread * job.scratch_floats;
  float* products = g + (c.kMostColumns * ld + 15) / 16 * 16;
  float* row = products + c.kMostColumns * ldp;  // from kw / 2 pixels left of the image on
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t image = task / c.height, y = task % c.height;
    std::memset(row, 0, sizeof(float) * (c.columns * c.stride + c.kw) * c.inputs);
    for (int64_t ky = 0; ky < c.kh; ++ky) {
      const int64_t from = y + c.kh / 2 - ky;
      if (from < 0 || from % c.stride || from / c.stride >= c.rows) continue;
      for (int64_t column = 0; column < c.columns; column += c.kMostColumns) {
        const StridedBlock b = block_of(c, image * c.rows + from / c.stride, column);
        copy_block_gradient(job, b, g);
        for (int64_t v = 0; v < all;) {
          const int width = panel_vectors(all - v);
          product({b.count, width, c.outputs, g, ld, job.packed + ky * c.outputs * ldp + v * W * c.outputs, width * W,
                   zeros, 0, products + v * W, ldp});
          v += width;
        }
        for (int64_t i = 0; i < b.count; ++i) {
          float* out = row + (column + i) * c.stride * c.inputs;
          for (int64_t k = 0; k < c.depth(); ++k) out[k] += products[i * ldp + k];
        }
      }
    }
    std::memcpy(job.dx + task * c.width * c.inputs, row + c.kw / 2 * c.inputs, sizeof(float) * c.width * c.inputs);
  }
}
#endif
