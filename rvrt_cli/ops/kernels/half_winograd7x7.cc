// SPDX-License-Identifier: Apache-2.0
// 7x7 convolution by Winograd's algorithm (winograd7x7.cc) with bfloat16 operands, in inference on processors with AVX512-BF16
// but no AMX. As in half_winograd.cc, transforms and sums are float32; V and U are rounded as they are stored.
#ifndef RVRT_ISA

#include "bfloat16.h"
#include "wide_grid.h"

#define RVRT_KERNEL "half_winograd7x7.cc"
#define RVRT_HALF_KERNEL
#include "each_isa.h"

namespace rvrt {

int half_winograd_7x7_convolve(const WinogradCall& call) {
  WideJob job(call, RVRT_HALF_DISPATCH(W), sizeof(uint16_t));
  return run_wide(job, RVRT_HALF_DISPATCH(half_weights), job.depth / 2, job.weights() / 2,
                  RVRT_HALF_DISPATCH(half_bands));
}

}  // namespace rvrt

#else

#include "simd.h"
#include "gemm.h"
#include "half_gemm.h"
#include "winograd_math.h"
#include "wide_tiles.h"

struct PairProducts {
  using Number = uint16_t;
  using Weight = uint32_t;
  static constexpr int kChannels = 2;
  static void store_weights(uint32_t* to, const float (&u)[2][kParts][kPlaces * W], int part, int place) {
    store_pairs(to, load(u[0][part] + place * W), load(u[1][part] + place * W));
  }
  static void multiply(int64_t rows, int width, int64_t pairs, const uint16_t* a, int64_t lda, const uint32_t* b,
                       const float* start, int64_t lds, float* c, int64_t ldc) {
    pair_product({rows, width, pairs, a, lda, b, start, lds, c, ldc});
  }
};

inline void half_weights(const void* pointer, Span span) { transform_wide_weights<PairProducts>(pointer, span); }
inline void half_bands(const void* pointer, Span span) { wide_bands<PairProducts>(pointer, span); }

#endif
