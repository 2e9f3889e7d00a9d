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
  return run_wide(job, RVRT_DISPATCH(float_weights), job.depth, job.weights(), RVRT_DISPATCH(float_bands));
}

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "winograd_math.h"
#include "wide_tiles.h"

struct FloatProducts {
  using Number = float;
  using Weight = float;
  static constexpr int kChannels = 1;
  static void store_weights(float* to, const float (&u)[1][kParts][kPlaces * W], int part, int place) {
    store(to, load(u[0][part] + place * W));
  }
  static void multiply(int64_t rows, int width, int64_t depth, const float* a, int64_t lda, const float* b,
                       const float* start, int64_t lds, float* c, int64_t ldc) {
    product({rows, width, depth, a, lda, b, width * W, start, lds, c, ldc});
  }
};

inline void float_weights(const void* pointer, Span span) { transform_wide_weights<FloatProducts>(pointer, span); }
inline void float_bands(const void* pointer, Span span) { wide_bands<FloatProducts>(pointer, span); }

#endif
