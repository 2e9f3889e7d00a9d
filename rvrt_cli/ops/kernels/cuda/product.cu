// SPDX-License-Identifier: Apache-2.0
// Convolutions and dense layers as products of pixels with weights, and the gradients of the weights.
//
// A block computes 128 pixels by 64 or 32 output channels, in steps over the taps of the kernel and, within a tap, over
// input channels; the next step is fetched while the current one is multiplied. float16 uses tensor cores.
#include "portable.h"

using namespace rvrt::cuda;

// Blocks that share a multiprocessor: two hide the latency of memory. Without tensor cores float16 needs more registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 750
#define RVRT_PRODUCT_BOUNDS __launch_bounds__(256, 1)
#else
#define RVRT_PRODUCT_BOUNDS __launch_bounds__(256, 2)
#endif

namespace {

constexpr int kRows = 128, kThreads = 256;

// A row of `a`: a pixel, and where it lies in its image.
struct Row {
  int pixel, y, x;  // pixel -1: beyond the last
};

RVRT_DEVICE Row find_row(const ProductArguments& p, int pixel) {
  if (pixel >= p.rows) return Row{-1, 0, 0};
  if (p.taps == 1) return Row{pixel, 0, 0};
  return Row{pixel, pixel / p.width % p.height, pixel % p.width};
}

// 16 bytes of channels from `c` on, of the pixel `dy`, `dx` away; zeros beyond the image, the rows or the depth.
template <class T>
RVRT_DEVICE void fetch_a(const ProductArguments& p, const Row& row, int dy, int dx, int c, Vector<T>& v) {
  constexpr int kLength = Vector<T>::kLength;
  v.bytes = Bytes16{{0, 0, 0, 0}};
  const bool inside =
      p.taps == 1 || (row.y + dy >= 0 && row.y + dy < p.height && row.x + dx >= 0 && row.x + dx < p.width);
  if (row.pixel < 0 || !inside || c >= p.depth) return;
  const Index pixel = row.pixel + static_cast<Index>(dy) * p.width * (p.taps != 1) + dx;
  const T* from = static_cast<const T*>(p.a) + pixel * p.depth + c;
  if (p.depth % kLength == 0) {
    v.bytes = *reinterpret_cast<const Bytes16*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < kLength; ++i)
      if (c + i < p.depth) v.elements[i] = from[i];
  }
  if (!p.statistics) return;
  const float mean = p.statistics[2 * pixel], scale = p.statistics[2 * pixel + 1];
#pragma unroll
  for (int i = 0; i < kLength; ++i)
    if (c + i < p.depth)
      put(&v.elements[i], (to_float(v.elements[i]) - mean) * scale * load<T>(p.gamma, c + i) + load<T>(p.beta, c + i));
}

template <class T>
RVRT_DEVICE T fetch_b(const ProductArguments& p, int tap, int k, int n) {
  if (k >= p.depth || n >= p.columns) return T{};
  return static_cast<const T*>(p.b)[static_cast<Index>(k) * p.b_row + static_cast<Index>(n) * p.b_column + tap];
}

template <class T>
RVRT_DEVICE void finish(const ProductArguments& p, int row, int column, float sum) {
  if (row >= p.rows || column >= p.columns) return;
  const Index at = static_cast<Index>(row) * p.columns + column;
  const float z = p.bias ? sum + load<T>(p.bias, column) : sum;
  float out;
  if (p.epilogue == kOutput)
    out = activate(z, p.activation) + (p.extra ? load<T>(p.extra, at) : 0.0f);
  else if (p.epilogue == kGradient)
    out = load<T>(p.extra, at) * activation_slope(z, p.activation);
  else
    out = sum * activation_slope(load<T>(p.extra, at), p.activation);
  store<T>(p.out, at, out);
}

// One step's part of `a` and `b` in shared memory, and its product into the sums of each thread.
template <class T, int kColumns>
struct Tile;

// float32: each thread sums 8 rows by kColumns / 16 columns.
template <int kColumns>
struct Tile<Float, kColumns> {
  static constexpr int kDepth = 16, kWide = kColumns / 16;
  struct Shared {
    float a[kDepth][kRows + 4], b[kDepth][kColumns + 4];
  };
  float sums[8][kWide];

  RVRT_DEVICE void put_a(Shared& s, int row, int k, const Vector<Float>& v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s.a[k + i][row] = v.elements[i];
  }
  RVRT_DEVICE void put_b(Shared& s, int k, int n, float value) { s.b[k][n] = value; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < kWide; ++j) sums[i][j] = 0;
  }

  __device__ __forceinline__ void multiply(const Shared& s) {
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * kWide;
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float left[8], right[kWide];
#pragma unroll
      for (int i = 0; i < 8; ++i) left[i] = s.a[k][row + i];
#pragma unroll
      for (int j = 0; j < kWide; ++j) right[j] = s.b[k][column + j];
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < kWide; ++j) sums[i][j] += left[i] * right[j];
    }
  }

  __device__ __forceinline__ void write(float (&out)[kRows][kColumns + 1]) {
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * kWide;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < kWide; ++j) out[row + i][column + j] = sums[i][j];
  }
};

// float16: 4 x 2 warps, each 32 rows by kColumns / 2 columns in products of 16 x 8. Rows of 40 keep the reads of a warp
// on different banks.
template <int kColumns>
struct Tile<Half, kColumns> {
  static constexpr int kDepth = 32, kWide = kColumns / 16;
  struct Shared {
    Half a[kRows][kDepth + 8], b[kColumns][kDepth + 8];
  };
  float sums[2][kWide][4];

  RVRT_DEVICE void put_a(Shared& s, int row, int k, const Vector<Half>& v) {
    *reinterpret_cast<Bytes16*>(&s.a[row][k]) = v.bytes;
  }
  RVRT_DEVICE void put_b(Shared& s, int k, int n, Half value) { s.b[n][k] = value; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < kWide; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[i][j][k] = 0;
  }

  RVRT_DEVICE unsigned pair(const Half* p) { return *reinterpret_cast<const unsigned*>(p); }

  __device__ __forceinline__ void multiply(const Shared& s) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4 * 2;
    const int row = warp / 2 * 32 + g, column = warp % 2 * (kColumns / 2) + g;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      unsigned left[2][4], right[kWide][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Half(*a)[kDepth + 8] = &s.a[row + 16 * i];
        left[i][0] = pair(&a[0][k + q]), left[i][1] = pair(&a[8][k + q]);
        left[i][2] = pair(&a[0][k + q + 8]), left[i][3] = pair(&a[8][k + q + 8]);
      }
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        const Half* b = s.b[column + 8 * j];
        right[j][0] = pair(b + k + q), right[j][1] = pair(b + k + q + 8);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < kWide; ++j) warp_product(sums[i][j], left[i], right[j]);
    }
  }

  __device__ __forceinline__ void write(float (&out)[kRows][kColumns + 1]) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4 * 2;
    const int row = warp / 2 * 32 + g, column = warp % 2 * (kColumns / 2) + q;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < kWide; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) out[row + 16 * i + k / 2 * 8][column + 8 * j + k % 2] = sums[i][j][k];
  }
};

// Steps: taps of the kernel, and for each its channels, kDepth at a time.
template <class T, int kColumns>
RVRT_DEVICE void product(const ProductArguments& p) {
  typedef Tile<T, kColumns> Block;
  constexpr int kLength = Vector<T>::kLength, kDepth = Block::kDepth;
  constexpr int kPieces = kDepth / kLength;                   // 16-byte pieces of a row of `a`
  constexpr int kRowsEach = kRows * kPieces / kThreads;       // pieces that a thread fetches
  constexpr int kWeightsEach = kColumns * kDepth / kThreads;  // numbers of `b`
  __shared__ union {
    typename Block::Shared step;
    float out[kRows][kColumns + 1];
  } shared;
  const int t = threadIdx.x, first_row = blockIdx.x * kRows, first_column = blockIdx.y * kColumns;
  const bool along_k = p.b_row <= p.b_column;  // which way `b` is contiguous
  Row rows[kRowsEach];
  Vector<T> next_a[kRowsEach];
  T next_b[kWeightsEach];
#pragma unroll
  for (int i = 0; i < kRowsEach; ++i) rows[i] = find_row(p, first_row + (t + i * kThreads) / kPieces);
  const int chunks = (p.depth + kDepth - 1) / kDepth, steps = p.taps * chunks;

  const auto weight_k = [&](int i) { return along_k ? (t + i * kThreads) % kDepth : (t + i * kThreads) / kColumns; };
  const auto weight_n = [&](int i) { return along_k ? (t + i * kThreads) / kDepth : (t + i * kThreads) % kColumns; };
  const auto fetch = [&](int step) {
    const int tap = step / chunks, c = step % chunks * kDepth;
    const int dy = tap / p.kw - p.kh / 2, dx = tap % p.kw - p.kw / 2;
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i)
      fetch_a(p, rows[i], dy, dx, c + (t + i * kThreads) % kPieces * kLength, next_a[i]);
#pragma unroll
    for (int i = 0; i < kWeightsEach; ++i)
      next_b[i] = fetch_b<T>(p, p.flipped ? p.taps - 1 - tap : tap, c + weight_k(i), first_column + weight_n(i));
  };

  Block block;
  block.clear();
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    __syncthreads();  // the previous step has been read
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i)
      Block::put_a(shared.step, (t + i * kThreads) / kPieces, (t + i * kThreads) % kPieces * kLength, next_a[i]);
#pragma unroll
    for (int i = 0; i < kWeightsEach; ++i) Block::put_b(shared.step, weight_k(i), weight_n(i), next_b[i]);
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
    block.multiply(shared.step);
  }
  __syncthreads();
  block.write(shared.out);  // through shared memory, so that neighboring threads write neighboring channels
  __syncthreads();
#pragma unroll 1
  for (int e = t; e < kRows * kColumns; e += kThreads)
    finish<T>(p, first_row + e / kColumns, first_column + e % kColumns, shared.out[e / kColumns][e % kColumns]);
}

}  // namespace

template <class T>
RVRT_DEVICE void product_64(const ProductArguments& p) {
  product<T, 64>(p);
}
RVRT_KERNELS(product_64, ProductArguments, RVRT_PRODUCT_BOUNDS)

template <class T>
RVRT_DEVICE void product_32(const ProductArguments& p) {
  product<T, 32>(p);
}
RVRT_KERNELS(product_32, ProductArguments, RVRT_PRODUCT_BOUNDS)

// A block computes 64 output by 64 input channels of one tap, over one slice of the pixels; each thread 4 by 4 of them.
template <class T>
RVRT_DEVICE void weight_gradient(const WeightGradientArguments& p) {
  constexpr int kStep = 16, kEdge = 64;
  __shared__ float shared[2][kStep][kEdge + 4];
  const int t = threadIdx.x, across = (p.inputs + kEdge - 1) / kEdge;
  const int first_output = blockIdx.x / across * kEdge, first_input = blockIdx.x % across * kEdge;
  const int tap = blockIdx.y, dy = tap / p.kw - p.kh / 2, dx = tap % p.kw - p.kw / 2;
  const int first = static_cast<Index>(p.pixels) * blockIdx.z / gridDim.z;
  const int last = static_cast<Index>(p.pixels) * (blockIdx.z + 1) / gridDim.z;
  float sums[4][4] = {};
  for (int start = first; start < last; start += kStep) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = t % kEdge, k = t / kEdge + 4 * i, pixel = start + k;
      float g = 0, x = 0;
      if (pixel < last && first_output + c < p.outputs)
        g = load<T>(p.g, static_cast<Index>(pixel) * p.outputs + first_output + c);
      const int column = p.taps == 1 ? 0 : pixel % p.width + dx,
                row = p.taps == 1 ? 0 : pixel / p.width % p.height + dy;
      const bool inside = p.taps == 1 || (column >= 0 && column < p.width && row >= 0 && row < p.height);
      if (pixel < last && inside && first_input + c < p.inputs) {
        const Index moved = p.taps == 1 ? pixel : pixel + static_cast<Index>(dy) * p.width + dx;
        x = load<T>(p.x, moved * p.inputs + first_input + c);
        if (p.statistics)
          x = (x - p.statistics[2 * moved]) * p.statistics[2 * moved + 1] * load<T>(p.gamma, first_input + c) +
              load<T>(p.beta, first_input + c);
        x = activate(x, p.activation);
      }
      shared[0][k][c] = g, shared[1][k][c] = x;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      float left[4], right[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = shared[0][k][t / 16 * 4 + i], right[i] = shared[1][k][t % 16 * 4 + i];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += left[i] * right[j];
    }
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int output = first_output + t / 16 * 4 + i, input = first_input + t % 16 * 4 + j;
      if (output < p.outputs && input < p.inputs)
        p.partial[((static_cast<Index>(blockIdx.z) * p.outputs + output) * p.inputs + input) * p.taps + tap] =
            sums[i][j];
    }
}
RVRT_KERNELS(weight_gradient, WeightGradientArguments)
