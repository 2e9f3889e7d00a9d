// SPDX-License-Identifier: Apache-2.0
// Shared by dense layers (dense.cc), the direct convolution (conv2d.cc) and Winograd's (winograd.cc,
// winograd7x7.cc).
#pragma once

#include "kernel.h"

namespace rvrt {

constexpr int kMostSources = 5;

// The input of a convolution or dense layer: tensors of the same pixels whose channels lie side by side.
struct Sources {
  int count = 0;
  const float* data[kMostSources] = {};
  int64_t channels[kMostSources] = {};
  int64_t stride[kMostSources] = {};  // floats from one pixel to the next
  int64_t total() const {
    int64_t n = 0;
    for (int i = 0; i < count; ++i) n += channels[i];
    return n;
  }
};

// Where the gradient of `Sources` goes, its channels side by side.
struct Destinations {
  int count = 0;
  float* data[kMostSources] = {};
  int64_t channels[kMostSources] = {};
};

// The first `count` tensors of a call, alike but for their last axis. Returns a Status.
inline int read_sources(const Tensors& t, int count, Sources* x) {
  RVRT_CHECK(count >= 1 && count <= kMostSources && t.ndims[0] >= 1, kCount);
  x->count = count;
  for (int i = 0; i < count; ++i) {
    RVRT_CHECK(t.ndims[i] == t.ndims[0], kShape);
    for (int axis = 0; axis + 1 < t.ndims[0]; ++axis) RVRT_CHECK(t.dim(i, axis) == t.dim(0, axis), kShape);
    x->data[i] = t.f(i);
    x->channels[i] = x->stride[i] = t.dim(i, t.ndims[i] - 1);
    RVRT_CHECK(x->channels[i] > 0, kShape);
  }
  return kOk;
}

// Tensors from `first` on, one for each of `x` and of its shape. Returns a Status.
inline int read_destinations(const Tensors& t, const Sources& x, int first, Destinations* dx) {
  dx->count = x.count;
  for (int i = 0; i < x.count; ++i) {
    RVRT_CHECK(t.same_shape(first + i, i), kShape);
    dx->data[i] = t.f(first + i);
    dx->channels[i] = x.channels[i];
  }
  return kOk;
}

// Copies `count` channels from channel `first` on of a pixel.
inline void scatter_channels(const float* from, const Destinations& to, int64_t pixel, int64_t first, int64_t count) {
  int64_t begin = 0;  // of a tensor, among all channels
  for (int i = 0; i < to.count && begin < first + count; begin += to.channels[i++]) {
    const int64_t low = begin > first ? begin : first, end = begin + to.channels[i];
    const int64_t high = end < first + count ? end : first + count;
    if (low < high)
      std::memcpy(to.data[i] + pixel * to.channels[i] + low - begin, from + low - first, sizeof(float) * (high - low));
  }
}

// A convolution by Winograd's algorithm: y = activation(x * weight + bias) + residual. With `through`, x is a gradient
// towards `through`, which the activation gave, and passes back through its slope first.
struct WinogradCall {
  int64_t batch, height, width, inputs, outputs;
  Sources x;
  const float* through;  // (batch, height, width, inputs), or null
  int through_activation;
  const float* weight;  // (outputs, inputs, 3, 3) or 7, 7, or `flipped`: (inputs, outputs, 3, 3) with reversed taps
  bool flipped;
  const float *bias, *residual;  // or null
  Destinations y;
  int64_t y_stride;  // floats from one pixel of a single y, and of the residual, to the next
  int activation;
};

// dweight (outputs, inputs, 3, 3) = the sum over pixels p of x[p + tap] g[p], and dbias (outputs); g is dy, through the
// activation that gave `y` (null: none).
struct WinogradGradientCall {
  int64_t batch, height, width, inputs, outputs;
  Sources x;
  const float *y, *dy;
  int activation;
  float *dweight, *dbias;
};

// Whether Winograd's algorithm is faster than the direct one.
bool winograd_suits(int64_t batch, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh,
                    int64_t kw);

int winograd_convolve(const WinogradCall& call);

// With bfloat16 operands, in inference, where pairs of them are multiplied (bfloat16.h).
bool half_winograd_suits(int64_t batch, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh,
                         int64_t kw);
int half_winograd_convolve(const WinogradCall& call);

int winograd_weight_gradient(const WinogradGradientCall& call);

// The same for a 7x7 convolution of one tensor, without `through` and `flipped`.
bool winograd_7x7_suits(int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh, int64_t kw);
int winograd_7x7_convolve(const WinogradCall& call);
int half_winograd_7x7_convolve(const WinogradCall& call);  // with bfloat16 operands, where pairs of them are multiplied

}  // namespace rvrt
