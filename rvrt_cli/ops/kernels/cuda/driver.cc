// SPDX-License-Identifier: Apache-2.0
// NVIDIA's driver, opened when the first kernel is launched: building and loading this library needs nothing of CUDA's.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "launch.h"

namespace rvrt {
namespace cuda {
namespace {

std::string driver_name = "libcuda.so.1";

struct Driver {
  int (*current_context)(void**);
  int (*load_module)(void**, const void*);
  int (*get_function)(void**, void*, const char*);
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  int (*allocate)(void**, size_t);
  int (*release)(void*);
  int (*synchronize)(void*);
  int (*fill)(void*, unsigned char, size_t, void*);
  bool complete;

  Driver() : complete(true) {
    void* library = dlopen(driver_name.c_str(), RTLD_NOW);
    const auto find = [&](auto& function, const char* name) {
      function = library ? reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name)) : nullptr;
      complete = complete && function;
    };
    find(current_context, "cuCtxGetCurrent"), find(load_module, "cuModuleLoadData");
    find(get_function, "cuModuleGetFunction"), find(launch, "cuLaunchKernel");
    find(allocate, "cuMemAlloc_v2"), find(release, "cuMemFree_v2");
    find(synchronize, "cuStreamSynchronize"), find(fill, "cuMemsetD8Async");
  }
};

const Driver& driver() {
  static const Driver opened;
  return opened;
}

std::mutex lock;
std::vector<std::string> images;                           // compiled kernels, in the form that the driver loads
std::map<void*, std::vector<void*>> modules;               // by context: MindSpore has one per card
std::map<std::pair<void*, std::string>, void*> functions;  // by context and name
struct Block {
  void* memory = nullptr;
  int64_t bytes = 0;
};
std::map<std::pair<void*, void*>, Block> blocks;  // by context and stream

int complain(const char* what, int code) {
  std::fprintf(stderr, "rvrt: the CUDA driver cannot %s (error %d)\n", what, code);
  return kDriver;
}

void* current_context() {
  void* context = nullptr;
  if (driver().complete) driver().current_context(&context);
  return context;
}

// Under the lock.
void* find_function(void* context, const std::string& name) {
  const auto known = functions.find({context, name});
  if (known != functions.end()) return known->second;
  if (!modules.count(context)) {
    for (const std::string& image : images) {
      void* module = nullptr;
      if (const int code = driver().load_module(&module, image.data())) {
        complain("load the CUDA kernels", code);
        return nullptr;
      }
      modules[context].push_back(module);
    }
  }
  for (void* module : modules[context]) {
    void* function = nullptr;
    if (driver().get_function(&function, module, name.c_str()) == 0 && function)
      return functions[{context, name}] = function;
  }
  complain(("find the kernel " + name).c_str(), 0);
  return nullptr;
}

}  // namespace

int launch_bytes(const Call& call, const char* name, Grid grid, int threads, const void* arguments) {
  void *context = current_context(), *function;
  if (!context) return complain("be used: there is none, or no card was selected", 0);
  {
    const std::lock_guard<std::mutex> guard(lock);
    function = find_function(context, std::string(name) + (call.half ? "_f16" : "_f32"));
  }
  if (!function) return kDriver;
  void* parameters[] = {const_cast<void*>(arguments)};
  const int code = driver().launch(function, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                                   static_cast<unsigned>(grid.z), threads, 1, 1, 0, call.stream, parameters, nullptr);
  return code ? complain((std::string("launch ") + name).c_str(), code) : kOk;
}

int CardScratch::reserve(int64_t bytes) {
  void* context = current_context();
  if (!context) return complain("be used: there is none, or no card was selected", 0);
  const std::lock_guard<std::mutex> guard(lock);
  Block& block = blocks[{context, call_.stream}];
  if (block.bytes < bytes) {
    if (block.memory) {
      driver().synchronize(call_.stream);  // earlier calls may still use it
      driver().release(block.memory);
    }
    block = Block{};
    if (driver().allocate(&block.memory, bytes)) {
      block.memory = nullptr;
      return kMemory;
    }
    block.bytes = bytes;
  }
  block_ = static_cast<char*>(block.memory);
  return kOk;
}

int fill_zeros(const Call& call, void* memory, int64_t bytes) {
  if (!driver().complete) return complain("be used: there is none", 0);
  const int code = bytes ? driver().fill(memory, 0, bytes, call.stream) : 0;
  return code ? complain("fill memory", code) : kOk;
}

int Call::check(int inputs, int attributes, int outputs) const {
  const int empty = attributes ? inputs : -1;
  if (count != inputs + (attributes ? 1 : 0) + outputs) return kCount;
  half = std::strcmp(dtypes[0], "float16") == 0;
  for (int i = 0; i < count; ++i) {
    if (i == empty) {
      RVRT_CHECK(ndims[i] == attributes + 1 && shapes[i][0] == 0, kAttribute);
    } else {
      RVRT_CHECK(std::strcmp(dtypes[i], half ? "float16" : "float32") == 0, kType);
      RVRT_CHECK(size(i) < (int64_t{1} << 40), kShape);
    }
  }
  return kOk;
}

}  // namespace cuda
}  // namespace rvrt

// The driver's library, if not libcuda.so.1; before the first launch.
extern "C" RVRT_EXPORT void rvrt_cuda_use_driver(const char* name) { rvrt::cuda::driver_name = name; }

// Adds compiled kernels: a cubin, or PTX that ends with a zero.
extern "C" RVRT_EXPORT void rvrt_cuda_add_image(const char* image, int64_t bytes) {
  const std::lock_guard<std::mutex> guard(rvrt::cuda::lock);
  rvrt::cuda::images.emplace_back(image, bytes);
}
