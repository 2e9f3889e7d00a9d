// SPDX-License-Identifier: Apache-2.0
// Kernels that visit every element once: conversions, activations' gradients, rearrangements, the loss. One thread per
// element of the output, neighboring threads on neighboring elements.
#include "portable.h"

using namespace rvrt::cuda;

template <class T>
RVRT_DEVICE void convert(const ConvertArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count()) store<T>(a.out, i, a.x[i]);
}
RVRT_KERNELS(convert, ConvertArguments)

// Adds the slices in order, so that the sum does not depend on how the blocks were scheduled.
template <class T>
RVRT_DEVICE void sum_slices(const SlicesArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    Index from = i;
    if (a.rows) {
      const Index matrix = i / (static_cast<Index>(a.rows) * a.columns),
                  place = i % (static_cast<Index>(a.rows) * a.columns);
      from = matrix * a.rows * a.columns + place % a.rows * a.columns + place / a.rows;
    }
    float sum = 0;
    for (int s = 0; s < a.slices; ++s) sum += a.partial[s * a.count + from];
    store<T>(a.out, i, sum);
  }
}
RVRT_KERNELS(sum_slices, SlicesArguments)

template <class T>
RVRT_DEVICE void multiply_slope(const SlopeArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count())
    store<T>(a.out, i, load<T>(a.gradient, i) * activation_slope(load<T>(a.y, i), a.activation));
}
RVRT_KERNELS(multiply_slope, SlopeArguments)

// Place in the small image of element `i` of the large one.
RVRT_DEVICE Index shuffled_from(const ShuffleArguments& a, Index i) {
  const int c = i % a.channels;
  i /= a.channels;
  const int x = i % (a.width * a.factor);
  i /= a.width * a.factor;
  const int y = i % (a.height * a.factor);
  const Index image = i / (a.height * a.factor);
  const Index pixel = (image * a.height + y / a.factor) * a.width + x / a.factor;
  return (pixel * a.channels + c) * a.factor * a.factor + y % a.factor * a.factor + x % a.factor;
}

template <class T>
RVRT_DEVICE void pixel_shuffle_forward(const ShuffleArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count())
    store<T>(a.out, i, activate(load<T>(a.small, shuffled_from(a, i)), a.activation));
}
RVRT_KERNELS(pixel_shuffle_forward, ShuffleArguments)

template <class T>
RVRT_DEVICE void pixel_shuffle_backward(const ShuffleArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const float slope = activation_slope(load<T>(a.large, i), a.activation);
    store<T>(a.out, shuffled_from(a, i), load<T>(a.gradient, i) * slope);
  }
}
RVRT_KERNELS(pixel_shuffle_backward, ShuffleArguments)

// Half-pixel centers, edge pixels repeated outside.
template <class T>
RVRT_DEVICE void add_upsampled_forward(const UpsampledArguments& a) {
  const float step = 1.0f / a.factor;
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const int c = i % a.channels;
    Index rest = i / a.channels;
    const int x = rest % (a.width * a.factor);
    rest /= a.width * a.factor;
    const int y = rest % (a.height * a.factor);
    const Index image = rest / (a.height * a.factor);
    const Footprint down = footprint((y + 0.5f) * step - 0.5f, a.height, true);
    const Footprint across = footprint((x + 0.5f) * step - 0.5f, a.width, true);
    float sum = 0;
    for (int j = 0; j < 2; ++j)
      for (int k = 0; k < 2; ++k) {
        const Index pixel = (image * a.height + down.index[j]) * a.width + across.index[k];
        sum += down.weight[j] * across.weight[k] * load<T>(a.small, pixel * a.channels + c);
      }
    store<T>(a.out, i, load<T>(a.add, i) + sum);
  }
}
RVRT_KERNELS(add_upsampled_forward, UpsampledArguments)

template <class T>
RVRT_DEVICE void reverse_time_forward(const ReverseArguments& a) {
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const Index frame = i / a.line;
    const int t = frame % a.frames;
    const Index from = frame + a.frames - 1 - 2 * t;
    static_cast<T*>(a.out)[i] = static_cast<const T*>(a.x)[from * a.line + i % a.line];
  }
}
RVRT_KERNELS(reverse_time_forward, ReverseArguments)

// Sums within a block; then `loss_mean` adds the blocks, both in a fixed order.
template <class T>
RVRT_DEVICE void loss_partial(const LossArguments& a) {
  __shared__ double sums[256];
  double sum = 0;
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const float difference = load<T>(a.x, i) - load<T>(a.y, i);
    sum += sqrtf(difference * difference + *a.epsilon2);
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int step = 128; step > 0; step /= 2) {
    if (threadIdx.x < static_cast<unsigned>(step)) sums[threadIdx.x] += sums[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) a.partial[blockIdx.x] = sums[0];
}
RVRT_KERNELS(loss_partial, LossArguments)

template <class T>
RVRT_DEVICE void loss_mean(const LossArguments& a) {
  if (thread_index() != 0) return;
  double total = 0;
  for (int i = 0; i < a.blocks; ++i) total += a.partial[i];
  store<T>(a.out, 0, static_cast<float>(total / a.count));
}
RVRT_KERNELS(loss_mean, LossArguments)

template <class T>
RVRT_DEVICE void loss_backward(const LossArguments& a) {
  const float factor = static_cast<float>(static_cast<double>(*a.dout) / a.count);
  for (Index i = thread_index(); i < a.count; i += thread_count()) {
    const float difference = load<T>(a.x, i) - load<T>(a.y, i);
    store<T>(a.dx, i, factor * difference / sqrtf(difference * difference + *a.epsilon2));
  }
}
RVRT_KERNELS(loss_backward, LossArguments)
