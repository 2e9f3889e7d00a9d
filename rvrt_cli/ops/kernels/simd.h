// SPDX-License-Identifier: Apache-2.0
// Vectors of RVRT_LANES floats through the compiler's vector extensions; included once per instruction set inside its
// namespace (kernel.h), hence no include guard. Every function is `static inline` so that it belongs to its namespace's
// instruction set.

constexpr int W = RVRT_LANES;               // floats in a vector
constexpr int kRegisters = RVRT_REGISTERS;  // vector registers

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef float vf_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef float v4 __attribute__((vector_size(16)));
typedef float v4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i4 __attribute__((vector_size(16)));

#define RVRT_INLINE static inline __attribute__((always_inline))

RVRT_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
RVRT_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
RVRT_INLINE vi load(const int32_t* p) { return *reinterpret_cast<const vi_unaligned*>(p); }
RVRT_INLINE void store(int32_t* p, vi v) { *reinterpret_cast<vi_unaligned*>(p) = v; }
RVRT_INLINE v4 load4(const float* p) { return *reinterpret_cast<const v4_unaligned*>(p); }
RVRT_INLINE void store4(float* p, v4 v) { *reinterpret_cast<v4_unaligned*>(p) = v; }
RVRT_INLINE vf set1(float x) { return x - vf{}; }  // not x + vf{}: that would turn -0 into 0 and cost an addition
// b where either is NaN, as a > b ? a : b would be, of which gcc makes two instructions
#if RVRT_LANES == 16
RVRT_INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
RVRT_INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif RVRT_LANES == 8
RVRT_INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
RVRT_INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
RVRT_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
RVRT_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
#endif

// Across the lanes, quarters first: no chain of W steps.
RVRT_INLINE float sum(vf v) {
  float s[W];
  store(s, v);
  v4 t = load4(s);
  for (int i = 4; i < W; i += 4) t += load4(s + i);
  return (t[0] + t[1]) + (t[2] + t[3]);
}

RVRT_INLINE float highest(vf v) {
  float s[W];
  store(s, v);
  v4 t = load4(s);
  for (int i = 4; i < W; i += 4) {
    const v4 other = load4(s + i);
    t = t > other ? t : other;
  }
  const float a = t[0] > t[1] ? t[0] : t[1], b = t[2] > t[3] ? t[2] : t[3];
  return a > b ? a : b;
}

constexpr float kLog2e = 1.44269504088896340736f;

// 2^x for x <= 127, to about 2e-7; below -64 it stays at 2^-64, negligible beside the largest weight of a softmax, but
// far from denormal numbers, on which Intel processors multiply twenty times slower. x = n + r with n the nearest
// integer; 2^r by the polynomial of degree 5 with the least largest relative error on [-1/2, 1/2] (9.2e-8), 2^n by
// adding to the exponent.
RVRT_INLINE vf exp2(vf x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, kept in the low bits
  x = vmax(x, set1(-64.0f));
  const vf t = x + magic;
  const vf r = x - (t - magic);
  vf p = r * 1.326472731307149e-3f + 9.671512991189957e-3f;
  p = p * r + 5.550733581185341e-2f;
  p = p * r + 2.4022242426872253e-1f;
  p = p * r + 6.931470036506653e-1f;
  p = p * r + 1.0f;
  return (vf)((vu)p + ((vu)t << 23));
}

#if defined(__clang__)
#define RVRT_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define RVRT_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, i4{i, j, k, l})
#endif

// Rows a, b, c, d of a 4x4 block become its columns.
RVRT_INLINE void transpose4(v4& a, v4& b, v4& c, v4& d) {
  const v4 ab = RVRT_SHUFFLE4(a, b, 0, 4, 1, 5), ab2 = RVRT_SHUFFLE4(a, b, 2, 6, 3, 7);
  const v4 cd = RVRT_SHUFFLE4(c, d, 0, 4, 1, 5), cd2 = RVRT_SHUFFLE4(c, d, 2, 6, 3, 7);
  a = RVRT_SHUFFLE4(ab, cd, 0, 1, 4, 5);
  b = RVRT_SHUFFLE4(ab, cd, 2, 3, 6, 7);
  c = RVRT_SHUFFLE4(ab2, cd2, 0, 1, 4, 5);
  d = RVRT_SHUFFLE4(ab2, cd2, 2, 3, 6, 7);
}

// Quarter q of the result is the four floats at p + q * step.
RVRT_INLINE vf load_quarters(const float* p, int64_t step) {
#if RVRT_LANES == 16
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + step), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 2 * step), 2);
  return (vf)_mm512_insertf32x4(v, _mm_loadu_ps(p + 3 * step), 3);
#elif RVRT_LANES == 8
  return (vf)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1);
#else
  (void)step;
  return load(p);
#endif
}

// In every quarter of four lanes: rows a, b, c, d of a 4x4 block become its columns.
RVRT_INLINE void transpose_quarters(vf (&r)[4]) {
#if RVRT_LANES == 16
  const __m512d ab = (__m512d)_mm512_unpacklo_ps((__m512)r[0], (__m512)r[1]);
  const __m512d ab2 = (__m512d)_mm512_unpackhi_ps((__m512)r[0], (__m512)r[1]);
  const __m512d cd = (__m512d)_mm512_unpacklo_ps((__m512)r[2], (__m512)r[3]);
  const __m512d cd2 = (__m512d)_mm512_unpackhi_ps((__m512)r[2], (__m512)r[3]);
  r[0] = (vf)_mm512_unpacklo_pd(ab, cd), r[1] = (vf)_mm512_unpackhi_pd(ab, cd);
  r[2] = (vf)_mm512_unpacklo_pd(ab2, cd2), r[3] = (vf)_mm512_unpackhi_pd(ab2, cd2);
#elif RVRT_LANES == 8
  const __m256d ab = (__m256d)_mm256_unpacklo_ps((__m256)r[0], (__m256)r[1]);
  const __m256d ab2 = (__m256d)_mm256_unpackhi_ps((__m256)r[0], (__m256)r[1]);
  const __m256d cd = (__m256d)_mm256_unpacklo_ps((__m256)r[2], (__m256)r[3]);
  const __m256d cd2 = (__m256d)_mm256_unpackhi_ps((__m256)r[2], (__m256)r[3]);
  r[0] = (vf)_mm256_unpacklo_pd(ab, cd), r[1] = (vf)_mm256_unpackhi_pd(ab, cd);
  r[2] = (vf)_mm256_unpacklo_pd(ab2, cd2), r[3] = (vf)_mm256_unpackhi_pd(ab2, cd2);
#else
  transpose4(r[0], r[1], r[2], r[3]);
#endif
}

// Lane i of the result is the sum over the lanes of r[i], which are overwritten.
RVRT_INLINE vf sum_each(vf (&r)[W]) {
#if RVRT_LANES == 4
  transpose4(r[0], r[1], r[2], r[3]);
  return (r[0] + r[1]) + (r[2] + r[3]);
#else
#pragma GCC unroll 4
  for (int i = 0; i < W; i += 4) {  // the sums of quarters, four to a quarter
    vf q[4] = {r[i], r[i + 1], r[i + 2], r[i + 3]};
    transpose_quarters(q);
    r[i / 4] = (q[0] + q[1]) + (q[2] + q[3]);
  }
#if RVRT_LANES == 16
  const auto add_pairs = [](vf a, vf b) __attribute__((always_inline)) {
    return (vf)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x88) + (vf)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xdd);
  };
  return add_pairs(add_pairs(r[0], r[1]), add_pairs(r[2], r[3]));
#else
  return (vf)_mm256_permute2f128_ps((__m256)r[0], (__m256)r[1], 0x20) +
         (vf)_mm256_permute2f128_ps((__m256)r[0], (__m256)r[1], 0x31);
#endif
#endif
}

// The numbers at even and at odd places of 2 * W at p.
RVRT_INLINE void split_pairs(const float* p, vf& even, vf& odd) {
  const vf a = load(p), b = load(p + W);
#if RVRT_LANES == 16
  const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  even = (vf)_mm512_permutex2var_ps((__m512)a, evens, (__m512)b);
  odd = (vf)_mm512_permutex2var_ps((__m512)a, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), (__m512)b);
#elif RVRT_LANES == 8
  const __m256 low = _mm256_permute2f128_ps((__m256)a, (__m256)b, 0x20);
  const __m256 high = _mm256_permute2f128_ps((__m256)a, (__m256)b, 0x31);
  even = (vf)_mm256_shuffle_ps(low, high, 0x88), odd = (vf)_mm256_shuffle_ps(low, high, 0xdd);
#else
  even = RVRT_SHUFFLE4(a, b, 0, 2, 4, 6), odd = RVRT_SHUFFLE4(a, b, 1, 3, 5, 7);
#endif
}

// A strip of `rows` = W (wide) or 4 rows of `transpose`.
template <bool WIDE>
RVRT_INLINE void transpose_strip(const float* from, int64_t from_stride, int64_t columns, float factor, float* to,
                                 int64_t to_stride) {
  int64_t c = 0;
  for (; c + 4 <= columns; c += 4) {
    if (WIDE) {
      vf r[4];
      for (int u = 0; u < 4; ++u) r[u] = load_quarters(from + u * from_stride + c, 4 * from_stride) * factor;
      transpose_quarters(r);
      for (int u = 0; u < 4; ++u) store(to + (c + u) * to_stride, r[u]);
    } else {
      v4 r[4];
      for (int u = 0; u < 4; ++u) r[u] = load4(from + u * from_stride + c) * factor;
      transpose4(r[0], r[1], r[2], r[3]);
      for (int u = 0; u < 4; ++u) store4(to + (c + u) * to_stride, r[u]);
    }
  }
  for (; c < columns; ++c)
    for (int u = 0; u < (WIDE ? W : 4); ++u) to[c * to_stride + u] = from[u * from_stride + c] * factor;
}

// to[c * to_stride + i] = from[i * from_stride + c] * factor for `rows` i and `columns` c.
RVRT_INLINE void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float factor,
                           float* to, int64_t to_stride) {
  int64_t i = 0;
  for (; i + W <= rows; i += W)
    transpose_strip<true>(from + i * from_stride, from_stride, columns, factor, to + i, to_stride);
  for (; i + 4 <= rows; i += 4)
    transpose_strip<false>(from + i * from_stride, from_stride, columns, factor, to + i, to_stride);
  for (; i < rows; ++i)
    for (int64_t c = 0; c < columns; ++c) to[c * to_stride + i] = from[i * from_stride + c] * factor;
}
