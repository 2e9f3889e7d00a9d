// SPDX-License-Identifier: Apache-2.0
// 2-D convolution in groups, stride 1, zero padding, channels last: forward and gradients.
//
// Each group is a convolution of its own between some of the channels. Winograd's algorithm reads and writes them where
// they lie; for the others, and for the gradients, a group's channels are copied side by side.
#include "bfloat16.h"
#include "convolution.h"

extern "C" {
int conv2d_forward(int, void**, int*, int64_t**, const char**, void*, void*);
int conv2d_backward(int, void**, int*, int64_t**, const char**, void*, void*);
}

namespace rvrt {
namespace {

using Entry = int (*)(int, void**, int*, int64_t**, const char**, void*, void*);

struct CopyJob {
  const float* from;
  float* to;
  int64_t from_stride, to_stride, channels;
};

void copy_pixels(const void* pointer, Span span) {
  const CopyJob& job = *static_cast<const CopyJob*>(pointer);
  for (int64_t i = span.begin; i < span.end; ++i)
    std::memcpy(job.to + i * job.to_stride, job.from + i * job.from_stride, sizeof(float) * job.channels);
}

// Channels of a group, side by side in memory.
void gather(const float* x, int64_t stride, int64_t channels, int64_t pixels, const Scratch& to) {
  const CopyJob job{x, to.data(), stride, channels, channels};
  parallel(pixels, copy_pixels, &job);
}

void scatter(const Scratch& from, int64_t channels, int64_t pixels, int64_t stride, float* y) {
  const CopyJob job{from.data(), y, channels, stride, channels};
  parallel(pixels, copy_pixels, &job);
}

struct GroupSizes {
  int64_t batch, height, width, inputs, outputs, kh, kw, groups;  // channels of one group
  int64_t pixels() const { return batch * height * width; }
  int64_t weights() const { return outputs * inputs * kh * kw; }
};

// x (B, H, W, G * Ci), weight (G * Co, Ci, [1,] kh, kw), attributes [activation].
int group_sizes(const Tensors& t, const int32_t* attributes, GroupSizes* s) {
  const int nw = t.ndims[1];
  RVRT_CHECK(t.ndims[0] == 4 && (nw == 4 || (nw == 5 && t.dim(1, 2) == 1)), kShape);
  RVRT_CHECK(attributes[0] >= 0 && attributes[0] <= 3, kAttribute);
  const int64_t inputs = t.dim(1, 1), outputs = t.dim(1, 0);
  RVRT_CHECK(inputs > 0 && outputs > 0 && t.dim(0, 3) % inputs == 0, kShape);
  const int64_t groups = t.dim(0, 3) / inputs;
  RVRT_CHECK(groups > 0 && outputs % groups == 0, kShape);
  *s = {t.dim(0, 0), t.dim(0, 1), t.dim(0, 2), inputs, outputs / groups, t.dim(1, nw - 2), t.dim(1, nw - 1), groups};
  return kOk;
}

// A call of another entry point with tensors of up to 4 axes.
class Call {
 public:
  void add(float* data, std::initializer_list<int64_t> shape) { add(data, shape, "float32"); }
  void add(int32_t* data, int64_t count) { add(data, {count}, "int32"); }
  int run(Entry entry) {
    for (int i = 0; i < count_; ++i) pointers_[i] = shapes_[i];
    return entry(count_, data_, ndims_, pointers_, types_, nullptr, nullptr);
  }

 private:
  void add(void* data, std::initializer_list<int64_t> shape, const char* type) {
    data_[count_] = data;
    ndims_[count_] = static_cast<int>(shape.size());
    types_[count_] = type;
    int axis = 0;
    for (int64_t length : shape) shapes_[count_][axis++] = length;
    ++count_;
  }

  int count_ = 0;
  void* data_[8];
  int ndims_[8];
  int64_t shapes_[8][4], *pointers_[8];
  const char* types_[8];
};

}  // namespace
}  // namespace rvrt

// y = activation(x * weight + bias), group by group.
// Inputs: x (B, H, W, G * Ci); weight (G * Co, Ci, [1,] kh, kw), odd; bias (G * Co); attributes int32 [activation], as of
//   conv2d_forward. Output: y (B, H, W, G * Co).
RVRT_ENTRY(grouped_conv2d_forward) {
  using namespace rvrt;
  if (int status = t.check(3, 1, 1)) return status;
  GroupSizes s;
  if (int status = group_sizes(t, t.ints(3), &s)) return status;
  const int64_t inputs = s.groups * s.inputs, outputs = s.groups * s.outputs;
  RVRT_CHECK(t.size(2) == outputs && t.has_shape(4, {s.batch, s.height, s.width, outputs}), kShape);
  if (!s.pixels()) return kOk;
  const bool half = half_winograd_suits(s.batch, s.height, s.width, s.inputs, s.outputs, s.kh, s.kw);
  const bool in_place =
      half || (operands() == kFloat32 && winograd_suits(s.batch, s.height, s.width, s.inputs, s.outputs, s.kh, s.kw));
  const Scratch x(in_place ? 1 : s.pixels() * s.inputs), y(in_place ? 1 : s.pixels() * s.outputs);
  RVRT_CHECK(x.ok() && y.ok(), kMemory);
  for (int64_t k = 0; k < s.groups; ++k) {
    float *weight = t.f(1) + k * s.weights(), *bias = t.f(2) + k * s.outputs;
    int status = kOk;
    if (in_place) {
      WinogradCall call{};
      call.batch = s.batch, call.height = s.height, call.width = s.width;
      call.inputs = s.inputs, call.outputs = s.outputs;
      call.x = {1, {t.f(0) + k * s.inputs}, {s.inputs}, {inputs}};
      call.weight = weight;
      call.bias = bias;
      call.y = {1, {t.f(4) + k * s.outputs}, {s.outputs}};
      call.y_stride = outputs;
      call.activation = t.ints(3)[0];
      status = half ? half_winograd_convolve(call) : winograd_convolve(call);
    } else {
      int32_t attributes[] = {t.ints(3)[0], 1, 0};
      gather(t.f(0) + k * s.inputs, inputs, s.inputs, s.pixels(), x);
      Call call;
      call.add(x.data(), {s.batch, s.height, s.width, s.inputs});
      call.add(weight, {s.outputs, s.inputs, s.kh, s.kw});
      call.add(bias, {s.outputs});
      call.add(bias, {s.outputs});  // in place of a residual
      call.add(attributes, 3);
      call.add(y.data(), {s.batch, s.height, s.width, s.outputs});
      status = call.run(conv2d_forward);
      scatter(y, s.outputs, s.pixels(), outputs, t.f(4) + k * s.outputs);
    }
    if (status) return status;
  }
  return kOk;
}

// Inputs: x, weight, y (what the activation gave), dy, attributes as there. Outputs: dx, dweight, dbias (G * Co).
RVRT_ENTRY(grouped_conv2d_backward) {
  using namespace rvrt;
  if (int status = t.check(4, 1, 3)) return status;
  GroupSizes s;
  if (int status = group_sizes(t, t.ints(4), &s)) return status;
  const int64_t inputs = s.groups * s.inputs, outputs = s.groups * s.outputs;
  RVRT_CHECK(t.has_shape(3, {s.batch, s.height, s.width, outputs}) && t.same_shape(2, 3), kShape);
  RVRT_CHECK(t.same_shape(5, 0) && t.size(6) == t.size(1) && t.size(7) == outputs, kShape);
  const Scratch x(s.pixels() * s.inputs), dx(s.pixels() * s.inputs);
  const Scratch y(s.pixels() * s.outputs), dy(s.pixels() * s.outputs);
  RVRT_CHECK(x.ok() && dx.ok() && y.ok() && dy.ok(), kMemory);
  for (int64_t k = 0; k < s.groups; ++k) {
    int32_t attributes[] = {t.ints(4)[0], 1, 0};
    gather(t.f(0) + k * s.inputs, inputs, s.inputs, s.pixels(), x);
    gather(t.f(2) + k * s.outputs, outputs, s.outputs, s.pixels(), y);
    gather(t.f(3) + k * s.outputs, outputs, s.outputs, s.pixels(), dy);
    Call call;
    call.add(x.data(), {s.batch, s.height, s.width, s.inputs});
    call.add(t.f(1) + k * s.weights(), {s.outputs, s.inputs, s.kh, s.kw});
    call.add(y.data(), {s.batch, s.height, s.width, s.outputs});
    call.add(dy.data(), {s.batch, s.height, s.width, s.outputs});
    call.add(attributes, 3);
    call.add(dx.data(), {s.batch, s.height, s.width, s.inputs});
    call.add(t.f(6) + k * s.weights(), {s.outputs, s.inputs, s.kh, s.kw});
    call.add(t.f(7) + k * s.outputs, {s.outputs});
    if (int status = call.run(conv2d_backward)) return status;
    scatter(dx, s.inputs, s.pixels(), inputs, t.f(5) + k * s.inputs);
  }
  return kOk;
}
