// SPDX-License-Identifier: Apache-2.0
// Shared by the host files: MindSpore's calls, scratch memory on the card, and launches through NVIDIA's driver.
//
// A host file checks the tensors of a call, fills the arguments of its kernels and launches them on the call's stream; it
// neither waits nor reads the card's memory. Entry points are named as those of the CPU kernels, with `cuda_` before, and
// take the same inputs and outputs, float32 or float16. Only attributes come differently, since a tensor's numbers would
// have to be fetched from the card: as the shape of an empty tensor, (0, attributes...).
#pragma once

#include "../kernel.h"
#include "arguments.h"

#define RVRT_CUDA_ENTRY(name)                                                                                          \
  static int cuda_##name##_checked(const rvrt::cuda::Call& t);                                                         \
  extern "C" RVRT_EXPORT int cuda_##name(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes, \
                                         void* stream, void*) {                                                        \
    return cuda_##name##_checked(rvrt::cuda::Call{{nparam, params, ndims, shapes, dtypes}, stream, false});            \
  }                                                                                                                    \
  static int cuda_##name##_checked(const rvrt::cuda::Call& t)

#define RVRT_TRY(expression) \
  if (const int status = (expression)) return status

namespace rvrt {
namespace cuda {

enum { kDriver = 6 };  // status, beside those of kernel.h: the driver refused; it is said on standard error

// The tensors of one call.
struct Call : Tensors {
  void* stream;
  mutable bool half;  // the element type, after `check`

  // `inputs` tensors of one type, float32 or float16, `attributes` of them (none if 0), then outputs of that type.
  int check(int inputs, int attributes, int outputs) const;
  int64_t attribute(int i, int k) const { return shapes[i][k + 1]; }
  const void* in(int i) const { return data[i]; }
  void* out(int i) const { return data[i]; }
  int64_t bytes(int64_t elements) const { return elements * (half ? 2 : 4); }
};

// Memory on the card for the duration of a call: work on one stream runs in order, so each stream has one block, which
// grows as needed. Pieces are laid out by `take` on a null block first, to learn the size.
class CardScratch {
 public:
  explicit CardScratch(const Call& call) : call_(call) {}
  // `lay_out` calls take() for every piece. It runs twice.
  template <class LayOut>
  int allocate(LayOut lay_out) {
    taken_ = 0, block_ = nullptr;
    lay_out();
    RVRT_TRY(reserve(taken_));
    taken_ = 0;
    lay_out();
    return kOk;
  }
  void* take(int64_t bytes) {
    char* piece = block_ ? block_ + taken_ : nullptr;
    taken_ += (bytes + 255) / 256 * 256;
    return piece;
  }
  void* elements(int64_t count) { return take(call_.bytes(count)); }
  float* floats(int64_t count) { return static_cast<float*>(take(4 * count)); }

 private:
  int reserve(int64_t bytes);
  const Call& call_;
  char* block_ = nullptr;
  int64_t taken_ = 0;
};

struct Grid {
  int64_t x, y = 1, z = 1;
};

// Launches the kernel `name` for the element type of the call. `arguments` are copied.
int launch_bytes(const Call& call, const char* name, Grid grid, int threads, const void* arguments);

template <class Arguments>
int launch(const Call& call, const char* name, Grid grid, int threads, const Arguments& arguments) {
  return launch_bytes(call, name, grid, threads, &arguments);
}

constexpr int kThreads = 256;

// One thread per element; a thread takes several where there are very many.
inline Grid grid_of(int64_t elements) {
  const int64_t blocks = ceil_div(elements, kThreads);
  return Grid{blocks < 1 ? 1 : blocks < (1 << 16) ? blocks : (1 << 16)};
}

template <class Arguments>
int launch_elements(const Call& call, const char* name, const Arguments& arguments) {
  return arguments.count ? launch(call, name, grid_of(arguments.count), kThreads, arguments) : kOk;
}

int fill_zeros(const Call& call, void* memory, int64_t bytes);
int convert(const Call& call, const float* x, void* out, int64_t count);

// out[i] = sum over slices of partial[slice][i]
int sum_slices(const Call& call, const float* partial, int slices, void* out, int64_t count);

}  // namespace cuda
}  // namespace rvrt
