// SPDX-License-Identifier: Apache-2.0
// Dense layers over the last axis, optionally after a LayerNorm and before an activation: forward and gradients. A block
// of rows passes through all of them while it is in the cache; the backward kernels recompute what they need of the
// forward pass.
#ifndef RVRT_ISA

#include "convolution.h"
#include "row_blocks.h"

namespace rvrt {

// y = activation(norm(x) weightᵀ + bias) + residual.
struct DenseJob {
  Blocks blocks;
  int64_t inputs, outputs;
  Sources sources;                           // of x; if there are several, `x` is not read
  const float *x, *gamma, *beta, *residual;  // gamma null: no LayerNorm
  PackedDense layer;
  float* y;
  int64_t y_stride;  // floats from one row of y, and of the residual, to the next
  int activation;
  // backward
  const float *dy, *packed_back, *zeros;  // packed_back: weight
  Destinations dx;
  float *scratch, *sums;  // sums per thread: dweight (inputs, padded outputs), dbias, dgamma, dbeta
  int64_t scratch_floats, sums_floats;
};

}  // namespace rvrt

#define RVRT_KERNEL "dense.cc"
#include "each_isa.h"
#include "packed_weights.h"

namespace rvrt {
namespace {

int64_t scratch_floats(int64_t block, int64_t inputs, int64_t outputs) {
  const int64_t in = padded_floats(inputs), out = padded_floats(outputs);
  return round_up(block * (2 * in + 2 * out + RVRT_DISPATCH(kPanelFloats) + 2), 16);
}

// x (..., Ci), the first `sources` tensors of the call; weight (Co, Ci).
int dense_sizes(const Tensors& t, int sources, int weight, DenseJob* job) {
  if (int status = read_sources(t, sources, &job->sources)) return status;
  RVRT_CHECK(t.ndims[weight] == 2, kShape);
  job->inputs = t.dim(weight, 1);
  job->outputs = t.dim(weight, 0);
  RVRT_CHECK(job->inputs > 0 && job->outputs > 0 && job->sources.total() == job->inputs, kShape);
  job->blocks = row_blocks(t.size(0) / job->sources.channels[0]);
  job->x = t.f(0);
  return kOk;
}

int forward_rows(DenseJob job, const float* weight, const float* bias) {
  job.scratch_floats = scratch_floats(job.blocks.block, job.inputs, job.outputs);
  const Scratch scratch(parallel_width(job.blocks.count()) * job.scratch_floats);
  const DenseWeights layer(weight, bias, job.inputs, job.outputs, operands());
  RVRT_CHECK(scratch.ok() && layer.ok(), kMemory);
  job.layer = layer.view();
  job.scratch = scratch.data();
  return parallel_shared(job.blocks.count(), RVRT_DISPATCH(dense_forward_blocks), &job);
}

int dense_forward(const Tensors& t, DenseJob job, const float* weight, const float* bias, int y) {
  RVRT_CHECK(t.size(y) == job.blocks.rows * job.outputs, kShape);
  RVRT_CHECK(job.activation >= 0 && job.activation <= 4, kAttribute);
  job.y = t.f(y), job.y_stride = job.outputs;
  return forward_rows(job, weight, bias);
}

// `dx`: the first of as many tensors as `job.sources` has.
int dense_backward(const Tensors& t, DenseJob job, const float* weight, const float* bias, int dy, int dx, int dgamma,
                   int dweight) {
  if (int status = read_destinations(t, job.sources, dx, &job.dx)) return status;
  const int64_t in = padded_floats(job.inputs), out = padded_floats(job.outputs);
  RVRT_CHECK(t.size(dy) == job.blocks.rows * job.outputs, kShape);
  RVRT_CHECK(t.size(dweight) == job.inputs * job.outputs && t.size(dweight + 1) == job.outputs, kShape);
  RVRT_CHECK(job.activation >= 0 && job.activation <= 4, kAttribute);
  const int n = parallel_width(job.blocks.count());
  job.scratch_floats = scratch_floats(job.blocks.block, job.inputs, job.outputs);
  job.sums_floats = round_up(job.inputs * out + out + 2 * in, 16);
  const Scratch scratch(n * job.scratch_floats), sums(n * job.sums_floats, true);
  // Only the activation's gradient needs the output again.
  const DenseWeights layer(weight, bias, job.activation ? job.inputs : 0, job.outputs, kFloat32);
  const Scratch back(job.outputs * in);
  const Scratch zeros(in, true);
  RVRT_CHECK(scratch.ok() && sums.ok() && layer.ok() && back.ok() && zeros.ok(), kMemory);
  pack(weight, job.inputs, 1, job.outputs, job.inputs, back);
  job.layer = layer.view();
  job.packed_back = back.data();
  job.zeros = zeros.data();
  job.dy = t.f(dy);
  job.scratch = scratch.data();
  job.sums = sums.data();
  parallel(job.blocks.count(), RVRT_DISPATCH(dense_backward_blocks), &job);
  const ReduceJob weights{sums.data(), job.sums_floats, out, n, job.outputs, t.f(dweight), 1, job.inputs};
  reduce(weights, job.inputs);
  const float* rest = sums.data() + job.inputs * out;
  const ReduceJob biases{rest, job.sums_floats, 0, n, job.outputs, t.f(dweight + 1), 0, 1};
  reduce(biases, 1);
  if (!job.gamma) return kOk;
  const ReduceJob gammas{rest + out, job.sums_floats, 0, n, job.inputs, t.f(dgamma), 0, 1};
  const ReduceJob betas{rest + out + in, job.sums_floats, 0, n, job.inputs, t.f(dgamma + 1), 0, 1};
  reduce(gammas, 1);
  return reduce(betas, 1);
}

}  // namespace
}  // namespace rvrt

// y = activation(x weightᵀ + bias) + residual.
// Inputs: x (..., Ci), or up to five such tensors whose channels lie side by side; weight (Co, Ci); bias (Co); residual
//   (..., Co); attributes int32 [activation, has_bias, has_residual]. For an absent tensor pass any float32 tensor; it is
//   not read. activation: 0 none, 1 leaky ReLU 0.1, 2 leaky ReLU 0.2, 3 ReLU, 4 exact GELU.
// Output: y (..., Co).
RVRT_ENTRY(linear_forward) {
  using namespace rvrt;
  const int weight = t.count - 5, bias = weight + 1, residual = weight + 2;
  if (int status = t.check(weight + 3, 3, 1)) return status;
  DenseJob job{};
  if (int status = dense_sizes(t, weight, weight, &job)) return status;
  const int32_t* attributes = t.ints(weight + 3);
  RVRT_CHECK(!attributes[1] || t.size(bias) == job.outputs, kShape);
  RVRT_CHECK(!attributes[2] || t.size(residual) == job.blocks.rows * job.outputs, kShape);
  job.residual = attributes[2] ? t.f(residual) : nullptr;
  job.activation = attributes[0];
  return dense_forward(t, job, t.f(weight), attributes[1] ? t.f(bias) : nullptr, weight + 4);
}

// Two dense layers, whose outputs lie side by side: y = (W0 x0 + b0, W1 x1 + b1).
// Inputs: x0 (..., C0); W0 (D0, C0); b0 (D0); x1 (..., C1); W1 (D1, C1); b1 (D1). No attributes.
// Output: y (..., D0 + D1).
RVRT_ENTRY(linear_pair_forward) {
  using namespace rvrt;
  if (int status = t.check(6, 0, 1)) return status;
  RVRT_CHECK(t.ndims[1] == 2 && t.ndims[4] == 2, kShape);
  const int64_t stride = t.dim(1, 0) + t.dim(4, 0);
  float* y = t.f(6);
  for (int first : {0, 3}) {
    const Tensors one{t.count - first, t.data + first, t.ndims + first, t.shapes + first, t.dtypes + first};
    DenseJob job{};
    if (int status = dense_sizes(one, 1, 1, &job)) return status;
    RVRT_CHECK(one.size(2) == job.outputs && t.size(6) == job.blocks.rows * stride, kShape);
    job.y = y, job.y_stride = stride;
    if (int status = forward_rows(job, one.f(1), one.f(2))) return status;
    y += job.outputs;
  }
  return kOk;
}

// Gradients of linear_forward (the residual's is dy itself).
// Inputs: x (..., Ci), or up to five such tensors as there; weight (Co, Ci); bias (Co), not read without bias or
//   activation; dy (..., Co); attributes as there.
// Outputs: dx of each x, dweight (Co, Ci), dbias (Co).
RVRT_ENTRY(linear_backward) {
  using namespace rvrt;
  const int sources = (t.count - 6) / 2, weight = sources, bias = weight + 1;
  RVRT_CHECK(t.count == 2 * sources + 6, kCount);
  if (int status = t.check(sources + 3, 3, sources + 2)) return status;
  DenseJob job{};
  if (int status = dense_sizes(t, sources, weight, &job)) return status;
  const int32_t* attributes = t.ints(weight + 3);
  RVRT_CHECK(!attributes[1] || t.size(bias) == job.outputs, kShape);
  job.activation = attributes[0];
  return dense_backward(t, job, t.f(weight), attributes[1] ? t.f(bias) : nullptr, weight + 2, weight + 4, 0,
                        2 * sources + 4);
}

// y = activation(layer_norm(x) weightᵀ + bias), LayerNorm over the last axis with epsilon 1e-5.
// Inputs: x (..., Ci); gamma (Ci); beta (Ci); weight (Co, Ci); bias (Co); attributes int32 [activation, has_bias].
// Output: y (..., Co).
RVRT_ENTRY(norm_linear_forward) {
  using namespace rvrt;
  if (int status = t.check(5, 2, 1)) return status;
  DenseJob job{};
  if (int status = dense_sizes(t, 1, 3, &job)) return status;
  const int32_t* attributes = t.ints(5);
  RVRT_CHECK(t.size(1) == job.inputs && t.size(2) == job.inputs, kShape);
  RVRT_CHECK(!attributes[1] || t.size(4) == job.outputs, kShape);
  job.gamma = t.f(1);
  job.beta = t.f(2);
  job.activation = attributes[0];
  return dense_forward(t, job, t.f(3), attributes[1] ? t.f(4) : nullptr, 6);
}

// Gradients of norm_linear_forward.
// Inputs: x, gamma, beta, weight, bias as there; dy (..., Co); attributes int32 [activation, has_bias].
// Outputs: dx (..., Ci), dgamma (Ci), dbeta (Ci), dweight (Co, Ci), dbias (Co).
RVRT_ENTRY(norm_linear_backward) {
  using namespace rvrt;
  if (int status = t.check(6, 2, 5)) return status;
  DenseJob job{};
  if (int status = dense_sizes(t, 1, 3, &job)) return status;
  const int32_t* attributes = t.ints(6);
  for (int i : {1, 2, 8, 9}) RVRT_CHECK(t.size(i) == job.inputs, kShape);
  RVRT_CHECK(!attributes[1] || t.size(4) == job.outputs, kShape);
  job.gamma = t.f(1);
  job.beta = t.f(2);
  job.activation = attributes[0];
  return dense_backward(t, job, t.f(3), attributes[1] ? t.f(4) : nullptr, 5, 7, 8, 10);
}

#else

#include "simd.h"
#include "gemm.h"
#include "row_math.h"

// Rows [first, first + rows) of x, the sources' channels side by side, `ld` floats apart. Rows are too short for memcpy.
inline void gather_rows(const Sources& x, int64_t first, int64_t rows, float* out, int64_t ld) {
  for (int k = 0; k < x.count; out += x.channels[k++]) {
    const int64_t count = x.channels[k];
    const float* from = x.data[k] + first * count;
    for (int64_t i = 0; i < rows; ++i, from += count) {
      float* to = out + i * ld;
      int64_t c = 0;
      for (; c + W <= count; c += W) store(to + c, load(from + c));
      for (; c + 4 <= count; c += 4) store4(to + c, load4(from + c));
      for (; c < count; ++c) to[c] = from[c];
    }
  }
}

inline void dense_forward_blocks(const void* pointer, Span span) {
  const DenseJob& job = *static_cast<const DenseJob*>(pointer);
  const int64_t in = padded(job.inputs);
  float* normal = job.scratch + span.thread * job.scratch_floats;
  float* sums = normal + job.blocks.block * in;
  RowStatistics* statistics = reinterpret_cast<RowStatistics*>(sums + job.blocks.block * kPanelFloats);
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int64_t first = job.blocks.begin(i), rows = job.blocks.size(i);
    const float* a = job.x + first * job.inputs;
    int64_t lda = job.inputs;
    if (job.gamma) {
      row_statistics(rows, job.inputs, a, statistics);
      normalize(rows, job.inputs, a, statistics, job.gamma, job.beta, normal, in);
      a = normal, lda = in;
    } else if (job.sources.count > 1) {
      gather_rows(job.sources, first, rows, normal, in);
      a = normal, lda = in;
    }
    const int64_t out = first * job.y_stride;
    dense_rows(rows, job.layer, a, lda, sums,
               {job.activation, job.residual ? job.residual + out : nullptr, job.y_stride, job.y + out, job.y_stride});
  }
}

// g[i, j] = dy[i, j] * activation'(z[i, j]), in place of z; rows of z are ldz apart.
inline void activation_gradient(int64_t rows, int64_t columns, int activation, const float* dy, float* z, int64_t ldz) {
  const float slope = negative_slope(activation);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; j += W) {
      const vf g = load_row(dy + i * columns, j, columns), v = load(z + i * ldz + j);
      store(z + i * ldz + j, activation == kGelu ? g * gelu_slope(v) : v > 0.0f ? g : g * slope);
    }
}

inline void dense_backward_blocks(const void* pointer, Span span) {
  const DenseJob& job = *static_cast<const DenseJob*>(pointer);
  const int64_t in = padded(job.inputs), out = padded(job.outputs), block = job.blocks.block;
  float* normal = job.scratch + span.thread * job.scratch_floats;
  float* dnormal = normal + block * in;
  float* gradient = dnormal + block * in;
  float* sums = gradient + 2 * block * out;
  RowStatistics* statistics = reinterpret_cast<RowStatistics*>(sums + block * kPanelFloats);
  float* dweight = job.sums + span.thread * job.sums_floats;
  float* dbias = dweight + job.inputs * out;
  float* dgamma = dbias + out;
  float* dbeta = dgamma + in;
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int64_t first = job.blocks.begin(i), rows = job.blocks.size(i);
    const bool several = job.sources.count > 1;
    const float* x = several ? nullptr : job.x + first * job.inputs;
    const float* dy = job.dy + first * job.outputs;
    const float* a = x;
    int64_t lda = job.inputs;
    if (job.gamma) {
      row_statistics(rows, job.inputs, x, statistics);
      normalize(rows, job.inputs, x, statistics, job.gamma, job.beta, normal, in);
      a = normal, lda = in;
    } else if (several) {
      gather_rows(job.sources, first, rows, normal, in);
      a = normal, lda = in;
    }
    const float* g = dy;
    int64_t ldg = job.outputs;
    if (job.activation) {
      dense_rows(rows, job.layer, a, lda, sums, {kNone, nullptr, 0, gradient, out});
      activation_gradient(rows, job.outputs, job.activation, dy, gradient, out);
      g = gradient, ldg = out;
    } else if (out != job.outputs) {  // add_outer reads whole vectors
      for (int64_t r = 0; r < rows; ++r)
        std::memcpy(gradient + r * out, dy + r * job.outputs, sizeof(float) * job.outputs);
      g = gradient, ldg = out;
    }
    float* dx = job.dx.data[0] + first * job.inputs;
    const bool direct = !job.gamma && !several;
    product_rows(rows, job.inputs, job.outputs, g, ldg, job.packed_back, job.zeros, sums,
                 {kNone, nullptr, 0, direct ? dx : dnormal, direct ? job.inputs : in});
    if (several)
      for (int64_t r = 0; r < rows; ++r) scatter_channels(dnormal + r * in, job.dx, first + r, 0, job.inputs);
    if (job.gamma)
      normalize_gradient(rows, job.inputs, x, statistics, job.gamma, dnormal, in, nullptr, dx, dgamma, dbeta);
    add_outer(job.inputs, job.outputs, rows, a, lda, g, ldg, dweight);
    add_columns(rows, job.outputs, g, ldg, dbias);
  }
}
#endif
