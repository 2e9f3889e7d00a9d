// SPDX-License-Identifier: Apache-2.0
// LayerNorm over channels, and sums over rows. A warp per row; blocks of 256 threads.
#include "portable.h"

using namespace rvrt::cuda;

namespace {

constexpr float kEpsilon = 1e-5f;

// Mean and 1 / standard deviation of a row, in two passes: the difference of squares would cancel.
template <class T>
RVRT_DEVICE void row_statistics(const void* x, Index row, int channels, float& mean, float& scale) {
  const int lane = threadIdx.x % 32;
  float sum = 0;
  for (int c = lane; c < channels; c += 32) sum += load<T>(x, row * channels + c);
  mean = lane_sum<32>(sum) / channels;
  float squares = 0;
  for (int c = lane; c < channels; c += 32) {
    const float d = load<T>(x, row * channels + c) - mean;
    squares += d * d;
  }
  scale = 1.0f / sqrtf(lane_sum<32>(squares) / channels + kEpsilon);
}

}  // namespace

template <class T>
RVRT_DEVICE void norm_statistics(const NormArguments& a) {
  for (Index row = thread_index() / 32; row < a.rows; row += thread_count() / 32) {
    float mean, scale;
    row_statistics<T>(a.x, row, a.channels, mean, scale);
    if (threadIdx.x % 32 == 0) a.statistics[2 * row] = mean, a.statistics[2 * row + 1] = scale;
  }
}
RVRT_KERNELS(norm_statistics, NormArguments)

template <class T>
RVRT_DEVICE void layer_norm_forward(const NormArguments& a) {
  for (Index row = thread_index() / 32; row < a.rows; row += thread_count() / 32) {
    float mean, scale;
    row_statistics<T>(a.x, row, a.channels, mean, scale);
    for (int c = threadIdx.x % 32; c < a.channels; c += 32) {
      const float n = (load<T>(a.x, row * a.channels + c) - mean) * scale;
      store<T>(a.out, row * a.channels + c, n * load<T>(a.gamma, c) + load<T>(a.beta, c));
    }
  }
}
RVRT_KERNELS(layer_norm_forward, NormArguments)

// out = gradient towards x, plus the residual. `statistics` are given.
template <class T>
RVRT_DEVICE void layer_norm_backward(const NormArguments& a) {
  for (Index row = thread_index() / 32; row < a.rows; row += thread_count() / 32) {
    const float mean = a.statistics[2 * row], scale = a.statistics[2 * row + 1];
    float sum = 0, scaled = 0;
    for (int c = threadIdx.x % 32; c < a.channels; c += 32) {
      const float g = load<T>(a.dout, row * a.channels + c) * load<T>(a.gamma, c);
      sum += g;
      scaled += g * (load<T>(a.x, row * a.channels + c) - mean) * scale;
    }
    sum = lane_sum<32>(sum) / a.channels, scaled = lane_sum<32>(scaled) / a.channels;
    for (int c = threadIdx.x % 32; c < a.channels; c += 32) {
      const Index i = row * a.channels + c;
      const float g = load<T>(a.dout, i) * load<T>(a.gamma, c), n = (load<T>(a.x, i) - mean) * scale;
      store<T>(a.out, i, scale * (g - sum - n * scaled) + (a.residual ? load<T>(a.residual, i) : 0.0f));
    }
  }
}
RVRT_KERNELS(layer_norm_backward, NormArguments)

// A block per slice of the rows and 32 columns: lanes are columns, warps take every eighth row.
template <class T>
RVRT_DEVICE void column_sums(const ColumnSumArguments& a) {
  __shared__ float parts[2][8][32];
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32, c = blockIdx.y * 32 + lane;
  const Index first = static_cast<Index>(a.rows) * blockIdx.x / a.slices;
  const Index last = static_cast<Index>(a.rows) * (blockIdx.x + 1) / a.slices;
  float sum = 0, scaled = 0;
  if (c < a.channels)
    for (Index row = first + group; row < last; row += 8) {
      const float g = load<T>(a.g, row * a.channels + c);
      sum += g;
      if (a.statistics)
        scaled += g * (load<T>(a.x, row * a.channels + c) - a.statistics[2 * row]) * a.statistics[2 * row + 1];
    }
  parts[0][group][lane] = sum, parts[1][group][lane] = scaled;
  __syncthreads();
  if (group != 0 || c >= a.channels) return;
  sum = scaled = 0;
  for (int i = 0; i < 8; ++i) sum += parts[0][i][lane], scaled += parts[1][i][lane];
  a.sums[static_cast<Index>(blockIdx.x) * a.channels + c] = sum;
  if (a.statistics) a.scaled_sums[static_cast<Index>(blockIdx.x) * a.channels + c] = scaled;
}
RVRT_KERNELS(column_sums, ColumnSumArguments)
