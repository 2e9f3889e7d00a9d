// SPDX-License-Identifier: Apache-2.0
// Products of matrices of bfloat16 with float32 sums by pairs (AVX512-BF16, or plain code that emulates it). Include after
// gemm.h, once per instruction set, inside its namespace, in a file compiled with RVRT_HALF_KERNEL.
//
// The depth is a number of pairs. Rows of the left matrix are bfloat16 as they are; a panel of the right one, of at most
// kPanel vectors of columns, holds for each pair of its rows the two numbers of each column side by side, as 32 bits.

// Each lane of `right` and of `left` is a pair: sums + the products of both.
RVRT_INLINE vf add_pairs(vf sums, vu left, vu right) {
#ifdef RVRT_HALF_PRODUCTS
  return (vf)_mm512_dpbf16_ps((__m512)sums, (__m512bh)left, (__m512bh)right);
#else
  sums += (vf)(left & 0xffff0000u) * (vf)(right & 0xffff0000u);
  return sums + (vf)(left << 16) * (vf)(right << 16);
#endif
}

RVRT_INLINE vu load_pairs(const uint32_t* p) { return (vu)load(reinterpret_cast<const int32_t*>(p)); }

// The pair of two numbers side by side at p, in all lanes.
RVRT_INLINE vu one_pair(const void* p) {
  uint32_t both;
  std::memcpy(&both, p, sizeof(both));
  return vu{} + both;
}

// To the nearest bfloat16, ties to even, in the upper half of each lane.
RVRT_INLINE vu rounded_bits(vf x) {
  const vu bits = (vu)x;
  const vu nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  return x == x ? nearest : vu{} + 0x7fc00000u;
}

typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef uint16_t vh_unaligned __attribute__((vector_size(2 * W), aligned(2), may_alias));

// A vector as bfloat16.
RVRT_INLINE void store(uint16_t* p, vf v) {
#ifdef RVRT_HALF_PRODUCTS
  *reinterpret_cast<vh_unaligned*>(p) = (vh)_mm512_cvtneps_pbh((__m512)v);
#else
  *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector(rounded_bits(v) >> 16, vh);
#endif
}

// The numbers of two vectors side by side, each pair as 32 bits.
RVRT_INLINE void store_pairs(uint32_t* p, vf first, vf second) {
#ifdef RVRT_HALF_PRODUCTS
  alignas(64) static const uint16_t kPlaces[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(kPlaces), both));
#else
  store(reinterpret_cast<int32_t*>(p), (vi)(rounded_bits(second) | (rounded_bits(first) >> 16)));
#endif
}

// Rows of `a` as bfloat16, with zeros up to `ld`.
inline void round_rows(int64_t rows, int64_t columns, const float* a, int64_t lda, uint16_t* out, int64_t ld) {
  for (int64_t i = 0; i < rows; ++i, a += lda, out += ld)
    for (int64_t j = 0; j < columns; j += W) store(out + j, load_row(a, j, columns));
}

// c[i, j] = start[i, j] + the sum over k < 2 * pairs of a[i * lda + k] * b[k, j] + residual[i, j] (none if null), for `rows`
// rows and `width` vectors of columns; lds 0 adds the same row to all.
struct PairProduct {
  int64_t rows;
  int width;
  int64_t pairs;
  const uint16_t* a;
  int64_t lda;
  const uint32_t* b;
  const float* start;
  int64_t lds;
  float* c;
  int64_t ldc;
  const float* residual = nullptr;
  int64_t ldr = 0;
};

template <int kRows, int kWidth>
__attribute__((noinline)) void pair_tile(const PairProduct& p, int64_t row) {
  const uint16_t* __restrict a = p.a + row * p.lda;
  const uint32_t* __restrict b = p.b;
  const float* start = p.start + row * p.lds;
  const int64_t lda = p.lda;
  vf sums[kRows][kWidth];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; ++j) sums[i][j] = load(start + i * p.lds + j * W);
  }
  for (int64_t k = p.pairs; k > 0; --k) {
    vu right[kWidth];
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; ++j) right[j] = load_pairs(b + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const vu left = one_pair(a + i * lda);
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) sums[i][j] = add_pairs(sums[i][j], left, right[j]);
    }
    a += 2;
    b += kWidth * W;
  }
  if (p.residual) {
    const float* residual = p.residual + row * p.ldr;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) sums[i][j] += load(residual + i * p.ldr + j * W);
    }
  }
  float* c = p.c + row * p.ldc;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; ++j) store(c + i * p.ldc + j * W, sums[i][j]);
  }
}

struct PairTiles {
  using Product = PairProduct;
  using Call = void (*)(const Product&, int64_t);
  template <int kRows, int kWidth>
  static constexpr Call call = pair_tile<kRows, kWidth>;
};

inline void pair_product(const PairProduct& p) { all_tiles<PairTiles>(p); }
