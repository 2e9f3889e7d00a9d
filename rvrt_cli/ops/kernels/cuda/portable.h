// SPDX-License-Identifier: Apache-2.0
// What every CUDA kernel file is written in: entry points, element types, warp operations, and a matrix product of a warp.
//
// NVRTC compiles the *.cu files without any header of CUDA's. A C++ compiler compiles the same files for tests without a
// GPU: tests/helpers/cuda_emulation.h, included beforehand, defines RVRT_EMULATED, threadIdx and the rest, and runs the
// threads of a block one by one between barriers.
//
// A kernel is a function template on the element type T, float or Half, with one argument: a struct of arguments.h.
// RVRT_KERNELS(name, Arguments) makes it the entry points `name_f32` and `name_f16`. Sums are float32 for both.
#pragma once

#include "arguments.h"

#ifdef RVRT_EMULATED
#define RVRT_ENTRY_POINT(name, Arguments, call, ...)    \
  static void name##_body(const Arguments& a) { call; } \
  extern "C" void name(const void* arguments) { name##_body(*static_cast<const Arguments*>(arguments)); }
#else
#define RVRT_ENTRY_POINT(name, Arguments, call, ...) \
  extern "C" __global__ void __VA_ARGS__ name(const Arguments a) { call; }
#endif

// Launch bounds may follow.
#define RVRT_KERNELS(name, Arguments, ...)                                         \
  RVRT_ENTRY_POINT(name##_f32, Arguments, name<rvrt::cuda::Float>(a), __VA_ARGS__) \
  RVRT_ENTRY_POINT(name##_f16, Arguments, name<rvrt::cuda::Half>(a), __VA_ARGS__)

#define RVRT_DEVICE static __device__ __forceinline__

namespace rvrt {
namespace cuda {

typedef long long Index;  // of an element of a tensor
typedef float Float;

struct Half {
  unsigned short bits;
};

#ifdef RVRT_EMULATED
RVRT_DEVICE float to_float(Half h) { return emulated::half_to_float(h.bits); }
RVRT_DEVICE Half to_half(float x) { return Half{emulated::float_to_half(x)}; }
#else
RVRT_DEVICE float to_float(Half h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h.bits));
  return x;
}
RVRT_DEVICE Half to_half(float x) {
  Half h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
  return h;
}
#endif
RVRT_DEVICE float to_float(float x) { return x; }

// Element `i` of a tensor of T.
template <class T>
RVRT_DEVICE float load(const void* tensor, Index i) {
  return to_float(static_cast<const T*>(tensor)[i]);
}

RVRT_DEVICE void put(float* p, float x) { *p = x; }
RVRT_DEVICE void put(Half* p, float x) { *p = to_half(x); }

template <class T>
RVRT_DEVICE void store(void* tensor, Index i, float x) {
  put(static_cast<T*>(tensor) + i, x);
}

// 16 bytes of a tensor: 4 floats or 8 halves.
struct alignas(16) Bytes16 {
  unsigned int words[4];
};

template <class T>
struct Vector {
  static constexpr int kLength = 16 / sizeof(T);
  union {
    Bytes16 bytes;
    T elements[kLength];
  };
};

RVRT_DEVICE Index thread_index() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }
RVRT_DEVICE Index thread_count() { return static_cast<Index>(gridDim.x) * blockDim.x; }

RVRT_DEVICE int smaller(int a, int b) { return a < b ? a : b; }
RVRT_DEVICE int larger(int a, int b) { return a > b ? a : b; }
RVRT_DEVICE int clamp_index(int i, int length) { return smaller(larger(i, 0), length - 1); }

// Sum over `kLanes` neighboring lanes, a power of two; every lane of the warp takes part, and each gets the sum.
template <int kLanes>
RVRT_DEVICE float lane_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// --- activations; codes as in ops/kernels/glue.py

RVRT_DEVICE float activate(float z, int activation) {
  if (activation == kGelu) return 0.5f * z * (1.0f + erff(z * 0.70710678f));
  if (activation == kNone || z > 0) return z;
  return activation == kLeaky ? 0.1f * z : activation == kLeaky2 ? 0.2f * z : z * 0.0f;
}

// Derivative of the activation at z; of all but GELU also at the activation's output.
RVRT_DEVICE float activation_slope(float z, int activation) {
  if (activation == kGelu) return 0.5f * (1.0f + erff(z * 0.70710678f)) + z * 0.39894228f * expf(-0.5f * z * z);
  if (activation == kNone || z > 0) return 1.0f;
  return activation == kLeaky ? 0.1f : activation == kLeaky2 ? 0.2f : 0.0f;
}

// --- bilinear sampling

// What a position on one axis reads: two indices, moved inside the frame where their weight is zero, and the derivatives
// of the weights by the position. Any float is safe, NaN too.
struct Footprint {
  int index[2];
  float weight[2], slope[2];
};

RVRT_DEVICE Footprint footprint(float at, int length, bool border) {
  const float low = border ? 0.0f : -2.0f, high = static_cast<float>(border ? length - 1 : length + 1);
  const bool moves = at >= low && at <= high;
  const float limited = at > low ? (at < high ? at : high) : low;
  const float whole = floorf(limited);
  const float part = limited - whole;
  const int first = static_cast<int>(whole);
  Footprint f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int k = first + i;
    f.index[i] = clamp_index(k, length);
    const bool counts = border || k == f.index[i];
    f.weight[i] = counts ? (i ? part : 1.0f - part) : 0.0f;
    f.slope[i] = counts && moves ? (i ? 1.0f : -1.0f) : 0.0f;
  }
  return f;
}

// --- matrix product of a warp: c (16, 8) += a (16, 16) b (16, 8), float16 with float32 sums
//
// Lane `l` with g = l / 4 and q = 2 * (l % 4) holds, two elements to a register: a[g][q..], a[g + 8][q..], a[g][q + 8..],
// a[g + 8][q + 8..]; b[q..][g], b[q + 8..][g]; and of c: c[g][q], c[g][q + 1], c[g + 8][q], c[g + 8][q + 1] (PTX ISA,
// "Matrix Fragments for mma.m16n8k16").
#if !defined(RVRT_EMULATED) && __CUDA_ARCH__ >= 800
RVRT_DEVICE void warp_product(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#elif !defined(RVRT_EMULATED) && __CUDA_ARCH__ >= 750
RVRT_DEVICE void warp_product(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
}
#else
// Without tensor cores that have such an instruction: every lane collects its rows and columns from the others.
RVRT_DEVICE float half_of(unsigned pair, int i) {
  return to_float(Half{static_cast<unsigned short>(i ? pair >> 16 : pair & 0xffffu)});
}

RVRT_DEVICE void warp_product(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 4; ++i) {
      const unsigned top = __shfl_sync(0xffffffffu, a[2 * half], 4 * g + i);
      const unsigned bottom = __shfl_sync(0xffffffffu, a[2 * half + 1], 4 * g + i);
      const unsigned left = __shfl_sync(0xffffffffu, b[half], 4 * (2 * q) + i);
      const unsigned right = __shfl_sync(0xffffffffu, b[half], 4 * (2 * q + 1) + i);
      for (int k = 0; k < 2; ++k) {
        c[0] += half_of(top, k) * half_of(left, k);
        c[1] += half_of(top, k) * half_of(right, k);
        c[2] += half_of(bottom, k) * half_of(left, k);
        c[3] += half_of(bottom, k) * half_of(right, k);
      }
    }
}
#endif

}  // namespace cuda
}  // namespace rvrt
