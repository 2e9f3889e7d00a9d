// SPDX-License-Identifier: Apache-2.0
// Convolutions, dense layers and LayerNorm: launches the kernels of product.cu and layer_norm.cu; inputs and outputs as
// those of the CPU kernels of the same name.
#include <algorithm>

#include "launch.h"

using namespace rvrt;
using namespace rvrt::cuda;

namespace {

int64_t last_dim(const Call& t, int i) { return t.dim(i, t.ndims[i] - 1); }

// The sizes of a layer from x (..., Ci) to (..., Co); of a convolution also those of the image.
struct Layer {
  int64_t rows, inputs, outputs, height = 1, width = 1, kh = 1, kw = 1;
  int64_t taps() const { return kh * kw; }
};

int dense_layer(const Call& t, int x, int weight, Layer* l) {
  RVRT_CHECK(t.ndims[x] >= 1 && t.ndims[weight] == 2, kShape);
  l->outputs = t.dim(weight, 0), l->inputs = t.dim(weight, 1);
  RVRT_CHECK(l->inputs > 0 && l->outputs > 0 && last_dim(t, x) == l->inputs, kShape);
  l->rows = t.size(x) / l->inputs;
  RVRT_CHECK(l->rows < (int64_t{1} << 31) - kThreads, kShape);
  return kOk;
}

int convolution(const Call& t, int x, int weight, Layer* l) {
  const int nx = t.ndims[x], nw = t.ndims[weight];
  RVRT_CHECK(nx >= 3 && (nw == 4 || (nw == 5 && t.dim(weight, 2) == 1)), kShape);
  l->height = t.dim(x, nx - 3), l->width = t.dim(x, nx - 2), l->inputs = t.dim(x, nx - 1);
  l->outputs = t.dim(weight, 0), l->kh = t.dim(weight, nw - 2), l->kw = t.dim(weight, nw - 1);
  RVRT_CHECK(t.dim(weight, 1) == l->inputs && l->inputs > 0 && l->outputs > 0, kShape);
  RVRT_CHECK(l->kh % 2 == 1 && l->kw % 2 == 1, kShape);
  l->rows = t.size(x) / l->inputs;
  RVRT_CHECK(l->rows < (int64_t{1} << 31) - kThreads, kShape);
  return kOk;
}

// LayerNorm of a layer's input.
struct Norm {
  const float* statistics = nullptr;
  const void *gamma = nullptr, *beta = nullptr;
};

int launch_product(const Call& t, const ProductArguments& p) {
  if (p.rows == 0) return kOk;
  const int columns = p.columns <= 32 || (p.columns > 64 && p.columns % 64 <= 32 && p.columns < 128) ? 32 : 64;
  return launch(t, columns == 32 ? "product_32" : "product_64",
                Grid{ceil_div(p.rows, 128), ceil_div(p.columns, columns)}, kThreads, p);
}

// out = epilogue(x * weightᵀ): the layer itself.
ProductArguments layer_product(const Layer& l, const void* x, const void* weight, const void* bias, void* out,
                               const Norm& norm = Norm{}) {
  ProductArguments p{};
  p.a = x, p.b = weight, p.bias = bias, p.out = out;
  p.rows = l.rows, p.columns = l.outputs, p.depth = l.inputs;
  p.height = l.height, p.width = l.width, p.kh = l.kh, p.kw = l.kw, p.taps = l.taps();
  p.b_row = l.taps(), p.b_column = l.inputs * l.taps();
  p.statistics = norm.statistics, p.gamma = norm.gamma, p.beta = norm.beta;
  return p;
}

// out = g * weight: the gradient towards the layer's input.
ProductArguments input_gradient(const Layer& l, const void* g, const void* weight, void* out) {
  ProductArguments p{};
  p.a = g, p.b = weight, p.out = out;
  p.rows = l.rows, p.columns = l.inputs, p.depth = l.outputs;
  p.height = l.height, p.width = l.width, p.kh = l.kh, p.kw = l.kw, p.taps = l.taps();
  p.b_row = l.inputs * l.taps(), p.b_column = l.taps(), p.flipped = true;
  return p;
}

// Slices of the rows, so that there are blocks for a large card. Their number depends on the sizes alone: sums are
// reproducible.
int64_t slices_of(int64_t rows, int64_t blocks) {
  return std::max<int64_t>(1, std::min(ceil_div(1024, blocks), ceil_div(rows, 512)));
}

int64_t weight_slices(const Layer& l) {
  return slices_of(l.rows, ceil_div(l.outputs, 64) * ceil_div(l.inputs, 64) * l.taps());
}

int64_t column_slices(int64_t rows, int64_t channels) { return slices_of(rows, ceil_div(channels, 32)); }

// Scratch that the gradients of a layer's weights need [floats].
int64_t weight_floats(const Layer& l) {
  return std::max(weight_slices(l) * l.outputs * l.inputs * l.taps(), column_slices(l.rows, l.outputs) * l.outputs);
}

// dweight and dbias from the gradient `g` before the activation; `activation` applies to x.
int weight_gradients(const Call& t, const Layer& l, const void* g, const void* x, const Norm& norm, int activation,
                     float* partial, void* dweight, void* dbias) {
  const int64_t slices = weight_slices(l), sums = column_slices(l.rows, l.outputs);
  WeightGradientArguments a{};
  a.g = g, a.x = x, a.partial = partial;
  a.pixels = l.rows, a.outputs = l.outputs, a.inputs = l.inputs;
  a.height = l.height, a.width = l.width, a.kh = l.kh, a.kw = l.kw, a.taps = l.taps(), a.activation = activation;
  a.statistics = norm.statistics, a.gamma = norm.gamma, a.beta = norm.beta;
  const Grid grid{ceil_div(l.outputs, 64) * ceil_div(l.inputs, 64), l.taps(), slices};
  RVRT_TRY(launch(t, "weight_gradient", grid, kThreads, a));
  RVRT_TRY(sum_slices(t, partial, slices, dweight, l.outputs * l.inputs * l.taps()));
  ColumnSumArguments c{};
  c.g = g, c.sums = partial, c.rows = l.rows, c.channels = l.outputs, c.slices = sums;
  RVRT_TRY(launch(t, "column_sums", Grid{sums, ceil_div(l.outputs, 32)}, kThreads, c));
  return sum_slices(t, partial, sums, dbias, l.outputs);
}

Grid rows_grid(int64_t rows) { return grid_of(32 * rows); }

int norm_statistics(const Call& t, const void* x, int64_t rows, int64_t channels, float* statistics) {
  NormArguments a{};
  a.x = x, a.statistics = statistics, a.rows = rows, a.channels = channels;
  return rows ? launch(t, "norm_statistics", rows_grid(rows), kThreads, a) : kOk;
}

// dx (plus the residual), dgamma and dbeta from the gradient `g` of LayerNorm's output.
int norm_gradients(const Call& t, const void* x, const void* gamma, const void* g, const void* residual, int64_t rows,
                   int64_t channels, float* statistics, float* partial, void* dx, void* dgamma, void* dbeta) {
  NormArguments a{};
  a.x = x, a.gamma = gamma, a.dout = g, a.residual = residual, a.out = dx;
  a.statistics = statistics, a.rows = rows, a.channels = channels;
  if (rows) RVRT_TRY(launch(t, "layer_norm_backward", rows_grid(rows), kThreads, a));
  const int64_t slices = column_slices(rows, channels);
  ColumnSumArguments c{};
  c.g = g, c.x = x, c.statistics = statistics, c.sums = partial, c.scaled_sums = partial + slices * channels;
  c.rows = rows, c.channels = channels, c.slices = slices;
  RVRT_TRY(launch(t, "column_sums", Grid{slices, ceil_div(channels, 32)}, kThreads, c));
  RVRT_TRY(sum_slices(t, c.scaled_sums, slices, dgamma, channels));
  return sum_slices(t, c.sums, slices, dbeta, channels);
}

int64_t norm_floats(int64_t rows, int64_t channels) { return 2 * column_slices(rows, channels) * channels; }

// Gradients of activation(x * weightᵀ + bias), x possibly normalized: of weight and bias, and `dx` of the layer's input.
int dense_gradients(const Call& t, const Layer& l, const Norm& norm, const void* x, const void* weight,
                    const void* bias, const void* dout, int activation, void* dz, float* partial, void* dx,
                    void* dweight, void* dbias) {
  const void* g = dout;
  if (activation) {
    ProductArguments p = layer_product(l, x, weight, bias, dz, norm);
    p.extra = dout, p.epilogue = kGradient, p.activation = activation;
    RVRT_TRY(launch_product(t, p));
    g = dz;
  }
  RVRT_TRY(launch_product(t, input_gradient(l, g, weight, dx)));
  return weight_gradients(t, l, g, x, norm, kNone, partial, dweight, dbias);
}

// x, weight, bias, residual, attributes [activation, has_bias, has_residual] -> out
int layer_forward(const Call& t, const Layer& l, int last_activation) {
  const int64_t activation = t.attribute(4, 0);
  RVRT_CHECK(activation <= last_activation, kAttribute);
  RVRT_CHECK(t.size(5) == l.rows * l.outputs, kShape);
  RVRT_CHECK(!t.attribute(4, 1) || t.size(2) == l.outputs, kShape);
  RVRT_CHECK(!t.attribute(4, 2) || t.size(3) == l.rows * l.outputs, kShape);
  ProductArguments p = layer_product(l, t.in(0), t.in(1), t.attribute(4, 1) ? t.in(2) : nullptr, t.out(5));
  p.extra = t.attribute(4, 2) ? t.in(3) : nullptr, p.activation = activation;
  return launch_product(t, p);
}

}  // namespace

RVRT_CUDA_ENTRY(linear_forward) {
  RVRT_TRY(t.check(4, 3, 1));
  Layer l;
  RVRT_TRY(dense_layer(t, 0, 1, &l));
  return layer_forward(t, l, kGelu);
}

RVRT_CUDA_ENTRY(linear_backward) {
  RVRT_TRY(t.check(4, 3, 3));
  Layer l;
  RVRT_TRY(dense_layer(t, 0, 1, &l));
  const int64_t activation = t.attribute(4, 0);
  RVRT_CHECK(activation <= kGelu, kAttribute);
  RVRT_CHECK(t.size(3) == l.rows * l.outputs && t.same_shape(0, 5) && t.same_shape(1, 6), kShape);
  RVRT_CHECK(t.size(7) == l.outputs && (!t.attribute(4, 1) || t.size(2) == l.outputs), kShape);
  CardScratch scratch(t);
  void* dz = nullptr;
  float* partial = nullptr;
  RVRT_TRY(scratch.allocate([&] {
    dz = scratch.elements(activation ? l.rows * l.outputs : 0);
    partial = scratch.floats(weight_floats(l));
  }));
  const void* bias = t.attribute(4, 1) ? t.in(2) : nullptr;
  return dense_gradients(t, l, Norm{}, t.in(0), t.in(1), bias, t.in(3), activation, dz, partial, t.out(5), t.out(6),
                         t.out(7));
}

// x, gamma, beta, weight, bias, attributes [activation, has_bias]
RVRT_CUDA_ENTRY(norm_linear_forward) {
  RVRT_TRY(t.check(5, 2, 1));
  Layer l;
  RVRT_TRY(dense_layer(t, 0, 3, &l));
  RVRT_CHECK(t.attribute(5, 0) <= kGelu, kAttribute);
  RVRT_CHECK(t.size(1) == l.inputs && t.size(2) == l.inputs && t.size(6) == l.rows * l.outputs, kShape);
  RVRT_CHECK(!t.attribute(5, 1) || t.size(4) == l.outputs, kShape);
  Norm norm{nullptr, t.in(1), t.in(2)};
  CardScratch scratch(t);
  float* statistics = nullptr;
  RVRT_TRY(scratch.allocate([&] { statistics = scratch.floats(2 * l.rows); }));
  norm.statistics = statistics;
  RVRT_TRY(norm_statistics(t, t.in(0), l.rows, l.inputs, statistics));
  ProductArguments p = layer_product(l, t.in(0), t.in(3), t.attribute(5, 1) ? t.in(4) : nullptr, t.out(6), norm);
  p.activation = t.attribute(5, 0);
  return launch_product(t, p);
}

// x, gamma, beta, weight, bias, dout, attributes -> dx, dgamma, dbeta, dweight, dbias
RVRT_CUDA_ENTRY(norm_linear_backward) {
  RVRT_TRY(t.check(6, 2, 5));
  Layer l;
  RVRT_TRY(dense_layer(t, 0, 3, &l));
  const int64_t activation = t.attribute(6, 0);
  RVRT_CHECK(activation <= kGelu, kAttribute);
  RVRT_CHECK(t.size(1) == l.inputs && t.size(2) == l.inputs && t.size(5) == l.rows * l.outputs, kShape);
  RVRT_CHECK(t.same_shape(0, 7) && t.size(8) == l.inputs && t.size(9) == l.inputs, kShape);
  RVRT_CHECK(t.same_shape(3, 10) && t.size(11) == l.outputs, kShape);
  CardScratch scratch(t);
  float *statistics = nullptr, *partial = nullptr;
  void *dz = nullptr, *dn = nullptr;
  RVRT_TRY(scratch.allocate([&] {
    statistics = scratch.floats(2 * l.rows);
    partial = scratch.floats(std::max(weight_floats(l), norm_floats(l.rows, l.inputs)));
    dz = scratch.elements(activation ? l.rows * l.outputs : 0);
    dn = scratch.elements(l.rows * l.inputs);
  }));
  RVRT_TRY(norm_statistics(t, t.in(0), l.rows, l.inputs, statistics));
  const Norm norm{statistics, t.in(1), t.in(2)};
  const void* bias = t.attribute(6, 1) ? t.in(4) : nullptr;
  RVRT_TRY(
      dense_gradients(t, l, norm, t.in(0), t.in(3), bias, t.in(5), activation, dz, partial, dn, t.out(10), t.out(11)));
  return norm_gradients(t, t.in(0), t.in(1), dn, nullptr, l.rows, l.inputs, statistics, partial, t.out(7), t.out(8),
                        t.out(9));
}

RVRT_CUDA_ENTRY(layer_norm_forward) {
  RVRT_TRY(t.check(3, 0, 1));
  const int64_t channels = last_dim(t, 0), rows = t.size(0) / std::max<int64_t>(channels, 1);
  RVRT_CHECK(channels > 0 && t.size(1) == channels && t.size(2) == channels && t.same_shape(0, 3), kShape);
  NormArguments a{};
  a.x = t.in(0), a.gamma = t.in(1), a.beta = t.in(2), a.out = t.out(3), a.rows = rows, a.channels = channels;
  return rows ? launch(t, "layer_norm_forward", rows_grid(rows), kThreads, a) : kOk;
}

// x, gamma, dout -> dx, dgamma, dbeta
RVRT_CUDA_ENTRY(layer_norm_backward) {
  RVRT_TRY(t.check(3, 0, 3));
  const int64_t channels = last_dim(t, 0), rows = t.size(0) / std::max<int64_t>(channels, 1);
  RVRT_CHECK(channels > 0 && t.size(1) == channels && t.same_shape(0, 2) && t.same_shape(0, 3), kShape);
  RVRT_CHECK(t.size(4) == channels && t.size(5) == channels, kShape);
  CardScratch scratch(t);
  float *statistics = nullptr, *partial = nullptr;
  RVRT_TRY(scratch.allocate([&] {
    statistics = scratch.floats(2 * rows);
    partial = scratch.floats(norm_floats(rows, channels));
  }));
  RVRT_TRY(norm_statistics(t, t.in(0), rows, channels, statistics));
  return norm_gradients(t, t.in(0), t.in(1), t.in(2), nullptr, rows, channels, statistics, partial, t.out(3), t.out(4),
                        t.out(5));
}

namespace {

// x (..., C), gamma and beta (C,), w1 (hidden, C), b1, w2 (C, hidden): the two layers of an MLP.
int mlp_layers(const Call& t, int b1, Layer* first, Layer* second) {
  RVRT_TRY(dense_layer(t, 0, 3, first));
  RVRT_CHECK(t.size(1) == first->inputs && t.size(2) == first->inputs && t.size(b1) == first->outputs, kShape);
  RVRT_CHECK(t.has_shape(5, {first->inputs, first->outputs}), kShape);
  second->rows = first->rows, second->inputs = first->outputs, second->outputs = first->inputs;
  return kOk;
}

}  // namespace

// x, gamma, beta, w1, b1, w2, b2 -> out
RVRT_CUDA_ENTRY(mlp_forward) {
  RVRT_TRY(t.check(7, 0, 1));
  Layer first, second;
  RVRT_TRY(mlp_layers(t, 4, &first, &second));
  RVRT_CHECK(t.size(6) == first.inputs && t.same_shape(0, 7), kShape);
  CardScratch scratch(t);
  float* statistics = nullptr;
  void* hidden = nullptr;
  RVRT_TRY(scratch.allocate([&] {
    statistics = scratch.floats(2 * first.rows);
    hidden = scratch.elements(first.rows * first.outputs);
  }));
  RVRT_TRY(norm_statistics(t, t.in(0), first.rows, first.inputs, statistics));
  ProductArguments p = layer_product(first, t.in(0), t.in(3), t.in(4), hidden, Norm{statistics, t.in(1), t.in(2)});
  p.activation = kGelu;
  RVRT_TRY(launch_product(t, p));
  p = layer_product(second, hidden, t.in(5), t.in(6), t.out(7));
  p.extra = t.in(0);
  return launch_product(t, p);
}

// x, gamma, beta, w1, b1, w2, dout -> dx, dgamma, dbeta, dw1, db1, dw2, db2
RVRT_CUDA_ENTRY(mlp_backward) {
  RVRT_TRY(t.check(7, 0, 7));
  Layer first, second;
  RVRT_TRY(mlp_layers(t, 4, &first, &second));
  RVRT_CHECK(t.same_shape(0, 6) && t.same_shape(0, 7) && t.size(8) == first.inputs && t.size(9) == first.inputs,
             kShape);
  RVRT_CHECK(t.same_shape(3, 10) && t.size(11) == first.outputs && t.same_shape(5, 12) && t.size(13) == first.inputs,
             kShape);
  const int64_t rows = first.rows, channels = first.inputs, hidden = first.outputs;
  CardScratch scratch(t);
  float *statistics = nullptr, *partial = nullptr;
  void *z = nullptr, *dz = nullptr, *dn = nullptr;
  RVRT_TRY(scratch.allocate([&] {
    statistics = scratch.floats(2 * rows);
    partial = scratch.floats(std::max({weight_floats(first), weight_floats(second), norm_floats(rows, channels)}));
    z = scratch.elements(rows * hidden), dz = scratch.elements(rows * hidden), dn = scratch.elements(rows * channels);
  }));
  RVRT_TRY(norm_statistics(t, t.in(0), rows, channels, statistics));
  const Norm norm{statistics, t.in(1), t.in(2)};
  RVRT_TRY(launch_product(t, layer_product(first, t.in(0), t.in(3), t.in(4), z, norm)));
  ProductArguments p = input_gradient(second, t.in(6), t.in(5), dz);
  p.extra = z, p.epilogue = kChain, p.activation = kGelu;
  RVRT_TRY(launch_product(t, p));
  RVRT_TRY(weight_gradients(t, second, t.in(6), z, Norm{}, kGelu, partial, t.out(12), t.out(13)));
  RVRT_TRY(weight_gradients(t, first, dz, t.in(0), norm, kNone, partial, t.out(10), t.out(11)));
  RVRT_TRY(launch_product(t, input_gradient(first, dz, t.in(3), dn)));
  return norm_gradients(t, t.in(0), t.in(1), dn, t.in(6), rows, channels, statistics, partial, t.out(7), t.out(8),
                        t.out(9));
}

RVRT_CUDA_ENTRY(conv2d_forward) {
  RVRT_TRY(t.check(4, 3, 1));
  Layer l;
  RVRT_TRY(convolution(t, 0, 1, &l));
  return layer_forward(t, l, kRelu);
}

// x, weight, out, dout, attributes [activation, needs_dx, 0] -> dx, dweight, dbias
RVRT_CUDA_ENTRY(conv2d_backward) {
  RVRT_TRY(t.check(4, 3, 3));
  Layer l;
  RVRT_TRY(convolution(t, 0, 1, &l));
  const int64_t activation = t.attribute(4, 0), count = l.rows * l.outputs;
  RVRT_CHECK(activation <= kRelu, kAttribute);
  RVRT_CHECK(t.size(2) == count && t.size(3) == count && t.same_shape(0, 5), kShape);
  RVRT_CHECK(t.size(6) == t.size(1) && t.size(7) == l.outputs, kShape);
  CardScratch scratch(t);
  void* dz = nullptr;
  float* partial = nullptr;
  RVRT_TRY(scratch.allocate([&] {
    dz = scratch.elements(activation ? count : 0);
    partial = scratch.floats(weight_floats(l));
  }));
  const void* g = t.in(3);
  if (activation) {
    RVRT_TRY(launch_elements(t, "multiply_slope",
                             SlopeArguments{t.in(3), t.in(2), dz, count, static_cast<int>(activation)}));
    g = dz;
  }
  if (t.attribute(4, 1)) {
    RVRT_TRY(launch_product(t, input_gradient(l, g, t.in(1), t.out(5))));
  } else {
    RVRT_TRY(fill_zeros(t, t.out(5), t.bytes(t.size(5))));
  }
  return weight_gradients(t, l, g, t.in(0), Norm{}, kNone, partial, t.out(6), t.out(7));
}
