// SPDX-License-Identifier: Apache-2.0
// See half_attention.h. The instruction set here goes beyond those of each_isa.h, so that every function names its own.
#include "half_attention.h"

namespace rvrt {
namespace {

float low_half(uint32_t pair) {
  const uint32_t bits = pair << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float high_half(uint32_t pair) {
  const uint32_t bits = pair & 0xffff0000u;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float product_of_pairs(uint32_t a, uint32_t b, float sum) {
  return sum + low_half(a) * low_half(b) + high_half(a) * high_half(b);
}

void emulated_scores(const HalfScores& job) {
  const HalfSamples& s = job.samples;
  const int64_t segment = s.width / s.heads;
  for (int64_t i = 0; i < s.pixels; ++i)
    for (int64_t n = 0; n < s.count; ++n) {
      const int64_t at = i * s.stride + n;
      const uint32_t* from = s.clip + s.place[at];
      for (int64_t h = 0; h < s.heads; ++h) {
        float total = 0;
        for (int64_t c = h * segment; c < (h + 1) * segment; ++c) {
          const float above = product_of_pairs(from[c], job.weight[0][at], 0.0f);
          total += job.query[i * job.query_stride + c] * product_of_pairs(from[s.down + c], job.weight[1][at], above);
        }
        job.scores[(h * s.pixels + i) * s.count + n] = total;
      }
    }
}

void emulated_sum(const HalfSum& job) {
  const HalfSamples& s = job.samples;
  for (int64_t i = 0; i < s.pixels; ++i)
    for (int64_t c = 0; c < s.width; ++c) {
      const uint32_t* const* weight = job.weight[c * s.heads / s.width];
      float total = 0;
      for (int64_t n = 0; n < s.count; ++n) {
        const uint32_t* from = s.clip + s.place[i * s.stride + n] + c;
        const int64_t at = i * job.weight_stride + n;
        total = product_of_pairs(from[0], weight[0][at], total);
        total = product_of_pairs(from[s.down], weight[1][at], total);
      }
      job.out[i * job.out_stride + c] = total;
    }
}

#ifdef RVRT_X86_BFLOAT16

// Whether vector v has channels of a head.
template <int kVectors, int kHeads>
constexpr bool has(int v, int head) {
  return kHeads == 1 || (2 * v < kVectors * (head + 1) && 2 * (v + 1) > kVectors * head);
}

// Lanes of vector v that are channels of a head.
template <int kVectors, int kHeads>
constexpr uint16_t lanes_of(int v, int head) {
  const bool shared = has<kVectors, kHeads>(v, 0) && has<kVectors, kHeads>(v, 1);
  return kHeads == 1 || !shared ? 0xffff : head ? 0xff00 : 0x00ff;
}

// Lane i is the sum of the lanes of vector i at p.
RVRT_TARGET_BF16 inline __m512 sums_of_lanes(const float* p) {
  __m512 quarters[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i, p += 64) {
    const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
    const __m512 c = _mm512_loadu_ps(p + 32), d = _mm512_loadu_ps(p + 48);
    const __m512d ab = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512d cd = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    quarters[i] = _mm512_add_ps((__m512)_mm512_unpacklo_pd(ab, cd), (__m512)_mm512_unpackhi_pd(ab, cd));
  }
  __m512 halves[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512 a = quarters[2 * i], b = quarters[2 * i + 1];
    halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  return _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                       _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
}

RVRT_TARGET_BF16 inline __m512bh pairs_at(const uint32_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
RVRT_TARGET_BF16 inline __m512bh same_pairs(uint32_t pair) {
  return (__m512bh)_mm512_set1_epi32(static_cast<int>(pair));
}

template <int kVectors, int kHeads>
RVRT_TARGET_BF16 void avx512_scores(const HalfScores& job) {
  const HalfSamples& s = job.samples;
  const int64_t all = s.pixels * s.count, vectors = round_up(all, 16) * 16;
  float* partial = job.scratch;
  for (int64_t i = 0; i < s.pixels; ++i) {
    __m512 query[kHeads][kVectors];
#pragma GCC unroll 2
    for (int h = 0; h < kHeads; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        query[h][v] =
            _mm512_maskz_loadu_ps(lanes_of<kVectors, kHeads>(v, h), job.query + i * job.query_stride + 16 * v);
    for (int64_t n = 0; n < s.count; ++n, partial += 16) {
      const int64_t at = i * s.stride + n;
      const uint32_t* from = s.clip + s.place[at];
      const __m512bh above = same_pairs(job.weight[0][at]), below = same_pairs(job.weight[1][at]);
      __m512 sums[kHeads] = {};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        __m512 sample = _mm512_dpbf16_ps(_mm512_setzero_ps(), pairs_at(from + 16 * v), above);
        sample = _mm512_dpbf16_ps(sample, pairs_at(from + s.down + 16 * v), below);
#pragma GCC unroll 2
        for (int h = 0; h < kHeads; ++h)
          if (has<kVectors, kHeads>(v, h)) sums[h] = _mm512_fmadd_ps(query[h][v], sample, sums[h]);
      }
#pragma GCC unroll 2
      for (int h = 0; h < kHeads; ++h) _mm512_storeu_ps(partial + h * vectors, sums[h]);
    }
  }
  for (int h = 0; h < kHeads; ++h)
    for (int64_t n = 0; n < all; n += 16) {
      const __mmask16 mask = all - n < 16 ? (1 << (all - n)) - 1 : 0xffff;
      _mm512_mask_storeu_ps(job.scores + h * all + n, mask, sums_of_lanes(job.scratch + h * vectors + 16 * n));
    }
}

template <int kVectors, int kHeads>
RVRT_TARGET_BF16 void avx512_sum(const HalfSum& job) {
  const HalfSamples& s = job.samples;
  for (int64_t i = 0; i < s.pixels; ++i) {
    __m512 above[kVectors] = {}, below[kVectors] = {};
    for (int64_t n = 0; n < s.count; ++n) {
      const uint32_t* from = s.clip + s.place[i * s.stride + n];
      __m512bh weight[2][kHeads];
#pragma GCC unroll 2
      for (int h = 0; h < kHeads; ++h)
        for (int row = 0; row < 2; ++row) weight[row][h] = same_pairs(job.weight[h][row][i * job.weight_stride + n]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        constexpr int last = kHeads - 1;
        const bool first = has<kVectors, kHeads>(v, 0), second = kHeads == 2 && has<kVectors, kHeads>(v, 1);
        __m512bh chosen[2];
        for (int row = 0; row < 2; ++row)
          chosen[row] = first && second ? (__m512bh)_mm512_mask_blend_epi32(0xff00, (__m512i)weight[row][0],
                                                                            (__m512i)weight[row][last])
                                        : weight[row][first ? 0 : last];
        above[v] = _mm512_dpbf16_ps(above[v], pairs_at(from + 16 * v), chosen[0]);
        below[v] = _mm512_dpbf16_ps(below[v], pairs_at(from + s.down + 16 * v), chosen[1]);
      }
    }
    for (int v = 0; v < kVectors; ++v)
      _mm512_storeu_ps(job.out + i * job.out_stride + 16 * v, _mm512_add_ps(above[v], below[v]));
  }
}

template <int kHeads>
void avx512_scores_of_width(const HalfScores& job) {
  switch (job.samples.width / 16) {
    case 1:
      return avx512_scores<1, kHeads>(job);
    case 2:
      return avx512_scores<2, kHeads>(job);
    case 3:
      return avx512_scores<3, kHeads>(job);
    default:
      return avx512_scores<4, kHeads>(job);
  }
}

template <int kHeads>
void avx512_sum_of_width(const HalfSum& job) {
  switch (job.samples.width / 16) {
    case 1:
      return avx512_sum<1, kHeads>(job);
    case 2:
      return avx512_sum<2, kHeads>(job);
    case 3:
      return avx512_sum<3, kHeads>(job);
    default:
      return avx512_sum<4, kHeads>(job);
  }
}

#endif

}  // namespace

void half_scores(const HalfScores& job) {
#ifdef RVRT_X86_BFLOAT16
  if (operands() != kEmulated)
    return job.samples.heads == 1 ? avx512_scores_of_width<1>(job) : avx512_scores_of_width<2>(job);
#endif
  emulated_scores(job);
}

void half_sum(const HalfSum& job) {
#ifdef RVRT_X86_BFLOAT16
  if (operands() != kEmulated)
    return job.samples.heads == 1 ? avx512_sum_of_width<1>(job) : avx512_sum_of_width<2>(job);
#endif
  emulated_sum(job);
}

}  // namespace rvrt
