// SPDX-License-Identifier: Apache-2.0
// Arguments of the CUDA kernels, filled by the host files (*.cc) and read by the kernels (*.cu). A tensor is a pointer to
// elements of the kernel's type, float32 or float16, unless it says float. Features are channels-last.
#pragma once

namespace rvrt {
namespace cuda {

enum Activation { kNone = 0, kLeaky = 1, kLeaky2 = 2, kRelu = 3, kGelu = 4 };

// --- elementwise.cu

struct ConvertArguments {  // out = x
  const float* x;
  void* out;
  long long count;
};

struct SlicesArguments {  // out[i] = sum over slices of partial[slice][i]
  const float* partial;   // float (slices, count)
  void* out;
  long long count;
  int slices;
  int rows, columns;  // of each (rows, columns) matrix in `partial`, `out` is the transpose; 0: none
};

struct SlopeArguments {  // out = gradient * activation'(y)
  const void *gradient, *y;
  void* out;
  long long count;
  int activation;
};

struct ShuffleArguments {  // small (B, H, W, C * f²), large (B, H * f, W * f, C)
  const void *small, *large, *gradient;
  void* out;
  long long count;
  int height, width, channels, factor, activation;
};

struct UpsampledArguments {  // out (B, f * H, f * W, C) = add + small upsampled
  const void *small, *add;
  void* out;
  long long count;
  int height, width, channels, factor;
};

struct ReverseArguments {  // (N, T, line)
  const void* x;
  void* out;
  long long count, line;
  int frames;
};

struct LossArguments {
  const void *x, *y;
  const float *epsilon2, *dout;  // float, one number each
  double* partial;               // one per block
  void *dx, *out;
  long long count;
  int blocks;
};

// --- warp.cu

struct WarpArguments {  // x, out, dout (B, H, W, C); flow (B, H, W, 2)
  const void *x, *flow, *dout;
  void *out, *dflow;
  float* dx;  // float
  long long pixels;
  int height, width, channels, border;
};

// --- layer_norm.cu

struct NormArguments {
  const void *x, *gamma, *beta;
  const void* dout;
  const void* residual;  // added to dx, or null
  void* out;             // forward: output; backward: dx
  float* statistics;     // float (rows, 2): mean, 1 / standard deviation
  int rows, channels;
};

struct ColumnSumArguments {  // partial[slice][c] = sum over its rows of g[row][c]; and of g * normalized x
  const void *g, *x;
  const float* statistics;  // null: only the first sum
  float *sums, *scaled_sums;
  int rows, channels, slices;
};

// --- product.cu

enum Epilogue {
  kOutput,    // activation(sum + bias) + extra, where there is one
  kGradient,  // extra * activation'(sum + bias)
  kChain,     // sum * activation'(extra)
};

// out[m][n] = epilogue(sum over taps and k of a[m moved by the tap][k] * b[tap][k][n]). Rows m are pixels; with one tap,
// any rows.
struct ProductArguments {
  const void *a, *b, *bias, *extra;
  void* out;
  int rows, columns, depth;
  int height, width, kh, kw;
  int b_row, b_column;  // strides of b along k and n
  bool flipped;         // taps of b in reverse order: the gradient towards the input
  int taps;             // kh * kw; stride of the taps is 1
  int activation, epilogue;
  const float* statistics;  // of a's rows, or null: a is normalized first
  const void *gamma, *beta;
};

// partial[slice][co][ci][tap] = sum over its pixels p of g[p][co] * x[p moved by the tap][ci]
struct WeightGradientArguments {
  const void *g, *x;
  float* partial;
  int pixels, outputs, inputs;
  int height, width, kh, kw, taps;
  int activation;           // applied to x
  const float* statistics;  // of x's rows, or null: x is normalized first
  const void *gamma, *beta;
};

// --- window_attention.cu

struct WindowArguments {
  const void *qkv, *pad, *bias, *dout;
  void *out, *dqkv;
  float *dbias, *dpad;  // float, by slice: (slices, heads, L keys, L queries), (slices, 3C); dbias null: there is none
  float* rows;          // float, by block: (L, 3), maximum, 1 / sum and mean gradient of each query
  int size[3], window[3], shift[3], grid[3];  // frames, height, width
  int channels, heads, head_width, length, windows, slices;
  float scale;
};

// --- sampled_attention.cu

struct NeighborhoodArguments {
  const void *query, *key_value, *dout;
  void *out, *dquery, *dkey_value;
  float* rows;  // float (pixels, heads, 3), as in WindowArguments
  long long units;
  int frames, height, width, channels, heads, head_width, kernel_h, kernel_w;
};

struct DeformableArguments {
  const void *query, *key_value, *offset, *dout;
  void *out, *dquery;
  float *dkey_value, *doffset;  // float
  long long units;
  int frames, height, width, channels, heads, head_width, groups, group_width, kernel_h, kernel_w;
};

// --- flow.cu; images are float

struct PyramidArguments {
  const void *first, *second;  // frames (B, H, W, 3)
  float* out;                  // (2, B, h, w)
  long long count;
  int frame_height, frame_width, height, width;
};

struct FilterArguments {  // filters images (planes, H, W)
  const float* x;
  float* out;
  long long count;
  int height, width;  // of `out`
};

struct FlowArguments {
  const float *first, *second;  // smoothed images minus their local means (B, H, W)
  const float* coarse;          // flow (B, H / 2, W / 2, 2) or null
  float *flow, *chosen;         // (B, H, W, 2)
  float* products;              // (B, H, W, 5)
  void *out, *match;            // cropped: flow (B, h, w, 2), and how well it matches (B, h, w)
  long long count;
  int height, width, out_height, out_width;
};

struct FusionArguments {
  const void *frame, *neighbors, *flows, *matches;
  void* out;
  long long count;
  int neighbor_count, height, width;
};

}  // namespace cuda
}  // namespace rvrt
