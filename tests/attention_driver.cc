// Runs every kernel of attention and warping once on a few threads, for tools that want a program of their own:
//   cd rvrt_cli/ops/kernels
//   clang++ -std=c++17 -O1 -g -DRVRT_PORTABLE_ONLY -fopenmp -fsanitize=thread ../../../tests/attention_driver.cc
//     common.cc warp.cc deform.cc neighbourhood.cc window.cc -o /tmp/driver
//   OMP_TOOL_LIBRARIES=libarcher.so TSAN_OPTIONS=ignore_noninstrumented_modules=1 /tmp/driver 3
// (libarcher.so comes with LLVM's OpenMP and tells ThreadSanitizer of its barriers.) It prints two sums of each output, to
// compare processors: `aarch64-linux-gnu-g++ -static` and `qemu-aarch64` run it too.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

using Shape = std::vector<int64_t>;
using Kernel = int(int, void**, int*, int64_t**, const char**, void*, void*);

extern "C" {
Kernel warp_forward, warp_backward, deformable_attention_forward, deformable_attention_backward;
Kernel neighbourhood_attention_forward, neighbourhood_attention_backward;
Kernel window_attention_forward, window_attention_backward;
int rvrt_kernels_threads(int count);
}

// Inputs are pseudo-random in [-1, 1), the one numbered `wide` in [-5, 5).
static bool run(const char* name, Kernel* kernel, std::vector<Shape> shapes, std::vector<int32_t> attributes,
                const std::vector<Shape>& outputs, size_t wide = 99) {
  const size_t inputs = shapes.size();
  uint32_t state = 7;
  shapes.push_back({static_cast<int64_t>(attributes.size())});
  shapes.insert(shapes.end(), outputs.begin(), outputs.end());
  std::vector<std::vector<float>> values;
  std::vector<void*> data;
  std::vector<int> ndims;
  std::vector<int64_t*> dims;
  std::vector<const char*> types;
  for (size_t i = 0; i < shapes.size(); ++i) {
    int64_t size = 1;
    for (int64_t n : shapes[i]) size *= n;
    values.emplace_back(size);
    for (float& v : values.back()) {
      state = state * 1664525u + 1013904223u;
      v = i < inputs ? (static_cast<float>(state >> 8) / 8388608.0f - 1) * (i == wide ? 5 : 1) : 0.0f;
    }
    data.push_back(i == inputs ? static_cast<void*>(attributes.data()) : values[i].data());
    ndims.push_back(static_cast<int>(shapes[i].size()));
    dims.push_back(shapes[i].data());
    types.push_back(i == inputs ? "int32" : "float32");
  }
  const int status = kernel(static_cast<int>(data.size()), data.data(), ndims.data(), dims.data(), types.data(), nullptr,
                            nullptr);
  std::printf("%s: status %d", name, status);
  for (size_t i = inputs + 1; i < values.size(); ++i) {
    double weighted = 0, squares = 0;
    for (size_t j = 0; j < values[i].size(); ++j)
      weighted += values[i][j] * std::cos(0.37 * static_cast<double>(j)), squares += values[i][j] * values[i][j];
    std::printf("  %.5g %.5g", weighted, squares);
  }
  std::printf("\n");
  return status == 0;
}

int main(int count, char** arguments) {
  rvrt_kernels_threads(count > 1 ? std::atoi(arguments[1]) : 2);
  const Shape q{1, 2, 20, 24, 24}, kv{1, 2, 20, 24, 48}, qkv{1, 2, 20, 24, 72}, offset{1, 2, 20, 24, 2, 4, 9, 2};
  const Shape x{2, 20, 24, 24}, flow{2, 20, 24, 2}, pad{72}, bias{3, 128, 128};
  const std::vector<int32_t> window{3, 2, 8, 8, 0, 4, 4, 1};
  bool good = run("warp forward", warp_forward, {x, flow}, {0}, {x}, 1);
  good &= run("warp backward", warp_backward, {x, flow, x}, {1}, {x, flow}, 1);
  good &= run("deformable forward", deformable_attention_forward, {q, kv, offset}, {2, 3, 3}, {q}, 2);
  good &= run("deformable backward", deformable_attention_backward, {q, kv, offset, q}, {2, 3, 3}, {q, kv, offset}, 2);
  good &= run("neighbourhood forward", neighbourhood_attention_forward, {q, kv}, {3, 3, 3}, {q});
  good &= run("neighbourhood backward", neighbourhood_attention_backward, {q, kv, q}, {3, 3, 3}, {q, kv});
  good &= run("window forward", window_attention_forward, {qkv, pad, bias}, window, {q});
  good &= run("window backward", window_attention_backward, {qkv, pad, bias, q}, window, {qkv, pad, bias});
  return good ? 0 : 1;
}
