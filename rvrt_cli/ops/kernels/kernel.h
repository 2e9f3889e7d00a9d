// SPDX-License-Identifier: Apache-2.0
// Shared by every kernel file: entry points and argument checks, threads, scratch memory, instruction-set dispatch.
//
// Build: one library from all files, no flags per file:  c++ -std=c++17 -O3 -fopenmp -shared -fPIC *.cc
// (g++ >= 9, clang++ >= 14; x86-64, aarch64; without -fopenmp it builds too and runs on one thread). No -ffast-math:
// the exponential and the floor need IEEE arithmetic.
//
// Instruction sets. A kernel file includes itself once per instruction set through each_isa.h, inside a namespace of
// that name and under a `#pragma` that switches the compiler to it (target_clones would not clone
// templates). RVRT_DISPATCH picks the namespace at run time. See warp.cc, the smallest example:
//
//   #ifndef RVRT_ISA                      // the file as the compiler opens it
//   #include "kernel.h"
//   #define RVRT_KERNEL "name.cc"
//   #include "each_isa.h"                 // compiles the #else part as rvrt::portable, rvrt::avx2, rvrt::avx512
//   RVRT_ENTRY(name_forward) { ... return rvrt::parallel(tasks, RVRT_DISPATCH(forward_tasks), &job); }
//   #else
//   #include "simd.h"                     // W lanes, vf, load, store, exp2 ... for this instruction set
//   void forward_tasks(const void* job, Span span) { ... }
//   #endif
//
// Pass only plain functions to `parallel`, which reaches specialized code through a function pointer. Such a function must
// not call `parallel` itself: there is one team of threads (workers.cc), which is busy with the call that it is part of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed only between functions of one instruction set
#endif

#if defined(__x86_64__)  // for a few shuffles in simd.h
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of the header's deliberately undefined vectors
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#endif

#define RVRT_EXPORT __attribute__((visibility("default")))

// MindSpore's ahead-of-time calling convention: inputs, then outputs. Returns a Status; zero is success.
#define RVRT_ENTRY(name)                                                                                               \
  static int name##_checked(const rvrt::Tensors& t);                                                                   \
  extern "C" RVRT_EXPORT int name(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes, void*, \
                                  void*) {                                                                             \
    const rvrt::Tensors tensors{nparam, params, ndims, shapes, dtypes};                                                \
    return name##_checked(tensors);                                                                                    \
  }                                                                                                                    \
  static int name##_checked(const rvrt::Tensors& t)

#define RVRT_CHECK(condition, status) \
  do {                                \
    if (!(condition)) return status;  \
  } while (0)

#if (defined(__x86_64__) || defined(_M_X64)) && !defined(RVRT_PORTABLE_ONLY)
#define RVRT_DISPATCH(function)                          \
  (rvrt::isa() == rvrt::kAvx512 ? rvrt::avx512::function \
   : rvrt::isa() == rvrt::kAvx2 ? rvrt::avx2::function   \
                                : rvrt::portable::function)
#else
#define RVRT_DISPATCH(function) rvrt::portable::function
#endif

namespace rvrt {

enum Status { kOk = 0, kCount = 1, kType = 2, kShape = 3, kAttribute = 4, kMemory = 5 };
enum Isa { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

Isa isa();      // the best this processor has, or what rvrt_kernels_isa chose
int threads();  // how many OpenMP would use, or what rvrt_kernels_threads chose

// The tensors of one call.
struct Tensors {
  int count;
  void** data;
  int* ndims;
  int64_t** shapes;
  const char** dtypes;

  float* f(int i) const { return static_cast<float*>(data[i]); }
  const int32_t* ints(int i) const { return static_cast<const int32_t*>(data[i]); }
  int64_t dim(int i, int axis) const { return shapes[i][axis]; }
  bool is_float(int i) const { return std::strcmp(dtypes[i], "float32") == 0; }
  int64_t size(int i) const {
    int64_t n = 1;
    for (int a = 0; a < ndims[i]; ++a) n *= shapes[i][a];
    return n;
  }
  bool has_shape(int i, std::initializer_list<int64_t> expected) const {
    if (ndims[i] != static_cast<int>(expected.size())) return false;
    int a = 0;
    for (int64_t e : expected)
      if (shapes[i][a++] != e) return false;
    return true;
  }
  bool same_shape(int i, int j) const {
    if (ndims[i] != ndims[j]) return false;
    for (int a = 0; a < ndims[i]; ++a)
      if (shapes[i][a] != shapes[j][a]) return false;
    return true;
  }
  // `inputs` float32 tensors, `indices` int32 ones, one int32 vector of `attributes` (none if 0), then float32 outputs to
  // the end.
  int check(int inputs, int attributes, int outputs, int indices = 0) const {
    const int first = inputs + indices, attr = attributes ? first : -1;
    if (count != first + (attributes ? 1 : 0) + outputs) return kCount;
    for (int i = 0; i < count; ++i) {
      if (i == attr || (i >= inputs && i < first)) {
        if (std::strcmp(dtypes[i], "int32") != 0) return kType;
        if (i == attr && size(i) != attributes) return kAttribute;
      } else if (!is_float(i)) {
        return kType;
      }
    }
    return kOk;
  }
};

// Tasks [begin, end) belong to this thread; `thread` < `threads` indexes per-thread scratch and partial sums.
struct Span {
  int64_t begin, end;
  int thread, threads;
};

using Body = void (*)(const void* job, Span span);

// Split `tasks` into one contiguous range per thread. The split depends only on the number of threads, so sums are
// reproducible. A single task runs inline. `workers` limits the threads (0: no limit).
int parallel(int64_t tasks, Body body, const void* job, int workers = 0);
int parallel_width(int64_t tasks, int workers = 0);  // number of threads that `parallel` will use

// The same with dynamic scheduling, in small ranges, for tasks whose results do not depend on the thread: no thread
// waits for one that runs on a slower or busier core.
int parallel_shared(int64_t tasks, Body body, const void* job);

// Memory aligned to a cache line, of earlier calls where it can be; `ok()` is false if the allocation failed.
class Scratch {
 public:
  explicit Scratch(int64_t floats);
  Scratch(int64_t floats, bool zeroed);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ok() const { return data_ != nullptr; }
  float* data() const { return data_; }

 private:
  float* data_;
  int64_t bytes_;
};

// Divides a scratch block into pieces, each starting on a cache line of its own.
class Arena {
 public:
  explicit Arena(float* block) : block_(block) {}
  float* take(int64_t floats) {
    float* piece = block_ ? block_ + taken_ : nullptr;
    taken_ += (floats + 15) / 16 * 16;
    return piece;
  }
  int64_t taken() const { return taken_; }  // on a null block: the size that the block must have

 private:
  float* block_;
  int64_t taken_ = 0;
};

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
inline int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace rvrt
