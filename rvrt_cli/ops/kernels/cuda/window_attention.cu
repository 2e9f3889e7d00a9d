// SPDX-License-Identifier: Apache-2.0
// Shifted-window attention (Swin), forward and backward, from qkv to the un-shifted output. Windows are read and written
// by index: no partition, roll or mask is stored.
//
// A thread owns a query, or in the second half of the backward pass a key; the others pass by in shared memory. Forward in
// float16, a warp owns 32 queries and multiplies on tensor cores.
#include "portable.h"

using namespace rvrt::cuda;

namespace {

constexpr int kThreads = 128, kChunk = 32;
constexpr float kFloor = -1e30f;  // below every score
constexpr float kShiftMask = -100.0f;

struct Token {
  Index row;   // among the tokens of all frames; -1: beyond the frame
  int region;  // of the cyclic shift
};

RVRT_DEVICE Token find_token(const WindowArguments& a, int window, int l) {
  int source[3], region = 0;
  bool inside = true;
  int at[3], offset[3];
  int sample = window;
  for (int i = 2; i >= 0; --i) {
    at[i] = sample % a.grid[i], sample /= a.grid[i];
    offset[i] = l % a.window[i], l /= a.window[i];
  }
  for (int i = 0; i < 3; ++i) {
    const int padded = a.grid[i] * a.window[i], place = at[i] * a.window[i] + offset[i];
    source[i] = (place + a.shift[i]) % padded;
    region = 3 * region + (a.shift[i] == 0 || place < padded - a.window[i] ? 0 : place < padded - a.shift[i] ? 1 : 2);
    inside = inside && source[i] < a.size[i];
  }
  const Index row =
      ((static_cast<Index>(sample) * a.size[0] + source[0]) * a.size[1] + source[1]) * a.size[2] + source[2];
  return Token{inside ? row : -1, region};
}

// Channel `c` of the query (0), key (1) or value (2) of a head.
template <class T>
RVRT_DEVICE float qkv_of(const WindowArguments& a, const Token& token, int part, int head, int c) {
  const int channel = part * a.channels + head * a.head_width + c;
  return token.row < 0 ? load<T>(a.pad, channel) : load<T>(a.qkv, token.row * 3 * a.channels + channel);
}

template <class T>
RVRT_DEVICE float gradient_of(const WindowArguments& a, const Token& token, int head, int c) {
  return token.row < 0 ? 0.0f : load<T>(a.dout, token.row * a.channels + head * a.head_width + c);
}

template <class T>
RVRT_DEVICE float bias_of(const WindowArguments& a, int head, int query, int key) {
  return a.bias ? load<T>(a.bias, (static_cast<Index>(head) * a.length + query) * a.length + key) : 0.0f;
}

// A chunk of tokens of a window in shared memory: two vectors each, `first` multiplied by `scale`.
template <int kWidth>
struct Chunk {
  float first[kChunk][kWidth], second[kChunk][kWidth];
  int region[kChunk];
};

template <class T, int kWidth>
RVRT_DEVICE void fetch_chunk(const WindowArguments& a, int window, int head, int start, bool queries,
                             Chunk<kWidth>& chunk) {
  __syncthreads();  // the previous one has been read
  for (int e = threadIdx.x; e < kChunk * kWidth; e += kThreads) {
    const int l = start + e / kWidth, c = e % kWidth;
    float first = 0, second = 0;
    if (l < a.length && c < a.head_width) {
      const Token token = find_token(a, window, l);
      first = queries ? qkv_of<T>(a, token, 0, head, c) * a.scale : qkv_of<T>(a, token, 1, head, c);
      second = queries ? gradient_of<T>(a, token, head, c) : qkv_of<T>(a, token, 2, head, c);
    }
    chunk.first[e / kWidth][c] = first, chunk.second[e / kWidth][c] = second;
  }
  if (threadIdx.x < kChunk) chunk.region[threadIdx.x] = find_token(a, window, start + threadIdx.x).region;
  __syncthreads();
}

template <int kWidth>
RVRT_DEVICE float dot(const float (&x)[kWidth], const float* y) {
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kWidth; ++c) sum += x[c] * y[c];
  return sum;
}

template <class T, int kWidth>
RVRT_DEVICE void forward(const WindowArguments& a) {
  __shared__ Chunk<kWidth> chunk;
  const int window = blockIdx.x, head = blockIdx.y, query = blockIdx.z * kThreads + threadIdx.x;
  const Token token = find_token(a, window, query);
  float q[kWidth], out[kWidth];
#pragma unroll
  for (int c = 0; c < kWidth; ++c) {
    q[c] = query < a.length && c < a.head_width ? qkv_of<T>(a, token, 0, head, c) * a.scale : 0.0f;
    out[c] = 0;
  }
  float top = kFloor, total = 0;
  for (int start = 0; start < a.length; start += kChunk) {
    fetch_chunk<T, kWidth>(a, window, head, start, false, chunk);
    if (query >= a.length) continue;
    constexpr int kGroup = 8;
    for (int group = 0; group < kChunk; group += kGroup) {
      float scores[kGroup], highest = top;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int j = group + i;
        scores[i] = kFloor;
        if (start + j < a.length) {
          scores[i] = dot<kWidth>(q, chunk.first[j]) + bias_of<T>(a, head, query, start + j);
          if (chunk.region[j] != token.region) scores[i] += kShiftMask;
        }
        highest = fmaxf(highest, scores[i]);
      }
      const float shrink = expf(top - highest);
      top = highest, total *= shrink;
#pragma unroll
      for (int c = 0; c < kWidth; ++c) out[c] *= shrink;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const float p = start + group + i < a.length ? expf(scores[i] - top) : 0.0f;
        total += p;
#pragma unroll
        for (int c = 0; c < kWidth; ++c) out[c] += p * chunk.second[group + i][c];
      }
    }
  }
  if (query >= a.length || token.row < 0) return;
#pragma unroll
  for (int c = 0; c < kWidth; ++c)
    if (c < a.head_width) store<T>(a.out, token.row * a.channels + head * a.head_width + c, out[c] / total);
}

// --- float16 on tensor cores
//
// A block has 4 warps of 32 queries each, in two tiles of 16. Keys and values pass by in chunks of 32; scores and weights
// stay in registers, as the fragments of `warp_product`: lane 4 g + t of a warp holds rows g and g + 8 of a tile, and its
// columns 2 t and 2 t + 1.

template <int kWidth>
struct HalfChunk {
  static constexpr int kPadded = (kWidth + 15) / 16 * 16;
  Half keys[kChunk][kPadded + 8];    // zeros beyond the head
  Half values[kPadded][kChunk + 8];  // transposed
  int region[kChunk];
};

RVRT_DEVICE unsigned half_pair(float low, float high) {
  return to_half(low).bits | static_cast<unsigned>(to_half(high).bits) << 16;
}

RVRT_DEVICE unsigned pair_at(const Half* p) { return *reinterpret_cast<const unsigned*>(p); }

template <int kWidth>
RVRT_DEVICE void fetch_half_chunk(const WindowArguments& a, int window, int head, int start, HalfChunk<kWidth>& chunk) {
  constexpr int kPadded = HalfChunk<kWidth>::kPadded;
  __syncthreads();  // the previous one has been read
  for (int e = threadIdx.x; e < kChunk * kPadded; e += kThreads) {
    const int j = e / kPadded, c = e % kPadded;
    const bool has = start + j < a.length && c < a.head_width;
    const Token token = find_token(a, window, start + j);
    chunk.keys[j][c] = to_half(has ? qkv_of<Half>(a, token, 1, head, c) : 0.0f);
    chunk.values[c][j] = to_half(has ? qkv_of<Half>(a, token, 2, head, c) : 0.0f);
  }
  if (threadIdx.x < kChunk) chunk.region[threadIdx.x] = find_token(a, window, start + threadIdx.x).region;
  __syncthreads();
}

template <int kWidth>
RVRT_DEVICE void forward_on_tensor_cores(const WindowArguments& a) {
  constexpr int kPadded = HalfChunk<kWidth>::kPadded, kSteps = kPadded / 16, kTiles = 2, kGroups = kChunk / 8;
  __shared__ HalfChunk<kWidth> chunk;
  const int window = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first = blockIdx.z * kThreads + threadIdx.x / 32 * 32;
  // Per tile of 16 queries and half of it: rows g and g + 8.
  Token token[kTiles][2];
  unsigned q[kTiles][kSteps][4];
  float out[kTiles][kPadded / 8][4], top[kTiles][2], total[kTiles][2];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      token[i][r] = find_token(a, window, first + 16 * i + 8 * r + g);
      top[i][r] = kFloor, total[i][r] = 0;
      const bool has_row = first + 16 * i + 8 * r + g < a.length;
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int c = 16 * k + 8 * half + 2 * t;
          float pair[2];
#pragma unroll
          for (int e = 0; e < 2; ++e)
            pair[e] = has_row && c + e < a.head_width ? qkv_of<Half>(a, token[i][r], 0, head, c + e) * a.scale : 0.0f;
          q[i][k][2 * half + r] = half_pair(pair[0], pair[1]);
        }
    }
#pragma unroll
    for (int n = 0; n < kPadded / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) out[i][n][e] = 0;
  }
  for (int start = 0; start < a.length; start += kChunk) {
    fetch_half_chunk<kWidth>(a, window, head, start, chunk);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      float scores[kGroups][4];
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[n][e] = 0;
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
          const Half* row = &chunk.keys[8 * n + g][16 * k + 2 * t];
          const unsigned keys[2] = {pair_at(row), pair_at(row + 8)};
          warp_product(scores[n], q[i][k], keys);
        }
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int query = first + 16 * i + 8 * r + g;
        float highest = top[i][r];
#pragma unroll
        for (int n = 0; n < kGroups; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int j = 8 * n + 2 * t + e;
            float& score = scores[n][2 * r + e];
            if (query < a.length && start + j < a.length)
              score += bias_of<Half>(a, head, query, start + j) +
                       (chunk.region[j] == token[i][r].region ? 0.0f : kShiftMask);
            else
              score = kFloor;
            highest = fmaxf(highest, score);
          }
#pragma unroll
        for (int step = 1; step < 4; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, step));
        const float shrink = expf(top[i][r] - highest);
        top[i][r] = highest, total[i][r] *= shrink;
#pragma unroll
        for (int n = 0; n < kPadded / 8; ++n) out[i][n][2 * r] *= shrink, out[i][n][2 * r + 1] *= shrink;
#pragma unroll
        for (int n = 0; n < kGroups; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const bool counts = start + 8 * n + 2 * t + e < a.length;
            const float p = counts ? expf(scores[n][2 * r + e] - highest) : 0.0f;
            scores[n][2 * r + e] = p;
            total[i][r] += p;
          }
      }
#pragma unroll
      for (int k = 0; k < kChunk / 16; ++k) {
        const unsigned weights[4] = {half_pair(scores[2 * k][0], scores[2 * k][1]),
                                     half_pair(scores[2 * k][2], scores[2 * k][3]),
                                     half_pair(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                                     half_pair(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < kPadded / 8; ++n) {
          const Half* row = &chunk.values[8 * n + g][16 * k + 2 * t];
          const unsigned values[2] = {pair_at(row), pair_at(row + 8)};
          warp_product(out[i][n], weights, values);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = lane_sum<4>(total[i][r]);
      if (first + 16 * i + 8 * r + g >= a.length || token[i][r].row < 0) continue;
#pragma unroll
      for (int n = 0; n < kPadded / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int c = 8 * n + 2 * t + e;
          if (c < a.head_width)
            store<Half>(a.out, token[i][r].row * a.channels + head * a.head_width + c, out[i][n][2 * r + e] / sum);
        }
    }
}

// Which of the two: without tensor cores, collecting rows and columns from other lanes would take longer.
template <class T, int kWidth>
struct Forward {
  RVRT_DEVICE void run(const WindowArguments& a) { forward<T, kWidth>(a); }
};

#if defined(RVRT_EMULATED) || __CUDA_ARCH__ >= 750
template <int kWidth>
struct Forward<Half, kWidth> {
  RVRT_DEVICE void run(const WindowArguments& a) { forward_on_tensor_cores<kWidth>(a); }
};
#endif

// Statistics of the queries of a window, their gradients and those of the bias.
template <class T, int kWidth>
RVRT_DEVICE void query_gradients(const WindowArguments& a, int window, int head, float* rows, Chunk<kWidth>& chunk) {
  for (int first = 0; first < a.length; first += kThreads) {
    const int query = first + threadIdx.x;
    const bool works = query < a.length;
    const Token token = find_token(a, window, query);
    float q[kWidth], g[kWidth], dq[kWidth];
#pragma unroll
    for (int c = 0; c < kWidth; ++c) {
      const bool has = works && c < a.head_width;
      q[c] = has ? qkv_of<T>(a, token, 0, head, c) * a.scale : 0.0f;
      g[c] = has ? gradient_of<T>(a, token, head, c) : 0.0f;
      dq[c] = 0;
    }
    const auto score_of = [&](int start, int j) {
      const float score = dot<kWidth>(q, chunk.first[j]) + bias_of<T>(a, head, query, start + j);
      return chunk.region[j] == token.region ? score : score + kShiftMask;
    };
    float top = kFloor, total = 0, mean = 0;
    for (int start = 0; start < a.length; start += kChunk) {
      fetch_chunk<T, kWidth>(a, window, head, start, false, chunk);
      for (int j = 0; works && j < smaller(kChunk, a.length - start); ++j) {
        const float score = score_of(start, j), highest = fmaxf(top, score);
        const float shrink = expf(top - highest), p = expf(score - highest);
        total = total * shrink + p;
        mean = mean * shrink + p * dot<kWidth>(g, chunk.second[j]);
        top = highest;
      }
    }
    const float inverse = works ? 1.0f / total : 0.0f;
    mean *= inverse;
    if (works) rows[3 * query] = top, rows[3 * query + 1] = inverse, rows[3 * query + 2] = mean;
    float* dbias =
        a.dbias ? a.dbias + (static_cast<Index>(blockIdx.x) * a.heads + head) * a.length * a.length : nullptr;
    for (int start = 0; start < a.length; start += kChunk) {
      fetch_chunk<T, kWidth>(a, window, head, start, false, chunk);
      for (int j = 0; works && j < smaller(kChunk, a.length - start); ++j) {
        const float p = expf(score_of(start, j) - top) * inverse;
        const float ds = p * (dot<kWidth>(g, chunk.second[j]) - mean);
#pragma unroll
        for (int c = 0; c < kWidth; ++c) dq[c] += ds * chunk.first[j][c];
        if (dbias) dbias[static_cast<Index>(start + j) * a.length + query] += ds;
      }
    }
    if (works && token.row >= 0)
#pragma unroll
      for (int c = 0; c < kWidth; ++c)
        if (c < a.head_width) store<T>(a.dqkv, token.row * 3 * a.channels + head * a.head_width + c, dq[c] * a.scale);
  }
}

// Gradients of the keys and values of a window.
template <class T, int kWidth>
RVRT_DEVICE void key_gradients(const WindowArguments& a, int window, int head, const float* rows,
                               Chunk<kWidth>& chunk) {
  __shared__ float parts[kThreads / 32];
  bool whole = true;  // windows, in every frame
  for (int i = 0; i < 3; ++i) whole = whole && a.grid[i] * a.window[i] == a.size[i];
  for (int first = 0; first < a.length; first += kThreads) {
    const int key = first + threadIdx.x;
    const bool works = key < a.length;
    const Token token = find_token(a, window, key);
    float k[kWidth], v[kWidth], dk[kWidth], dv[kWidth];
#pragma unroll
    for (int c = 0; c < kWidth; ++c) {
      const bool has = works && c < a.head_width;
      k[c] = has ? qkv_of<T>(a, token, 1, head, c) : 0.0f;
      v[c] = has ? qkv_of<T>(a, token, 2, head, c) : 0.0f;
      dk[c] = dv[c] = 0;
    }
    for (int start = 0; start < a.length; start += kChunk) {
      fetch_chunk<T, kWidth>(a, window, head, start, true, chunk);
      for (int i = 0; works && i < smaller(kChunk, a.length - start); ++i) {
        const float* row = rows + 3 * (start + i);
        float score = dot<kWidth>(k, chunk.first[i]) + bias_of<T>(a, head, start + i, key);
        if (chunk.region[i] != token.region) score += kShiftMask;
        const float p = expf(score - row[0]) * row[1];
        const float ds = p * (dot<kWidth>(v, chunk.second[i]) - row[2]);
#pragma unroll
        for (int c = 0; c < kWidth; ++c) dk[c] += ds * chunk.first[i][c], dv[c] += p * chunk.second[i][c];
      }
    }
    if (works && token.row >= 0) {
      const Index at = token.row * 3 * a.channels + head * a.head_width;
#pragma unroll
      for (int c = 0; c < kWidth; ++c)
        if (c < a.head_width)
          store<T>(a.dqkv, at + a.channels + c, dk[c]), store<T>(a.dqkv, at + 2 * a.channels + c, dv[c]);
    }
    if (whole) continue;
    float* dpad = a.dpad + static_cast<Index>(blockIdx.x) * 3 * a.channels + head * a.head_width;
    const bool padding = works && token.row < 0;
#pragma unroll
    for (int c = 0; c < 2 * kWidth; ++c) {
      const float mine = c < kWidth ? dk[c % kWidth] : dv[c % kWidth], sum = lane_sum<32>(padding ? mine : 0.0f);
      __syncthreads();
      if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
      __syncthreads();
      if (threadIdx.x == 0 && c % kWidth < a.head_width)
        dpad[(1 + c / kWidth) * a.channels + c % kWidth] += parts[0] + parts[1] + parts[2] + parts[3];
    }
  }
}

// A block per head and slice of the windows. It adds to sums of its own, in the order of its windows.
template <class T, int kWidth>
RVRT_DEVICE void backward(const WindowArguments& a) {
  __shared__ Chunk<kWidth> chunk;
  const int head = blockIdx.y;
  float* rows = a.rows + (static_cast<Index>(blockIdx.x) * a.heads + head) * a.length * 3;
  for (int window = blockIdx.x; window < a.windows; window += a.slices) {
    query_gradients<T, kWidth>(a, window, head, rows, chunk);
    __syncthreads();
    key_gradients<T, kWidth>(a, window, head, rows, chunk);
    __syncthreads();
  }
}

}  // namespace

// One entry point for each bound of the head width.
#define RVRT_WINDOW_ATTENTION(width)                                             \
  template <class T>                                                             \
  RVRT_DEVICE void window_attention_forward_##width(const WindowArguments& a) {  \
    Forward<T, width>::run(a);                                                   \
  }                                                                              \
  RVRT_KERNELS(window_attention_forward_##width, WindowArguments)                \
  template <class T>                                                             \
  RVRT_DEVICE void window_attention_backward_##width(const WindowArguments& a) { \
    backward<T, width>(a);                                                       \
  }                                                                              \
  RVRT_KERNELS(window_attention_backward_##width, WindowArguments)

RVRT_WINDOW_ATTENTION(24)
RVRT_WINDOW_ATTENTION(32)
