// SPDX-License-Identifier: Apache-2.0
// The functions of NVIDIA's driver that the CUDA kernels are launched through, over the host's memory: kernels run on the
// CPU (cuda_emulation.h), or not at all.
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

extern "C" {

int emulated_launch(void (*kernel)(const void*), const unsigned* grid, unsigned threads, const void* arguments);

// Whether kernels are run.
static const int computes = std::getenv("NULL_GPU_COMPUTES") != nullptr;
static long launches = 0, fail_after = -1;

// How many launches there were.
long emulated_gpu_launches() { return launches; }
// The driver refuses memory after `count` more allocations; -1: never.
void emulated_gpu_fail_after(long count) { fail_after = count; }

int cuCtxGetCurrent(void** context) { return *context = &launches, 0; }
int cuModuleLoadData(void** module, const void*) { return *module = &launches, 0; }

int cuModuleGetFunction(void** function, void*, const char* name) {
  static void* here = nullptr;
  Dl_info info;
  if (!here && dladdr(reinterpret_cast<void*>(cuModuleGetFunction), &info)) here = dlopen(info.dli_fname, RTLD_NOW);
  return (*function = here ? dlsym(here, name) : nullptr) ? 0 : 500;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned,
                   void*, void** parameters, void**) {
  ++launches;
  if (!x || !y || !z || y > 65535 || z > 65535) return 1;  // CUDA_ERROR_INVALID_VALUE
  const unsigned grid[] = {x, y, z};
  return computes ? emulated_launch(reinterpret_cast<void (*)(const void*)>(function), grid, threads, parameters[0])
                  : 0;
}

int cuMemAlloc_v2(void** memory, size_t bytes) {
  if (fail_after == 0) return 2;  // CUDA_ERROR_OUT_OF_MEMORY
  if (fail_after > 0) --fail_after;
  *memory = std::malloc(bytes ? bytes : 1);
  if (*memory && computes) std::memset(*memory, 0xff, bytes);  // NaN: nothing may be read before it is written
  return *memory ? 0 : 2;
}

int cuMemFree_v2(void* memory) { return std::free(memory), 0; }
int cuStreamSynchronize(void*) { return 0; }

int cuMemsetD8Async(void* memory, unsigned char value, size_t bytes, void*) {
  if (computes) std::memset(memory, value, bytes);
  return 0;
}

}  // extern "C"
