// SPDX-License-Identifier: Apache-2.0
// 7x7 convolution, that of SpyNet, by Winograd's minimal filtering F(3x3, 4x4): 16 products per pixel and pair of channels in
// place of 49.
//
// The kernel is cut into four of 4x4 taps, the middle row and column in the first of two. A tile of 3x3 output pixels takes
// them from four patches of 6x6 input pixels that begin 0 or 3 pixels from its corner: as the tiles are 3 pixels apart too,
// these are the patches of the tile itself and of its neighbors, and each is transformed once. The four products are summed
// before the transform back. Points and matrices are those of winograd.cc, where the weights' gradient has the same form.
#ifndef RVRT_ISA

#include "wide_grid.h"

#define RVRT_KERNEL "winograd7x7.cc"
#include "each_isa.h"

namespace rvrt {

bool winograd_7x7_suits(int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kh, int64_t kw) {
  const int64_t lanes = RVRT_DISPATCH(W);
  return kh == kKernelEdge && kw == kKernelEdge && inputs >= lanes && outputs >= lanes && height >= 12 && width >= 12;
}

int winograd_7x7_convolve(const WinogradCall& call) {
  WideJob job(call, RVRT_DISPATCH(W), sizeof(float));
  return run_wide(job, RVRT_DISPATCH(transform_wide_weights), job.depth, job.weights(), RVRT_DISPATCH(float_bands));
}

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "winograd_math.h"
#include "wide_tiles.h"

// The weights of input channels [begin, end).
inline void transform_wide_weights(const void* pointer, Span span) {
  const WideWeightsJob& job = *static_cast<const WideWeightsJob*>(pointer);
  const int64_t all = vectors(job.outputs), matrix = 2 * job.depth * all * W;
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    for (int64_t in = span.begin; in < span.end; ++in)
      for (int j = 0; j < width; ++j)
        transform_wide_filters(job, in, (v + j) * W, [&](int part, const float* places) {
          const int64_t row = part % 2 * job.depth + in;
          float* to =
              static_cast<float*>(job.packed) + part / 2 * matrix + v * W * 2 * job.depth + (row * width + j) * W;
          for (int place = 0; place < kPatchPlaces; ++place) store(to + place * 2 * matrix, load(places + place * W));
        });
    v += width;
  }
}

// The products of a block of `rows` x `columns` tiles, whose rows lie `columns` + 1 patches apart: the last tile of each but
// the last is none, and its products are not read.
inline void multiply_block(const WideJob& job, int64_t rows, int64_t columns, const float* v, float* m) {
  const int64_t all = vectors(job.call->outputs), ldm = job.outputs, depth = 2 * job.depth, matrix = depth * ldm;
  const int64_t line = columns + 1, tiles = rows * line - 1;
  const float zeros[kPanelFloats] = {};
  for (int64_t place = 0; place < kPatchPlaces; ++place)
    for (int64_t first = 0; first < all;) {
      const int width = panel_vectors(all - first);
      const float* a = v + place * job.place_v;
      const float* b = static_cast<const float*>(job.packed) + 2 * place * matrix + first * W * depth;
      float* c = m + place * job.place_m + first * W;
      // A tile's left and right patch lie side by side.
      product({tiles, width, depth, a, job.depth, b, width * W, zeros, 0, c, ldm});
      product({tiles, width, depth, a + line * job.depth, job.depth, b + matrix, width * W, c, ldm, c, ldm});
      first += width;
    }
}

inline void float_bands(const void* pointer, Span span) { wide_bands<float, multiply_block>(pointer, span); }

#endif
