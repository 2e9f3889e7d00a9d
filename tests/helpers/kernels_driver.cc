// SPDX-License-Identifier: Apache-2.0
// Run every kernel once on a few threads, for sanitizers and emulators that need a standalone program:
//   cd rvrt_cli/ops/kernels
//   g++ -std=c++17 -O1 -g -DRVRT_PORTABLE_ONLY -fopenmp -fsanitize=thread ../../../tests/helpers/kernels_driver.cc
//     *.cc -o /tmp/driver
//   /tmp/driver 3
// Prints two sums of each output, to compare processors: `aarch64-linux-gnu-g++ -static` and `qemu-aarch64` run it too.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

using Shape = std::vector<int64_t>;
using Kernel = int(int, void**, int*, int64_t**, const char**, void*, void*);

extern "C" {
Kernel warp_forward, warp_backward, warp_clip_forward, warp_clip_backward;
Kernel guided_offsets_forward, guided_offsets_backward;
Kernel guided_attention_forward, guided_training_forward, guided_training_backward;
Kernel deformable_attention_forward, deformable_attention_backward;
Kernel neighborhood_attention_forward, neighborhood_attention_backward;
Kernel window_attention_forward, window_attention_backward, swin_layer_forward, swin_layer_onto_forward;
Kernel linear_forward, linear_backward, norm_linear_forward, norm_linear_backward, mlp_forward, mlp_backward;
Kernel linear_pair_forward, project_mlp_forward, conv_body_forward;
Kernel conv_chain_forward, conv_chain_backward;
Kernel layer_norm_forward, layer_norm_backward, conv2d_forward, conv2d_backward;
Kernel strided_conv2d_forward, strided_conv2d_backward, grouped_conv2d_forward, grouped_conv2d_backward;
Kernel pixel_shuffle_forward, pixel_shuffle_backward, add_upsampled_forward, reverse_time_forward;
Kernel charbonnier_forward, charbonnier_backward, fuse_frames_forward, fuse_clip_forward, lucas_kanade_forward;
Kernel shrink_chroma_forward, steady_forward;
int rvrt_kernels_threads(int count);
int rvrt_kernels_bfloat16(int level);
}

// Inputs are pseudo-random in [-1, 1), the one numbered `wide` in [-5, 5), the one numbered `zero` int32 zeros.
// `attributes` may be empty.
static bool run(const char* name, Kernel* kernel, std::vector<Shape> shapes, std::vector<int32_t> attributes,
                const std::vector<Shape>& outputs, size_t wide = 99, size_t zero = 99) {
  const size_t inputs = shapes.size();
  uint32_t state = 7;
  const size_t extra = attributes.empty() ? 0 : 1;
  if (extra) shapes.push_back({static_cast<int64_t>(attributes.size())});
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
      if (size == 1) v = std::fabs(v);  // a scalar
      if (i == zero) v = 0.0f;
    }
    const bool whole = extra && i == inputs;
    data.push_back(whole ? static_cast<void*>(attributes.data()) : values[i].data());
    ndims.push_back(static_cast<int>(shapes[i].size()));
    dims.push_back(shapes[i].data());
    types.push_back(whole || i == zero ? "int32" : "float32");
  }
  const int status =
      kernel(static_cast<int>(data.size()), data.data(), ndims.data(), dims.data(), types.data(), nullptr, nullptr);
  std::printf("%s: status %d", name, status);
  for (size_t i = inputs + extra; i < values.size(); ++i) {
    double weighted = 0, squares = 0;
    for (size_t j = 0; j < values[i].size(); ++j)
      weighted += values[i][j] * std::cos(0.37 * static_cast<double>(j)), squares += values[i][j] * values[i][j];
    std::printf("  %.5g %.5g", weighted, squares);
  }
  std::printf("\n");
  return status == 0;
}

// Convolutions and dense layers, with operands as they are or rounded to bfloat16: several tensors side by side, a
// convolution by Winograd's algorithm (3x3, and more input channels than it takes at a time) and others.
static bool run_products() {
  const Shape x{2, 20, 24, 24}, few{2, 20, 24, 3}, many{2, 20, 24, 210}, y{2, 20, 24, 40}, wide{40};
  bool good = run("dense layer of two", linear_forward, {x, few, {40, 27}, wide, y}, {4, 1, 1}, {y});
  good &= run("dense layer of five", linear_forward, {few, few, x, few, few, {40, 36}, wide, y}, {1, 1, 0}, {y});
  good &= run("convolution of two", conv2d_forward, {x, few, {40, 27, 5, 5}, wide, y}, {1, 1, 1}, {y});
  good &= run("convolution of three", conv2d_forward, {few, x, x, {40, 51, 3, 3}, wide, y}, {2, 1, 0}, {y});
  good &= run("convolution of many", conv2d_forward, {many, {40, 210, 3, 3}, wide, y}, {3, 1, 1}, {y});
  good &= run("its gradient", conv2d_backward, {many, {40, 210, 3, 3}, y, y}, {3, 1, 0}, {many, {40, 210, 3, 3}, wide});
  const Shape merged{40, 51, 3, 3}, large{40, 51, 5, 5};
  good &= run("gradient of three", conv2d_backward, {few, x, x, merged, y, y}, {2, 1, 0}, {few, x, x, merged, wide});
  good &= run("gradient of large", conv2d_backward, {few, x, x, large, y, y}, {2, 1, 0}, {few, x, x, large, wide});
  good &= run("gradient of dense", linear_backward, {x, few, {40, 27}, wide, y}, {4, 1, 0}, {x, few, {40, 27}, wide});
  const Shape odd{1, 13, 19, 37}, taps{53, 37, 3, 3}, out{1, 13, 19, 53};
  good &= run("odd convolution", conv2d_forward, {odd, taps, {53}, out}, {0, 1, 1}, {out});
  good &= run("its gradient", conv2d_backward, {odd, taps, out, out}, {0, 1, 0}, {odd, taps, {53}});
  const Shape strided{1, 7, 10, 53}, three{40, 8, 3, 3}, single{40, 24, 5, 5}, half{2, 10, 12, 40};
  good &= run("strided convolution", strided_conv2d_forward, {odd, taps, {53}}, {1, 2}, {strided});
  good &= run("its gradient", strided_conv2d_backward, {odd, taps, strided, strided}, {1, 2}, {odd, taps, {53}});
  good &= run("strided 5x5 convolution", strided_conv2d_forward, {x, single, wide}, {0, 2}, {half});
  const Shape pair{2, 20, 24, 64}, of_pair{48, 32, 3, 3}, made{2, 20, 24, 48};
  good &= run("grouped convolution", grouped_conv2d_forward, {pair, of_pair, {48}}, {1}, {made});
  good &= run("its gradient", grouped_conv2d_backward, {pair, of_pair, made, made}, {1}, {pair, of_pair, {48}});
  const Shape seven{40, 24, 7, 7}, strips{1, 26, 90, 24}, of_strips{1, 26, 90, 40};
  good &= run("7x7 convolution", conv2d_forward, {x, seven, wide, y}, {3, 1, 1}, {y});
  good &= run("its gradient", conv2d_backward, {x, seven, y, y}, {3, 1, 0}, {x, seven, wide});
  good &= run("wide 7x7 convolution", conv2d_forward, {strips, seven, wide, of_strips}, {0, 1, 0}, {of_strips});
  const Shape row{24}, weight{40, 24}, back{24, 40}, square{24, 24, 3, 3};
  good &= run("pair of dense layers", linear_pair_forward, {x, weight, wide, y, back, row}, {}, {pair});
  good &= run("projection and mlp", project_mlp_forward, {y, back, row, weight, wide, back, row}, {}, {x});
  const Shape kept{1, 2, 20, 24, 24};
  good &= run("chain", conv_chain_forward, {x, square, row, square, row}, {1}, {x, kept});
  good &= run("its gradient", conv_chain_backward, {x, square, square, x, kept, x}, {1}, {x, square, row, square, row});
  good &= run("narrow groups", grouped_conv2d_forward, {{2, 20, 24, 40}, three, wide}, {0}, {y});
  return good;
}

static bool run_offsets() {
  const Shape q{1, 2, 20, 24, 24}, flows{1, 2, 2, 20, 24, 2}, offset{1, 2, 20, 24, 2, 18, 2}, one{1};
  bool good = run("warped clip", warp_clip_forward, {q, flows}, {}, {{1, 2, 20, 24, 52}}, 1);
  good &= run("its gradient", warp_clip_backward, {q, flows, {1, 2, 20, 24, 52}}, {}, {q, flows}, 1);
  good &= run("guided offsets", guided_offsets_forward, {q, {72, 24}, {72}, flows, one}, {18}, {offset, flows}, 3);
  const Shape hidden{1, 2, 20, 24, 10}, into{32, 24}, bias{32}, row{24}, wide{40};
  const std::vector<Shape> layers{{144, 10}, {144},    into, bias,     into, bias,     into,
                                  bias,      {24, 32}, row,  {40, 24}, wide, {24, 40}, row};
  std::vector<Shape> guided{q, q, q, hidden, flows, one}, gradients{q, q, q, hidden, flows};
  guided.insert(guided.end(), layers.begin(), layers.end());
  gradients.insert(gradients.end(), layers.begin(), layers.end());
  good &= run("guided attention", guided_attention_forward, guided, {2, 3, 3, 4}, {q, flows}, 4);
  const Shape kept{144 + 4 * 32 + 24 + 40, 1, 2, 20, 24};
  good &= run("the same in training", guided_training_forward, guided, {2, 3, 3, 4}, {q, flows, kept}, 4);
  guided.insert(guided.end(), {kept, q, flows});
  good &= run("its gradient", guided_training_backward, guided, {2, 3, 3, 4}, gradients, 4);
  good &= run("their gradient", guided_offsets_backward, {offset, flows, one, offset, flows}, {18}, {offset, flows}, 0);
  return good;
}

static bool run_swin() {
  const Shape q{1, 2, 20, 24, 24}, row{24}, pad{72}, wide{40}, square{24, 24}, index{128, 128};
  const std::vector<int32_t> window{3, 2, 8, 8, 0, 4, 4, 1};
  std::vector<Shape> layer{q, row, row, {72, 24}, pad, square, row, row, row, {40, 24}, wide, {24, 40}, row, {675, 3}};
  std::vector<Shape> onto = layer;
  layer.push_back(index);
  onto.insert(onto.end(), {square, row, q, index});
  const bool good = run("Swin layer", swin_layer_forward, layer, window, {q}, 99, layer.size() - 1);
  return run("Swin layer onto", swin_layer_onto_forward, onto, window, {q}, 99, onto.size() - 1) && good;
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
  good &= run("neighborhood forward", neighborhood_attention_forward, {q, kv}, {3, 3, 3}, {q});
  good &= run("neighborhood backward", neighborhood_attention_backward, {q, kv, q}, {3, 3, 3}, {q, kv});
  good &= run("window forward", window_attention_forward, {qkv, pad, bias}, window, {q});
  good &= run("window backward", window_attention_backward, {qkv, pad, bias, q}, window, {qkv, pad, bias});

  const Shape row{24}, wide{40}, weight{40, 24}, back{24, 40}, y{2, 20, 24, 40}, kernel{40, 24, 3, 3}, one{1};
  good &= run("linear forward", linear_forward, {x, weight, wide, y}, {4, 1, 1}, {y});
  good &= run("linear backward", linear_backward, {x, weight, wide, y}, {4, 1, 0}, {x, weight, wide});
  good &= run("norm and linear forward", norm_linear_forward, {x, row, row, weight, wide}, {0, 1}, {y});
  good &= run("norm and linear backward", norm_linear_backward, {x, row, row, weight, wide, y}, {0, 1},
              {x, row, row, weight, wide});
  good &= run("mlp forward", mlp_forward, {x, row, row, weight, wide, back, row}, {}, {x});
  good &= run("mlp backward", mlp_backward, {x, row, row, weight, wide, back, x}, {},
              {x, row, row, weight, wide, back, row});
  good &= run("layer norm forward", layer_norm_forward, {x, row, row}, {}, {x});
  good &= run("layer norm backward", layer_norm_backward, {x, row, x}, {}, {x, row, row});
  good &= run("convolution forward", conv2d_forward, {x, kernel, wide, y}, {1, 1, 1}, {y});
  good &= run("convolution backward", conv2d_backward, {x, kernel, y, y}, {1, 1, 0}, {x, kernel, wide});
  good &= run_swin();
  const Shape packed{2, 20, 24, 48}, spread{2, 40, 48, 12}, small{2, 5, 6, 24}, clip{2, 3, 8, 9, 5};
  good &= run("pixel shuffle forward", pixel_shuffle_forward, {packed}, {2, 1}, {spread});
  good &= run("pixel shuffle backward", pixel_shuffle_backward, {spread, spread}, {2, 1}, {packed});
  good &= run("upsampled residual", add_upsampled_forward, {small, x}, {}, {x});
  good &= run("chroma shrinkage", shrink_chroma_forward, {{2, 36, 44, 3}, {2, 9, 11, 3}}, {}, {{2, 36, 44, 3}});
  good &= run("steadying", steady_forward, {{2, 36, 44, 3}, {2, 9, 11, 3}, {1, 9, 11, 3}, {1, 9, 11, 48}, {1}}, {},
              {{2, 36, 44, 3}, {1, 9, 11, 48}});
  good &= run("frame fusion", fuse_frames_forward, {{2, 9, 11, 3}, {2, 3, 9, 11, 3}, {2, 3, 9, 11, 2}, {2, 3, 9, 11}},
              {}, {{2, 9, 11, 64}}, 2);
  good &= run("fusion of a clip", fuse_clip_forward, {{2, 6, 13, 21, 3}}, {4, 2}, {{2, 2, 13, 21, 64}});
  const Shape pair = {2, 13, 21, 3}, large = {1, 70, 90, 3};
  good &= run("flow of small frames", lucas_kanade_forward, {pair, pair}, {4, 2}, {{2, 13, 21, 2}, {2, 13, 21}});
  good &= run("flow of a large frame", lucas_kanade_forward, {large, large}, {4, 2}, {{1, 70, 90, 2}, {1, 70, 90}});
  good &= run("time reversal", reverse_time_forward, {clip}, {}, {clip});
  good &= run("Charbonnier forward", charbonnier_forward, {x, x, one}, {}, {one});
  good &= run("Charbonnier backward", charbonnier_backward, {x, x, one, one}, {}, {x});
  good &= run_offsets() && run_products();
  for (int level : {1, 2, 3, 4}) {
    if (rvrt_kernels_bfloat16(level) != level) continue;
    std::printf("bfloat16, level %d\n", level);
    good &= run_products();
    const Shape both{24, 48, 3, 3}, square{24, 24, 3, 3};
    good &= run("body", conv_body_forward, {x, x, both, row, square, row, square, row, one}, {2, 1, 1, 1}, {x});
    good &= run("chain of rows", conv_body_forward, {x, square, row, square, row, one}, {1, 0, 0, 0}, {x});
    good &= run_swin();
  }
  return good ? 0 : 1;
}
