// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels on the CPU, block by block, for tests without a GPU: included before a *.cu file by
//   c++ -include cuda_emulation.h -x c++ file.cu
//
// The threads of a block are fibers, run in turn. One that reaches a barrier, of its block or its warp, lets the others
// run until all have arrived. A barrier that not all threads reach, a deadlock or a wrong result on a GPU, ends the program.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define RVRT_EMULATED
#define __device__
#define __forceinline__ inline
#define __shared__ static

namespace emulated {

struct Position {
  unsigned x = 0, y = 0, z = 0;
};

enum State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  jmp_buf place;
  bool started = false;
  State state = kDone;
};

constexpr unsigned kMostThreads = 1024, kStackBytes = 128 << 10;

inline Position thread_position, block_position, block_size, grid_size;
inline Fiber fibers[kMostThreads];
inline char* stacks = nullptr;
inline jmp_buf scheduler;
inline ucontext_t launch_context, first_context;
inline void (*kernel)(const void*) = nullptr;
inline const void* kernel_arguments = nullptr;
inline unsigned char exchange[kMostThreads][16];  // what the lanes of a warp show each other

inline void pause(State state) {
  Fiber& fiber = fibers[thread_position.x];
  fiber.state = state;
  if (!_setjmp(fiber.place)) _longjmp(scheduler, 1);
}

inline void enter() {
  kernel(kernel_arguments);
  fibers[thread_position.x].state = kDone;
  _longjmp(scheduler, 1);
}

inline void resume(unsigned thread) {
  thread_position.x = thread;
  Fiber& fiber = fibers[thread];
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&first_context);
  first_context.uc_stack.ss_sp = stacks + static_cast<size_t>(thread) * kStackBytes;
  first_context.uc_stack.ss_size = kStackBytes;
  first_context.uc_link = nullptr;
  makecontext(&first_context, enter, 0);
  setcontext(&first_context);
}

// Makes the threads [first, last) ready if all of them that are not done wait at the same barrier.
inline bool release(unsigned first, unsigned last, State barrier) {
  bool any = false;
  for (unsigned i = first; i < last; ++i) {
    if (fibers[i].state != kDone && fibers[i].state != barrier) return false;
    any = any || fibers[i].state == barrier;
  }
  for (unsigned i = first; i < last; ++i)
    if (fibers[i].state == barrier) fibers[i].state = kReady;
  return any;
}

inline void run_block(unsigned threads) {
  static bool backwards = false;
  backwards = !backwards;
  for (unsigned i = 0; i < threads; ++i) fibers[i].started = false, fibers[i].state = kReady;
  while (true) {
    bool moved = false;
    for (unsigned n = 0; n < threads; ++n) {
      // Forwards in one block, backwards in the next: results that depend on the order lack a barrier.
      const unsigned i = backwards ? threads - 1 - n : n;
      if (fibers[i].state == kReady) resume(i), moved = true;
    }
    for (unsigned i = 0; i < threads; i += 32) moved |= release(i, std::min(i + 32, threads), kAtWarp);
    moved |= release(0, threads, kAtBlock);
    if (moved) continue;
    for (unsigned i = 0; i < threads; ++i)
      if (fibers[i].state != kDone) {
        std::fprintf(stderr, "emulated GPU: not every thread of block (%u, %u, %u) reached a barrier\n",
                     block_position.x, block_position.y, block_position.z);
        std::abort();
      }
    return;
  }
}

inline float half_to_float(unsigned short bits) {
  _Float16 h;
  std::memcpy(&h, &bits, 2);
  return static_cast<float>(h);
}

inline unsigned short float_to_half(float x) {
  const _Float16 h = static_cast<_Float16>(x);
  unsigned short bits;
  std::memcpy(&bits, &h, 2);
  return bits;
}

template <class T>
T shuffle(T value, unsigned lane) {
  const unsigned me = thread_position.x;
  std::memcpy(exchange[me], &value, sizeof(T));
  pause(kAtWarp);
  std::memcpy(&value, exchange[me / 32 * 32 + lane % 32], sizeof(T));
  pause(kAtWarp);
  return value;
}

}  // namespace emulated

#define threadIdx emulated::thread_position
#define blockIdx emulated::block_position
#define blockDim emulated::block_size
#define gridDim emulated::grid_size

inline void __syncthreads() { emulated::pause(emulated::kAtBlock); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated::shuffle(value, emulated::thread_position.x % 32 ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulated::shuffle(value, static_cast<unsigned>(lane));
}
inline float atomicAdd(float* p, float x) {
  const float before = *p;
  *p += x;
  return before;
}

// Runs a kernel (see RVRT_ENTRY_POINT in portable.h) over a grid. Threads lie along x.
extern "C" inline __attribute__((used, visibility("default"))) int emulated_launch(void (*kernel)(const void*),
                                                                                   const unsigned* grid,
                                                                                   unsigned threads,
                                                                                   const void* arguments) {
  using namespace emulated;
  if (threads > kMostThreads) return 1;
  if (!stacks) stacks = static_cast<char*>(std::malloc(static_cast<size_t>(kMostThreads) * kStackBytes));
  emulated::kernel = kernel, kernel_arguments = arguments;
  block_size.x = threads, block_size.y = block_size.z = 1;
  grid_size.x = grid[0], grid_size.y = grid[1], grid_size.z = grid[2];
  for (block_position.z = 0; block_position.z < grid[2]; ++block_position.z)
    for (block_position.y = 0; block_position.y < grid[1]; ++block_position.y)
      for (block_position.x = 0; block_position.x < grid[0]; ++block_position.x) run_block(threads);
  return 0;
}
