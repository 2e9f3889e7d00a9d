// SPDX-License-Identifier: Apache-2.0
// Guided deformable attention in training: the kernels of its parts, whose features are kept for the gradient. One call in
// place of eight, and of twelve for the gradient: MindSpore takes as long between them as small crops take to compute, and
// copies the whole graph of a step for its gradients.
#include "kernel_call.h"

#include <algorithm>
#include <cmath>

extern "C" {
int deformable_attention_backward(int, void**, int*, int64_t**, const char**, void*, void*);
int deformable_attention_forward(int, void**, int*, int64_t**, const char**, void*, void*);
int guided_offsets_backward(int, void**, int*, int64_t**, const char**, void*, void*);
int guided_offsets_forward(int, void**, int*, int64_t**, const char**, void*, void*);
int linear_backward(int, void**, int*, int64_t**, const char**, void*, void*);
int linear_forward(int, void**, int*, int64_t**, const char**, void*, void*);
int linear_pair_forward(int, void**, int*, int64_t**, const char**, void*, void*);
}

namespace rvrt {
namespace {

// Inputs of both calls, in this order; each layer is a weight and a bias.
constexpr int kQuery = 0, kKey = 1, kValue = 2, kHidden = 3, kFlows = 4, kMaxOffset = 5, kOffsets = 6, kToQuery = 8;
constexpr int kToKey = 10, kToValue = 12, kProject = 14, kIn = 16, kOut = 18, kLayersEnd = 20;
constexpr int kGeluCode = 4;

// Sizes of a call: `rows` pixels of (N, T, H, W), A channels of query, key and value, C of the output, F of the hidden features.
struct Guided {
  int64_t N, T, H, W, rows, A, C, F, offsets;  // offsets: numbers of a pixel, (T, G, K, 2)
  int32_t heads, kernel_h, kernel_w, groups;

  Shape features(int64_t channels) const { return {N, T, H, W, channels}; }
  Shape offset_shape() const { return {N, T, H, W, T, groups, kernel_h * kernel_w, 2}; }
  std::vector<int32_t> attention() const { return {heads, kernel_h, kernel_w}; }
  float scale() const { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(A / heads))); }
  int64_t kept_floats() const { return rows * (offsets + 4 * A + C + F); }
};

// What the forward pass keeps, one part after the other.
struct Kept {
  float *offset, *query, *key_value, *attended, *projected, *hidden;
  Kept(const Guided& g, float* data)
      : offset(data),
        query(offset + g.rows * g.offsets),
        key_value(query + g.rows * g.A),
        attended(key_value + 2 * g.rows * g.A),
        projected(attended + g.rows * g.A),
        hidden(projected + g.rows * g.C) {}
};

int training_sizes(const Tensors& t, int attributes, Guided* g) {
  RVRT_CHECK(t.ndims[kQuery] == 5 && t.ndims[kFlows] == 6, kShape);
  for (int i : {kKey, kValue, kHidden}) {
    RVRT_CHECK(t.ndims[i] == 5, kShape);
    for (int axis = 0; axis < 4; ++axis) RVRT_CHECK(t.dim(i, axis) == t.dim(kQuery, axis), kShape);
  }
  for (int i = kOffsets; i < kLayersEnd; i += 2) RVRT_CHECK(t.ndims[i] == 2 && t.size(i + 1) == t.dim(i, 0), kShape);
  g->N = t.dim(0, 0), g->T = t.dim(0, 1), g->H = t.dim(0, 2), g->W = t.dim(0, 3);
  g->rows = g->N * g->T * g->H * g->W;
  g->A = t.dim(kToQuery, 0), g->C = t.dim(kProject, 0), g->F = t.dim(kIn, 0), g->offsets = t.dim(kOffsets, 0);
  const int32_t* a = t.ints(attributes);
  g->heads = a[0], g->kernel_h = a[1], g->kernel_w = a[2], g->groups = a[3];
  RVRT_CHECK(g->heads > 0 && g->A % g->heads == 0 && g->groups > 0, kAttribute);
  for (int i : {kQuery, kKey, kValue})
    RVRT_CHECK(t.has_shape(kToQuery + 2 * i, {g->A, t.dim(i, 4)}) && g->A > 0, kShape);
  RVRT_CHECK(t.dim(kOffsets, 1) == t.dim(kHidden, 4) && t.dim(kProject, 1) == g->A, kShape);
  RVRT_CHECK(t.dim(kIn, 1) == g->C && t.has_shape(kOut, {g->C, g->F}), kShape);
  RVRT_CHECK(g->offsets == g->T * g->groups * g->kernel_h * g->kernel_w * 2, kShape);
  RVRT_CHECK(t.has_shape(kFlows, {g->N, g->T, g->T, g->H, g->W, 2}), kShape);
  return kOk;
}

struct Layer {
  const float *weight, *bias;
  Shape shape;
};

Layer layer_of(const Tensors& t, int weight) { return {t.f(weight), t.f(weight + 1), shape_of(t, weight)}; }

// The layer of the query, scaled.
class ScaledQuery {
 public:
  ScaledQuery(const Tensors& t, float scale) : t_(t), numbers_(t.size(kToQuery) + t.size(kToQuery + 1)) {
    if (!ok()) return;
    float* to = numbers_.data();
    for (int i : {kToQuery, kToQuery + 1})
      for (int64_t k = 0, floats = t.size(i); k < floats; ++k) *to++ = scale * t.f(i)[k];
  }
  bool ok() const { return numbers_.ok(); }
  Layer layer() const { return {numbers_.data(), numbers_.data() + t_.size(kToQuery), shape_of(t_, kToQuery)}; }

 private:
  const Tensors& t_;
  const Scratch numbers_;
};

int dense(const Guided& g, const Layer& layer, const float* x, int activation, const float* residual, float* y) {
  KernelCall call;
  call.floats(x, g.features(layer.shape[1])).floats(layer.weight, layer.shape).floats(layer.bias, {layer.shape[0]});
  call.floats(residual ? residual : x, g.features(residual ? layer.shape[0] : layer.shape[1]));
  call.attributes({activation, 1, residual != nullptr}).floats(y, g.features(layer.shape[0]));
  return call.run(linear_forward);
}

// Gradients of a layer: dx, and dweight and dbias at outputs `dweight` and `dweight` + 1.
int dense_gradient(const Tensors& t, const Guided& g, const Layer& layer, const float* x, int activation,
                   const float* dy, float* dx, int dweight) {
  KernelCall call;
  call.floats(x, g.features(layer.shape[1])).floats(layer.weight, layer.shape).floats(layer.bias, {layer.shape[0]});
  call.floats(dy, g.features(layer.shape[0])).attributes({activation, 1, 0}).floats(dx, g.features(layer.shape[1]));
  call.floats(t.f(dweight), shape_of(t, dweight)).floats(t.f(dweight + 1), shape_of(t, dweight + 1));
  return call.run(linear_backward);
}

// The gradients of keys and values, which lie side by side, apart.
struct SplitJob {
  const float* both;
  int64_t channels;
  float *first, *second;
};

void split_rows(const void* pointer, Span span) {
  const SplitJob& job = *static_cast<const SplitJob*>(pointer);
  const int64_t floats = job.channels;
  for (int64_t row = span.begin; row < span.end; ++row) {
    std::memcpy(job.first + row * floats, job.both + 2 * row * floats, sizeof(float) * floats);
    std::memcpy(job.second + row * floats, job.both + (2 * row + 1) * floats, sizeof(float) * floats);
  }
}

// Gradients through feed-forward part and projection: of the attended samples.
int project_gradient(const Tensors& t, const Guided& g, const Kept& kept, const float* dy, float* dattended, int out) {
  const Scratch scratch(g.rows * (g.F + g.C));
  RVRT_CHECK(scratch.ok(), kMemory);
  float *dhidden = scratch.data(), *dprojected = dhidden + g.rows * g.F;
  if (int status = dense_gradient(t, g, layer_of(t, kOut), kept.hidden, 0, dy, dhidden, out + kOut)) return status;
  if (int status = dense_gradient(t, g, layer_of(t, kIn), kept.projected, kGeluCode, dhidden, dprojected, out + kIn))
    return status;
  const AddFloats past{dy, dprojected};
  parallel(g.rows * g.C, add_floats, &past);
  return dense_gradient(t, g, layer_of(t, kProject), kept.attended, 0, dprojected, dattended, out + kProject);
}

// Gradients of query, key and value from those of their projections.
int inputs_gradient(const Tensors& t, const Guided& g, const float* dquery, const float* dkey_value, int first,
                    int out) {
  const ScaledQuery query(t, g.scale());
  const Scratch scratch(2 * g.rows * g.A);
  RVRT_CHECK(query.ok() && scratch.ok(), kMemory);
  if (int status = dense_gradient(t, g, query.layer(), t.f(kQuery), 0, dquery, t.f(first + kQuery), out + kToQuery))
    return status;
  for (int i : {out + kToQuery, out + kToQuery + 1})
    for (int64_t k = 0, floats = t.size(i); k < floats; ++k) t.f(i)[k] *= g.scale();
  float *dkey = scratch.data(), *dvalue = dkey + g.rows * g.A;
  const SplitJob split{dkey_value, g.A, dkey, dvalue};
  parallel(g.rows, split_rows, &split);
  if (int status = dense_gradient(t, g, layer_of(t, kToKey), t.f(kKey), 0, dkey, t.f(first + kKey), out + kToKey))
    return status;
  return dense_gradient(t, g, layer_of(t, kToValue), t.f(kValue), 0, dvalue, t.f(first + kValue), out + kToValue);
}

// Gradients of the features that predict the offsets, of their layer and of the flows.
int offsets_gradient(const Tensors& t, const Guided& g, const float* doffset, const float* dcorrected, int first,
                     int out) {
  const Scratch scratch(2 * g.rows * g.offsets);
  RVRT_CHECK(scratch.ok(), kMemory);
  float *raw = scratch.data(), *draw = raw + g.rows * g.offsets;
  const Layer layer = layer_of(t, kOffsets);
  if (int status = dense(g, layer, t.f(kHidden), 0, nullptr, raw)) return status;
  const Shape flows = shape_of(t, kFlows);
  KernelCall call;
  call.floats(raw, g.features(g.offsets)).floats(t.f(kFlows), flows).floats(t.f(kMaxOffset), {1});
  call.floats(doffset, g.offset_shape()).floats(dcorrected, flows);
  call.attributes({g.groups * g.kernel_h * g.kernel_w});
  call.floats(draw, g.features(g.offsets)).floats(t.f(first + kFlows), flows);
  if (int status = call.run(guided_offsets_backward)) return status;
  return dense_gradient(t, g, layer, t.f(kHidden), 0, draw, t.f(first + kHidden), out + kOffsets);
}

}  // namespace
}  // namespace rvrt

// Inputs and the first two outputs are those of guided_attention_forward, for any groups of deformable_attention_forward.
// Third output: what the gradient reads, N * T * H * W * (T * G * K * 2 + 4 * A + C + F) floats.
RVRT_ENTRY(guided_training_forward) {
  using namespace rvrt;
  if (int status = t.check(kLayersEnd, 4, 3)) return status;
  Guided g{};
  if (int status = training_sizes(t, kLayersEnd, &g)) return status;
  const int y = kLayersEnd + 1, corrected = y + 1, keeps = y + 2;
  RVRT_CHECK(t.has_shape(y, {g.N, g.T, g.H, g.W, g.C}) && t.same_shape(corrected, kFlows), kShape);
  RVRT_CHECK(t.size(keeps) == g.kept_floats() && t.size(kMaxOffset) == 1, kShape);
  const Kept kept(g, t.f(keeps));
  const ScaledQuery query(t, g.scale());
  RVRT_CHECK(query.ok(), kMemory);
  if (int status = dense(g, query.layer(), t.f(kQuery), 0, nullptr, kept.query)) return status;
  KernelCall pair, offsets, attention;
  for (int i : {kKey, kToKey, kToKey + 1, kValue, kToValue, kToValue + 1}) pair.floats(t.f(i), shape_of(t, i));
  if (int status = pair.floats(kept.key_value, g.features(2 * g.A)).run(linear_pair_forward)) return status;
  for (int i : {kHidden, kOffsets, kOffsets + 1, kFlows, kMaxOffset}) offsets.floats(t.f(i), shape_of(t, i));
  offsets.attributes({g.groups * g.kernel_h * g.kernel_w}).floats(kept.offset, g.offset_shape());
  if (int status = offsets.floats(t.f(corrected), shape_of(t, kFlows)).run(guided_offsets_forward)) return status;
  attention.floats(kept.query, g.features(g.A)).floats(kept.key_value, g.features(2 * g.A));
  attention.floats(kept.offset, g.offset_shape()).attributes(g.attention()).floats(kept.attended, g.features(g.A));
  if (int status = attention.run(deformable_attention_forward)) return status;
  if (int status = dense(g, layer_of(t, kProject), kept.attended, 0, nullptr, kept.projected)) return status;
  if (int status = dense(g, layer_of(t, kIn), kept.projected, kGeluCode, nullptr, kept.hidden)) return status;
  return dense(g, layer_of(t, kOut), kept.hidden, 0, kept.projected, t.f(y));
}

// Gradients of guided_training_forward.
// Inputs: those of the forward pass but for the attributes; what it kept; dy; dcorrected; attributes as there.
// Outputs: the gradients of query, key, value, hidden, flows, and of each layer's weight and bias.
RVRT_ENTRY(guided_training_backward) {
  using namespace rvrt;
  const int keeps = kLayersEnd, dy = keeps + 1, dcorrected = keeps + 2, attributes = keeps + 3, first = keeps + 4;
  const int out = first + kFlows + 1 - kOffsets;  // + a layer's input: its gradient
  if (int status = t.check(attributes, 4, kLayersEnd - 1)) return status;
  Guided g{};
  if (int status = training_sizes(t, attributes, &g)) return status;
  RVRT_CHECK(t.has_shape(dy, {g.N, g.T, g.H, g.W, g.C}) && t.same_shape(dcorrected, kFlows), kShape);
  RVRT_CHECK(t.size(keeps) == g.kept_floats() && t.size(kMaxOffset) == 1, kShape);
  for (int i = kQuery; i <= kFlows; ++i) RVRT_CHECK(t.same_shape(first + i, i), kShape);
  for (int i = kOffsets; i < kLayersEnd; ++i) RVRT_CHECK(t.same_shape(out + i, i), kShape);
  const Kept kept(g, t.f(keeps));
  const Scratch scratch(g.rows * (4 * g.A + g.offsets));
  RVRT_CHECK(scratch.ok(), kMemory);
  float *dattended = scratch.data(), *dquery = dattended + g.rows * g.A, *dkey_value = dquery + g.rows * g.A;
  float* doffset = dkey_value + 2 * g.rows * g.A;
  if (int status = project_gradient(t, g, kept, t.f(dy), dattended, out)) return status;
  KernelCall call;
  call.floats(kept.query, g.features(g.A)).floats(kept.key_value, g.features(2 * g.A));
  call.floats(kept.offset, g.offset_shape()).floats(dattended, g.features(g.A)).attributes(g.attention());
  call.floats(dquery, g.features(g.A)).floats(dkey_value, g.features(2 * g.A)).floats(doffset, g.offset_shape());
  if (int status = call.run(deformable_attention_backward)) return status;
  if (int status = inputs_gradient(t, g, dquery, dkey_value, first, out)) return status;
  return offsets_gradient(t, g, doffset, t.f(dcorrected), first, out);
}
