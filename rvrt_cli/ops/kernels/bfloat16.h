// SPDX-License-Identifier: Apache-2.0
// Matrix products of bfloat16 operands with float32 sums, by AMX, AVX512-BF16 or plain code.
#pragma once

#include "kernel.h"

namespace rvrt {

#if defined(__x86_64__) && !defined(RVRT_PORTABLE_ONLY) && (!defined(__GNUC__) || defined(__clang__) || __GNUC__ >= 11)
#define RVRT_X86_BFLOAT16
#endif

// How products of bfloat16 operands are computed; kFloat32: operands keep float32, the default. Plain code emulates AMX, or
// (kEmulatedPairs) what AVX512-BF16 computes where there is no AMX.
enum Operands { kFloat32 = 0, kEmulated = 1, kAvx512Bf16 = 2, kAmx = 3, kEmulatedPairs = 4 };
Operands operands();

// Without AMX, pairs of bfloat16 are multiplied in vectors: convolutions 3x3 then are Winograd's.
inline bool multiplies_pairs() { return operands() == kAvx512Bf16 || operands() == kEmulatedPairs; }

// A matrix on the right is packed in panels of 32 columns. A panel holds, for each 32 rows, two tiles of 16 pairs of
// rows by 16 columns, in each of which the two elements of a pair lie side by side: what AMX multiplies.
constexpr int64_t kHalfDepth = 32, kHalfColumns = 32, kHalfTile = 512;

// c[i, j] = start[j] + the sum over t < taps and k < depth of a[i * lda + t * tap_stride + k] * b[t, k, j], for 32 columns
// j. With `tap_rows`, tap t reads tap_rows[t] in place of a + t * tap_stride. `depth` is a multiple of 32. Rows of a are
// read and rows of c written up to a multiple of 16.
struct HalfProduct {
  int64_t rows, depth, taps;
  const uint16_t* a;
  int64_t lda, tap_stride;
  const uint16_t* b;
  const float* start;
  float* c;
  int64_t ldc;
  const uint16_t* const* tap_rows = nullptr;

  const uint16_t* tap(int64_t t) const { return tap_rows ? tap_rows[t] : a + t * tap_stride; }
};

void half_product(const HalfProduct& p);

// Packs weight (outputs, inputs, kh, kw) for `kh` taps of depth round_up(kw * inputs, 32): element kx * inputs + c of tap
// ky. `packed` holds `floats` floats.
struct HalfPackJob {
  const float* weight;
  int64_t inputs, outputs, kh, kw;
  uint16_t* packed;
  int64_t depth() const { return round_up(kw * inputs, kHalfDepth); }
  int64_t panels() const { return ceil_div(outputs, kHalfColumns); }
  int64_t panel_elements() const { return kh * depth() * kHalfColumns; }
  int64_t floats() const { return panels() * panel_elements() / 2; }
};

void pack_half(const HalfPackJob& job);

// Memory of this thread that is kept between calls; null if there is too little.
float* half_scratch(int64_t floats);

// To the nearest bfloat16, ties to even; the processor's instruction takes denormal numbers for zeros, as its products do.
void round_to_half(const float* from, int64_t count, uint16_t* to);

// The same of `scale` times `pixels` of `channels` numbers, `stride` apart in `to`.
void round_pixels(const float* from, int64_t pixels, int64_t channels, float scale, uint16_t* to, int64_t stride);

inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if (x != x) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace rvrt
