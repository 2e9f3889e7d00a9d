// SPDX-License-Identifier: Apache-2.0
// 3x3 convolution by Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2016): 36 products per tile of 4x4 pixels and pair of channels in place of 144.
//
// A tile's 6x6 input pixels d become V = Bᵀ d B, the weights U = G g Gᵀ, and the output is Aᵀ (sum over channels of
// U V) A. Each of the 36 places is one matrix product: (tiles, inputs) x (inputs, outputs). A block of tiles passes
// through transform, products and transform back while it is in the cache.
//
// The matrices are those of polynomial interpolation at 0, ±5/8, ±3/2 and infinity: with these points the rounding
// error is less than half of that at the usual 0, ±1, ±2 (Barabasz et al., "Error Analysis and Improving the Accuracy of
// Winograd Convolution for Deep Neural Networks", 2020, choose such points by search). The weights' gradient is F(3x3,
// 4x4) at the same points: V as above, G' g G'ᵀ of the gradient's 4x4 tile, products summed over tiles, transform back.
#ifndef RVRT_ISA

#include "winograd_grid.h"

namespace rvrt {

struct WinogradWeightsJob {
  const WinogradCall* call;
  const std::vector<Chunk>* chunks;
  float* packed;
};

struct WinogradJob {
  const WinogradCall* call;
  TileGrid grid;
  const std::vector<Chunk>* chunks;
  const float *packed, *bias;
  float* scratch;
  int64_t scratch_floats, patch_floats;
  int64_t place_v, place_m;  // floats from one place to the next, of V and of the products
};

struct WinogradGradientJob {
  const WinogradGradientCall* call;
  TileGrid grid;
  float* scratch;  // per thread: two patches, V, G' g G'ᵀ, sums (36, inputs, padded outputs), bias sums
  int64_t scratch_floats, patch_x, patch_g, place_x, place_g, sum_floats;
  int threads;
};

}  // namespace rvrt

#define RVRT_KERNEL "winograd.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

constexpr int64_t kMostDepth = 192;  // input channels of a chunk: its V and weights stay in the L2 cache

TileGrid tile_grid(int64_t batch, int64_t height, int64_t width) {
  return rvrt::tile_grid(batch, height, width, RVRT_DISPATCH(kTile));
}

}  // namespace

bool winograd_suits(int64_t batch, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh,
                    int64_t kw) {
  const int64_t lanes = RVRT_DISPATCH(W), tiles = batch * ceil_div(height, kTileEdge) * ceil_div(width, kTileEdge);
  return kh == 3 && kw == 3 && inputs >= lanes && outputs >= lanes && tiles >= 16;
}

int winograd_convolve(const WinogradCall& call) {
  WinogradJob job{};
  const std::vector<Chunk> chunks = split_channels(call.x, kMostDepth);
  job.call = &call;
  job.grid = tile_grid(call.batch, call.height, call.width);
  job.chunks = &chunks;
  int64_t widest = 0;
  for (const Chunk& chunk : chunks) widest = std::max(widest, padded_floats(chunk.depth));
  const int64_t outputs = padded_floats(call.outputs);
  job.patch_floats = kPlaces * widest;
  job.place_v = job.grid.block * widest + kSkew;
  job.place_m = job.grid.block * outputs + kSkew;
  job.scratch_floats = round_up(job.patch_floats + kPlaces * (job.place_v + job.place_m), 16);
  const Scratch scratch(parallel_width(job.grid.blocks()) * job.scratch_floats);
  const Scratch packed(kPlaces * call.inputs * outputs), bias(outputs, true);
  RVRT_CHECK(scratch.ok() && packed.ok() && bias.ok(), kMemory);
  const WinogradWeightsJob weights{&call, &chunks, packed.data()};
  parallel(call.inputs, RVRT_DISPATCH(transform_weights), &weights);
  if (call.bias) std::memcpy(bias.data(), call.bias, sizeof(float) * call.outputs);
  job.packed = packed.data();
  job.bias = bias.data();
  job.scratch = scratch.data();
  return parallel_shared(job.grid.blocks(), RVRT_DISPATCH(winograd_blocks), &job);
}

int winograd_weight_gradient(const WinogradGradientCall& call) {
  WinogradGradientJob job{};
  job.call = &call;
  job.grid = tile_grid(call.batch, call.height, call.width);
  const int64_t inputs = padded_floats(call.inputs), outputs = padded_floats(call.outputs);
  job.patch_x = kPlaces * inputs, job.patch_g = kPlaces * outputs;
  job.place_x = job.grid.block * inputs + kSkew, job.place_g = job.grid.block * outputs + kSkew;
  job.sum_floats = round_up(kPlaces * call.inputs * outputs + outputs, 16);
  job.scratch_floats = round_up(job.patch_x + job.patch_g + kPlaces * (job.place_x + job.place_g), 16) + job.sum_floats;
  job.threads = parallel_width(job.grid.blocks());
  const Scratch scratch(job.threads * job.scratch_floats);
  RVRT_CHECK(scratch.ok(), kMemory);
  job.scratch = scratch.data();
  parallel(job.grid.blocks(), RVRT_DISPATCH(weight_gradient_blocks), &job);
  return parallel(call.inputs, RVRT_DISPATCH(reduce_weight_gradient), &job);
}

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "winograd_math.h"
#include "winograd_tiles.h"

// --- weights

// The weights of input channels [begin, end), into panels per chunk and place.
inline void transform_weights(const void* pointer, Span span) {
  const WinogradWeightsJob& job = *static_cast<const WinogradWeightsJob*>(pointer);
  const WinogradCall& call = *job.call;
  const int64_t stride_in = call.flipped ? call.outputs * 9 : 9, stride_out = call.flipped ? 9 : call.inputs * 9;
  const int64_t all = vectors(call.outputs), columns = all * W;
  for (const Chunk& chunk : *job.chunks) {
    const int64_t begin = chunk.at > span.begin ? chunk.at : span.begin;
    const int64_t end = chunk.at + chunk.depth < span.end ? chunk.at + chunk.depth : span.end;
    float* matrices = job.packed + kPlaces * chunk.at * columns;
    for (int64_t v = 0; v < all;) {
      const int width = panel_vectors(all - v);
      for (int64_t in = begin; in < end; ++in)
        for (int j = 0; j < width; ++j) {
          double g[9][W];
          for (int lane = 0; lane < W; ++lane) {
            const int64_t out = (v + j) * W + lane;
            const float* source = call.weight + in * stride_in + out * stride_out;
            for (int tap = 0; tap < 9; ++tap)
              g[tap][lane] = out < call.outputs ? source[call.flipped ? 8 - tap : tap] : 0.0f;
          }
          float* panel = matrices + v * W * chunk.depth + (in - chunk.at) * width * W;
          transform_filters<3>(g, panel + j * W, chunk.depth * columns);
        }
      v += width;
    }
  }
}

// --- tiles

// `transform_tile` of the tensors of a layer's input together.
inline void transform_sources(const TileGrid& grid, const TilePlace& p, const Sources& x, float* patch, float* out,
                              int64_t place) {
  const int64_t ld = padded(x.total());
  int64_t at = 0;
  for (int i = 0; i < x.count; at += x.channels[i++]) {
    const Image one{x.data[i], x.channels[i], x.stride[i], nullptr, 1.0f};
    if (x.count == 1) return transform_tile(grid, p, one, patch, out, place);
    copy_patch(grid, p, one, patch + at, ld, i + 1 < x.count ? x.channels[i] : ld - at);
  }
  transform_patch(patch, kPatchEdge * ld, ld, ld, out, place);
}

inline void winograd_blocks(const void* pointer, Span span) {
  const WinogradJob& job = *static_cast<const WinogradJob*>(pointer);
  const WinogradCall& call = *job.call;
  const TileGrid& grid = job.grid;
  float* patch = job.scratch + span.thread * job.scratch_floats;
  float* v = patch + job.patch_floats;
  float* m = v + kPlaces * job.place_v;
  const int64_t all = vectors(call.outputs), columns = all * W;
  const float zeros[kPanelFloats] = {}, slope = negative_slope(call.through_activation);
  for (int64_t block = span.begin; block < span.end; ++block) {
    const int64_t first = block * grid.block;
    const int64_t tiles = grid.tiles() - first < grid.block ? grid.tiles() - first : grid.block;
    bool begins = true;
    for (const Chunk& chunk : *job.chunks) {
      const int64_t ld = padded(chunk.depth);
      const Image x{chunk.data, chunk.stride, chunk.depth, call.through ? call.through + chunk.at : nullptr, slope};
      for (int64_t tile = 0; tile < tiles; ++tile)
        transform_tile(grid, tile_place(grid, first + tile), x, patch, v + tile * ld, job.place_v);
      const float* matrices = job.packed + kPlaces * chunk.at * columns;
      for (int64_t place = 0; place < kPlaces; ++place)
        for (int64_t first_vector = 0; first_vector < all;) {
          const int width = panel_vectors(all - first_vector);
          float* c = m + place * job.place_m + first_vector * W;
          product({tiles, width, chunk.depth, v + place * job.place_v, ld,
                   matrices + place * chunk.depth * columns + first_vector * W * chunk.depth, width * W,
                   begins ? zeros : c, begins ? 0 : columns, c, columns});
          first_vector += width;
        }
      begins = false;
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const TilePlace p = tile_place(grid, first + tile);
      const int64_t rows = grid.height - p.y < kTileEdge ? grid.height - p.y : kTileEdge;
      const int64_t wide = grid.width - p.x < kTileEdge ? grid.width - p.x : kTileEdge;
      finish_tile(m + tile * columns, job.place_m,
                  {&call, job.bias, (p.image * grid.height + p.y) * grid.width + p.x, rows, wide});
    }
  }
}

// --- gradient of the weights

// G' g G'ᵀ of the inner 4x4 pixels of a patch.
inline void transform_gradient_patch(const float* pixels, int64_t ld, float* out, int64_t place) {
  for (int64_t c = 0; c < ld; c += W)
    transform_square<4, 6, transform_gradient>(
        [=](int y, int x)
            __attribute__((always_inline)) { return load(pixels + ((y + 1) * kPatchEdge + x + 1) * ld + c); },
        [=](int y, int x, vf u) __attribute__((always_inline)) { store(out + (y * 6 + x) * place + c, u); });
}

inline void weight_gradient_blocks(const void* pointer, Span span) {
  const WinogradGradientJob& job = *static_cast<const WinogradGradientJob*>(pointer);
  const WinogradGradientCall& call = *job.call;
  const TileGrid& grid = job.grid;
  const int64_t inputs = padded(call.inputs), outputs = padded(call.outputs);
  float* patch_x = job.scratch + span.thread * job.scratch_floats;
  float* patch_g = patch_x + job.patch_x;
  float* v = patch_g + job.patch_g;
  float* u = v + kPlaces * job.place_x;
  float* sums = job.scratch + (span.thread + 1) * job.scratch_floats - job.sum_floats;
  float* bias_sums = sums + kPlaces * call.inputs * outputs;
  std::memset(sums, 0, sizeof(float) * job.sum_floats);
  const Image g{call.dy, call.outputs, call.outputs, call.y, negative_slope(call.activation)};
  for (int64_t block = span.begin; block < span.end; ++block) {
    const int64_t first = block * grid.block;
    const int64_t tiles = grid.tiles() - first < grid.block ? grid.tiles() - first : grid.block;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const TilePlace p = tile_place(grid, first + tile);
      transform_sources(grid, p, call.x, patch_x, v + tile * inputs, job.place_x);
      copy_patch(grid, p, g, patch_g, outputs, outputs);
      transform_gradient_patch(patch_g, outputs, u + tile * outputs, job.place_g);
      for (int64_t i = 1; i <= kTileEdge; ++i)
        add_columns(kTileEdge, outputs, patch_g + (i * kPatchEdge + 1) * outputs, outputs, bias_sums);
    }
    for (int64_t place = 0; place < kPlaces; ++place)
      add_outer(call.inputs, call.outputs, tiles, v + place * job.place_x, inputs, u + place * job.place_g, outputs,
                sums + place * call.inputs * outputs);
  }
}

// Gradients of the weights of input channels [begin, end): the sums of all threads, in order, transformed back. The
// first of them reduces the bias's too.
inline void reduce_weight_gradient(const void* pointer, Span span) {
  const WinogradGradientJob& job = *static_cast<const WinogradGradientJob*>(pointer);
  const WinogradGradientCall& call = *job.call;
  const int64_t outputs = padded(call.outputs);
  const float* sums = job.scratch + job.scratch_floats - job.sum_floats;
  for (int64_t in = span.begin; in < span.end; ++in)
    for (int64_t out = 0; out < call.outputs; out += W) {
      vf s[6][6];
      for (int place = 0; place < kPlaces; ++place) {
        vf total = {};
        for (int thread = 0; thread < job.threads; ++thread)
          total += load(sums + thread * job.scratch_floats + (place * call.inputs + in) * outputs + out);
        s[place / 6][place % 6] = total * static_cast<float>(kFactor[place / 6] * kFactor[place % 6]);
      }
      transform_square<6, 3, transform_sums>([&](int i, int j) __attribute__((always_inline)) { return s[i][j]; },
                                             [&](int i, int j, vf tap) __attribute__((always_inline)) {
                                               for (int lane = 0; lane < W && out + lane < call.outputs; ++lane)
                                                 call.dweight[((out + lane) * call.inputs + in) * 9 + i * 3 + j] =
                                                     tap[lane];
                                             });
    }
  if (span.begin > 0) return;
  for (int64_t out = 0; out < call.outputs; ++out) {
    float s = 0;
    for (int thread = 0; thread < job.threads; ++thread)
      s += sums[thread * job.scratch_floats + kPlaces * call.inputs * outputs + out];
    call.dbias[out] = s;
  }
}
#endif
