// SPDX-License-Identifier: Apache-2.0
// 3x3 convolutions one after the other, all with the same number of channels, and their gradients: in training, one call
// in place of many small ones, between which MindSpore takes longer than a third of the kernels' time.
#include "kernel_call.h"

extern "C" {
int conv2d_forward(int, void**, int*, int64_t**, const char**, void*, void*);
int conv2d_backward(int, void**, int*, int64_t**, const char**, void*, void*);
}

namespace rvrt {
namespace {

// What a chain is made of: `layers` convolutions of (pixels, channels). With `residual` every second one is added to the
// input of the one before, which passes through a leaky ReLU; otherwise all pass through one.
struct Chain {
  int layers;
  bool residual;
  int64_t floats;  // of the features

  bool activated(int layer) const { return !residual || layer % 2 == 0; }
};

// Tensors `x`, weights from `weight` on, every `step`-th, in front of the last inputs.
int read_chain(const Tensors& t, int layers, int step, const int32_t* attributes, Chain* chain) {
  *chain = {layers, attributes[0] == 1, t.size(0)};
  RVRT_CHECK(attributes[0] == 0 || attributes[0] == 1, kAttribute);
  RVRT_CHECK(layers > 1 && (!chain->residual || layers % 2 == 0), kCount);
  RVRT_CHECK(t.ndims[0] >= 3, kShape);
  const int64_t channels = t.dim(0, t.ndims[0] - 1);
  for (int i = 0; i < layers; ++i) {
    const int weight = 1 + step * i, last = t.ndims[weight] - 1;
    RVRT_CHECK(last >= 3 && t.dim(weight, last) == 3 && t.dim(weight, last - 1) == 3, kShape);
    RVRT_CHECK(t.dim(weight, 0) == channels && t.dim(weight, 1) == channels, kShape);
    RVRT_CHECK(t.size(weight) == 9 * channels * channels, kShape);
  }
  return kOk;
}

}  // namespace
}  // namespace rvrt

// Inputs: x (..., H, W, C); weight (C, C, [1,] 3, 3), bias (C) of each layer; attributes: residual.
// Outputs: y (..., H, W, C); what the layers before the last gave, one after the other, (layers - 1, ..., H, W, C).
RVRT_ENTRY(conv_chain_forward) {
  using namespace rvrt;
  const int layers = (t.count - 4) / 2, attributes = 1 + 2 * layers, y = attributes + 1, kept = y + 1;
  RVRT_CHECK(t.count == 4 + 2 * layers, kCount);
  if (int status = t.check(attributes, 1, 2)) return status;
  Chain chain;
  if (int status = read_chain(t, layers, 2, t.ints(attributes), &chain)) return status;
  RVRT_CHECK(t.same_shape(y, 0) && t.size(kept) == (layers - 1) * chain.floats, kShape);
  const Shape features = shape_of(t, 0), weight = shape_of(t, 1);
  const float *x = t.f(0), *block = x;  // input of the layer, and of its residual block
  for (int i = 0; i < layers; ++i) {
    float* out = i + 1 < layers ? t.f(kept) + i * chain.floats : t.f(y);
    const bool last = !chain.activated(i);
    RVRT_CHECK(t.size(2 + 2 * i) == t.dim(0, t.ndims[0] - 1), kShape);
    KernelCall call;
    call.floats(x, features).floats(t.f(1 + 2 * i), weight).floats(t.f(2 + 2 * i), {weight[0]});
    call.floats(last ? block : x, features).attributes({last ? 0 : 1, 1, last}).floats(out, features);
    if (int status = call.run(conv2d_forward)) return status;
    x = out;
    if (last) block = out;
  }
  return kOk;
}

// Gradients of conv_chain_forward.
// Inputs: x; weight of each layer; y and what the layers before gave, the outputs there; dy (..., H, W, C); attributes.
// Outputs: dx, then dweight and dbias of each layer.
RVRT_ENTRY(conv_chain_backward) {
  using namespace rvrt;
  const int layers = (t.count - 6) / 3, y = 1 + layers, kept = y + 1, dy = y + 2, attributes = y + 3;
  RVRT_CHECK(t.count == 6 + 3 * layers, kCount);
  if (int status = t.check(attributes, 1, 1 + 2 * layers)) return status;
  Chain chain;
  if (int status = read_chain(t, layers, 1, t.ints(attributes), &chain)) return status;
  const int dx = attributes + 1;
  RVRT_CHECK(t.same_shape(y, 0) && t.same_shape(dy, 0) && t.same_shape(dx, 0), kShape);
  RVRT_CHECK(t.size(kept) == (layers - 1) * chain.floats, kShape);
  const Scratch scratch(3 * chain.floats);
  RVRT_CHECK(scratch.ok(), kMemory);
  const Shape features = shape_of(t, 0), weight = shape_of(t, 1);
  const float *gradient = t.f(dy), *through = gradient;  // of the layer's output, and of its residual block's
  for (int i = layers - 1; i >= 0; --i) {
    const float* x = i ? t.f(kept) + (i - 1) * chain.floats : t.f(0);
    const float* out = i + 1 < layers ? t.f(kept) + i * chain.floats : t.f(y);
    float* next = t.f(dx);
    if (i)
      for (next = scratch.data(); next == gradient || next == through;) next += chain.floats;
    const bool first = chain.residual && chain.activated(i), last = !chain.activated(i);
    RVRT_CHECK(t.size(dx + 1 + 2 * i) == t.size(1 + i) && t.size(dx + 2 + 2 * i) == t.dim(1 + i, 0), kShape);
    KernelCall call;
    call.floats(x, features).floats(t.f(1 + i), weight).floats(out, features).floats(gradient, features);
    call.attributes({last ? 0 : 1, 1, 0}).floats(next, features);
    call.floats(t.f(dx + 1 + 2 * i), weight).floats(t.f(dx + 2 + 2 * i), {weight[0]});
    if (int status = call.run(conv2d_backward)) return status;
    if (first) {
      const AddFloats add{through, next};
      parallel(chain.floats, add_floats, &add);
    }
    gradient = next;
    if (first) through = next;
  }
  return kOk;
}
