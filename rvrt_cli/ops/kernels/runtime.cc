// SPDX-License-Identifier: Apache-2.0
// The number of threads, scratch memory and the choice of instruction set: see kernel.h.
#include "kernel.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rvrt {
namespace {

std::atomic<int> chosen_threads{0};
std::atomic<int> chosen_isa{-1};

// What RVRT_ISA allows: it caps every choice, in every process that inherits it. The program refuses other values.
Isa isa_limit() {
  const char* name = std::getenv("RVRT_ISA");
  if (name && std::strcmp(name, "portable") == 0) return kPortable;
  if (name && std::strcmp(name, "avx2") == 0) return kAvx2;
  return kAvx512;
}

Isa best_isa() {
#if defined(__x86_64__) && !defined(RVRT_PORTABLE_ONLY)
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return kPortable;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return wide ? kAvx512 : kAvx2;
#else
  return kPortable;
#endif
}

}  // namespace

Isa isa() {
  static const Isa best = std::min(best_isa(), isa_limit());
  const int chosen = chosen_isa.load(std::memory_order_relaxed);
  return chosen < 0 ? best : static_cast<Isa>(std::min<int>(chosen, best));
}

int threads() {
#ifdef _OPENMP
  const int chosen = chosen_threads.load(std::memory_order_relaxed);
  return chosen > 0 ? chosen : std::max(1, omp_get_max_threads());
#else
  return 1;
#endif
}

namespace {

struct FreeBlock {
  void* data;
  int64_t bytes;
};

// Blocks of freed scratch memory, the latest last. Fresh memory from the system costs a page fault for every 4 KB, which
// took up to two fifths of the time of a large gradient.
struct ScratchPool {
  std::mutex mutex;
  std::vector<FreeBlock> blocks;
  int64_t bytes = 0;
};

constexpr int64_t kKeptPerThread = 32 << 20;  // bytes

ScratchPool& pool() {
  static auto* const shared = new ScratchPool;  // never destroyed: threads may outlive static objects
  return *shared;
}

// The smallest free block that fits and is not much too large, or a new one. Null if there is no memory.
FreeBlock take_block(int64_t bytes) {
  {
    ScratchPool& shared = pool();
    const std::lock_guard<std::mutex> guard(shared.mutex);
    auto best = shared.blocks.end();
    for (auto block = shared.blocks.begin(); block != shared.blocks.end(); ++block)
      if (block->bytes >= bytes && block->bytes <= 2 * bytes &&
          (best == shared.blocks.end() || block->bytes < best->bytes))
        best = block;
    if (best != shared.blocks.end()) {
      const FreeBlock found = *best;
      shared.blocks.erase(best);
      shared.bytes -= found.bytes;
      return found;
    }
  }
  return {std::aligned_alloc(64, bytes), bytes};
}

// Keeps a block for the next call, in place of those that have not been used for longest.
void keep_block(const FreeBlock& block) {
  if (!block.data) return;
  ScratchPool& shared = pool();
  const std::lock_guard<std::mutex> guard(shared.mutex);
  shared.blocks.push_back(block);
  shared.bytes += block.bytes;
  size_t oldest = 0;
  for (; shared.bytes > kKeptPerThread * threads(); ++oldest) {
    std::free(shared.blocks[oldest].data);
    shared.bytes -= shared.blocks[oldest].bytes;
  }
  shared.blocks.erase(shared.blocks.begin(), shared.blocks.begin() + oldest);
}

}  // namespace

Scratch::Scratch(int64_t floats) {
  const FreeBlock block = take_block(round_up(std::max<int64_t>(floats, 1024) * 4, 64));
  data_ = static_cast<float*>(block.data), bytes_ = block.bytes;
}

Scratch::Scratch(int64_t floats, bool zeroed) : Scratch(floats) {
  if (zeroed && data_) std::memset(data_, 0, sizeof(float) * floats);
}

Scratch::~Scratch() { keep_block({data_, bytes_}); }

}  // namespace rvrt

// Set the number of threads (0: OpenMP's default). Returns the number in use.
extern "C" RVRT_EXPORT int rvrt_kernels_threads(int count) {
  rvrt::chosen_threads = std::max(count, 0);
  return rvrt::threads();
}

// Set the highest instruction set: 0 portable, 1 AVX2, 2 AVX-512, -1 the best available, -2 as before. Returns the one in
// use, which is never above RVRT_ISA.
extern "C" RVRT_EXPORT int rvrt_kernels_isa(int level) {
  if (level >= -1) rvrt::chosen_isa = level;
  return rvrt::isa();
}
