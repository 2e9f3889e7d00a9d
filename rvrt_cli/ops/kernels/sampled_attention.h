// SPDX-License-Identifier: Apache-2.0
// Attention of one pixel to its bilinear samples of a compact clip: scores, softmax and weighted sum, with channels along
// the lanes. Include after simd.h, once per instruction set, inside its namespace.

// One axis: where the first of two pixels is in a padded row or column, their weights and the weights' derivatives.
// Coordinates are clamped before they become integers, so any float is safe; beyond the padding all weights are zero.
RVRT_INLINE vi axis(vf at, int64_t size, vf (&weight)[2], vf (&slope)[2]) {
  const int32_t length = static_cast<int32_t>(size);
  const vf limited = vmin(vmax(at, set1(-2.0f)), set1(static_cast<float>(length + 1)));
  vi first = __builtin_convertvector(limited, vi);
  first += __builtin_convertvector(first, vf) > limited;  // truncation to floor; true is -1
  const vf part = limited - __builtin_convertvector(first, vf);
  const vf one = set1(1.0f);
  for (int i = 0; i < 2; ++i) {
    const vi k = first + i, inside = (k >= 0) & (k < length);
    weight[i] = (vf)((vi)(i ? part : one - part) & inside);
    slope[i] = (vf)((vi)(i ? one : -one) & inside);
  }
  const vi padded = first + 1, most = vi{} + length;
  return padded < 0 ? vi{} : padded < most ? padded : most;
}

// Vectors of LANES floats, whatever the instruction set's own width.
template <int LANES>
struct Lanes {
  typedef float vec __attribute__((vector_size(4 * LANES)));
  typedef float vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
  RVRT_INLINE vec get(const float* p) { return *reinterpret_cast<const vec_unaligned*>(p); }
  RVRT_INLINE void put(float* p, vec v) { *reinterpret_cast<vec_unaligned*>(p) = v; }
};

// The samples of a group at one pixel.
struct Samples {
  int64_t count, length;
  const int32_t* place;  // of the group's first sample
  int64_t first;         // where the group's samples begin in the weights
  int64_t right, down;   // floats from a pixel to the next ones

  int64_t corner(int i) const { return i / 2 * down + i % 2 * right; }
};

// The sums over the lanes of four vectors, `step` floats apart, in the order of `sum_each`.
RVRT_INLINE v4 sum_four(const float* partial, int64_t step) {
  vf r[4];
  for (int u = 0; u < 4; ++u) r[u] = load(partial + u * step);
  transpose_quarters(r);
  float quarters[W];
  store(quarters, (r[0] + r[1]) + (r[2] + r[3]));
  v4 total[W / 4];
  for (int q = 0; q < W / 4; ++q) total[q] = load4(quarters + 4 * q);
  for (int q = W / 4; q > 1; q /= 2)
    for (int i = 0; i < q / 2; ++i) total[i] = total[2 * i] + total[2 * i + 1];
  return total[0];
}

// sums[n] += the sum over the lanes of partial[n].
template <int LANES>
RVRT_INLINE void add_lanes(const float* partial, int64_t count, float* sums) {
  for (int64_t n = 0; n < count; n += 4) {
    v4 total;
    if constexpr (LANES == W) {
      total = sum_four(partial + n * LANES, LANES);
    } else {
      v4 r[4];
      for (int u = 0; u < 4; ++u) {
        r[u] = load4(partial + (n + u) * LANES);
        for (int l = 4; l < LANES; l += 4) r[u] += load4(partial + (n + u) * LANES + l);
      }
      transpose4(r[0], r[1], r[2], r[3]);
      total = (r[0] + r[1]) + (r[2] + r[3]);
    }
    store4(sums + n, load4(sums + n) + total);
  }
}

// Sums of the lanes of 16 vectors: those of r[4 * g] to r[4 * g + 3] go to sums + g * step.
template <int LANES>
RVRT_INLINE void sum_lanes(const typename Lanes<LANES>::vec (&r)[16], float* sums, int64_t step) {
#if RVRT_LANES == 16
  if constexpr (LANES == 16) {
    __m512 pairs[8], fours[4];
    for (int i = 0; i < 8; ++i) {
      const __m512 a = (__m512)r[2 * i], b = (__m512)r[2 * i + 1];
      pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (int i = 0; i < 4; ++i) {  // quarters of r[4 * i] to r[4 * i + 3], side by side
      const __m512d a = (__m512d)pairs[2 * i], b = (__m512d)pairs[2 * i + 1];
      fours[i] = _mm512_add_ps((__m512)_mm512_unpacklo_pd(a, b), (__m512)_mm512_unpackhi_pd(a, b));
    }
    const auto halves = [](__m512 a, __m512 b) {
      return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    const __m512 total = halves(halves(fours[0], fours[1]), halves(fours[2], fours[3]));
    _mm_storeu_ps(sums, _mm512_castps512_ps128(total));
    _mm_storeu_ps(sums + step, _mm512_extractf32x4_ps(total, 1));
    _mm_storeu_ps(sums + 2 * step, _mm512_extractf32x4_ps(total, 2));
    _mm_storeu_ps(sums + 3 * step, _mm512_extractf32x4_ps(total, 3));
    return;
  }
#endif
#if RVRT_LANES >= 8
  if constexpr (LANES == 8) {
    for (int g = 0; g < 4; ++g) {
      const __m256* a = (const __m256*)r + 4 * g;
      const __m256d ab = (__m256d)_mm256_add_ps(_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]));
      const __m256d cd = (__m256d)_mm256_add_ps(_mm256_unpacklo_ps(a[2], a[3]), _mm256_unpackhi_ps(a[2], a[3]));
      const __m256 both = _mm256_add_ps((__m256)_mm256_unpacklo_pd(ab, cd), (__m256)_mm256_unpackhi_pd(ab, cd));
      _mm_storeu_ps(sums + g * step, _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1)));
    }
    return;
  }
#endif
  for (int g = 0; g < 4; ++g) {
    float rows[4 * LANES];
    for (int u = 0; u < 4; ++u) Lanes<LANES>::put(rows + u * LANES, r[4 * g + u]);
    v4 total[4];
    for (int u = 0; u < 4; ++u) {
      total[u] = load4(rows + u * LANES);
      for (int l = 4; l < LANES; l += 4) total[u] += load4(rows + u * LANES + l);
    }
    transpose4(total[0], total[1], total[2], total[3]);
    store4(sums + g * step, (total[0] + total[1]) + (total[2] + total[3]));
  }
}

// score[n] += sum_c row[c] * sum_i weight[i][n] * base[place[n] + corner(i)][c], over LANES * VECTORS channels.
template <int LANES, int VECTORS>
RVRT_INLINE void score_chunk(const Samples& s, const float* base, const float* row, const float* const* weight,
                             float* partial, float* score) {
  using L = Lanes<LANES>;
  typename L::vec q[VECTORS];
  for (int v = 0; v < VECTORS; ++v) q[v] = L::get(row + v * LANES);
  for (int64_t n = 0; n < s.count; ++n) {
    const float* p[4];
    float w[4];
    for (int i = 0; i < 4; ++i) p[i] = base + s.place[n] + s.corner(i), w[i] = weight[i][s.first + n];
    typename L::vec sum = {};
    for (int v = 0; v < VECTORS; ++v) {
      const int at = v * LANES;
      const auto sample =
          (L::get(p[0] + at) * w[0] + L::get(p[1] + at) * w[1]) + (L::get(p[2] + at) * w[2] + L::get(p[3] + at) * w[3]);
      sum += q[v] * sample;
    }
    if (LANES < 4)
      for (int l = 0; l < LANES; ++l) score[n] += sum[l];
    else
      L::put(partial + n * LANES, sum);
  }
  if (LANES >= 4) add_lanes<LANES>(partial, s.count, score);
}

// row[c] = sum_n sum_i mixed[i][n] * base[place[n] + corner(i)][c].
template <int LANES, int VECTORS>
RVRT_INLINE void combine_chunk(const Samples& s, const float* base, const float* const* mixed, float* row) {
  using L = Lanes<LANES>;
  typename L::vec sum[VECTORS] = {}, more[VECTORS] = {};
  for (int64_t n = 0; n < s.count; ++n) {
    const float* p[4];
    float w[4];
    for (int i = 0; i < 4; ++i) p[i] = base + s.place[n] + s.corner(i), w[i] = mixed[i][n];
    for (int v = 0; v < VECTORS; ++v) {
      const int at = v * LANES;
      sum[v] += L::get(p[0] + at) * w[0];
      more[v] += L::get(p[1] + at) * w[1];
      sum[v] += L::get(p[2] + at) * w[2];
      more[v] += L::get(p[3] + at) * w[3];
    }
  }
  for (int v = 0; v < VECTORS; ++v) L::put(row + v * LANES, sum[v] + more[v]);
}

// Calls chunk<LANES, VECTORS>(first channel) over a segment of WIDTH channels, or of `width` where WIDTH is 0.
template <int WIDTH, typename Chunk>
RVRT_INLINE void over_segment(int64_t width, const Chunk& chunk) {
  constexpr int kLanes = WIDTH % 16 == 0 && W >= 16 ? 16 : WIDTH % 8 == 0 && W >= 8 ? 8 : 4;
  if constexpr (WIDTH > 0) {
    chunk.template run<kLanes, WIDTH / kLanes>(0);
  } else {
    int64_t c = 0;
    for (; c + 4 <= width; c += 4) chunk.template run<4, 1>(c);
    for (; c < width; ++c) chunk.template run<1, 1>(c);
  }
}

struct ScoreChunk {
  const Samples& s;
  const float *base, *row, *const *weight;
  float *partial, *score;
  template <int LANES, int VECTORS>
  void run(int64_t c) const {
    score_chunk<LANES, VECTORS>(s, base + c, row + c, weight, partial, score);
  }
};

struct CombineChunk {
  const Samples& s;
  const float *base, *const *mixed;
  float* row;
  template <int LANES, int VECTORS>
  void run(int64_t c) const {
    combine_chunk<LANES, VECTORS>(s, base + c, mixed, row + c);
  }
};

// Scores of one head -> weights of its softmax, zero beyond the last sample.
RVRT_INLINE void softmax(int64_t count, int64_t length, float* p) {
  std::fill(p + count, p + length, -3e38f);
  vf most = load(p), total = {};
  for (int64_t n = W; n < length; n += W) most = vmax(most, load(p + n));
  const float top = highest(most);
  for (int64_t n = 0; n < length; n += W) store(p + n, exp2((load(p + n) - top) * kLog2e));
  std::fill(p + count, p + length, 0.0f);
  for (int64_t n = 0; n < length; n += W) total += load(p + n);
  const float inverse = 1.0f / sum(total);
  for (int64_t n = 0; n < length; n += W) store(p + n, load(p + n) * inverse);
}

// Two heads of SEGMENT channels each that share one group of samples, together in vectors: head 0, then head 1.
template <int SEGMENT>
struct HeadPair {
  static constexpr int kWidth = 2 * SEGMENT;
  static constexpr int kLanes = kWidth % 16 == 0 && W >= 16 ? 16 : kWidth % 8 == 0 && W >= 8 ? 8 : 4;
  static constexpr int kVectors = kWidth / kLanes;
  using L = Lanes<kLanes>;
  using vec = typename L::vec;

  // Whether vector v has channels of a head.
  static constexpr bool has(int v, int head) {
    return v * kLanes < (head + 1) * SEGMENT && (v + 1) * kLanes > head * SEGMENT;
  }

  RVRT_INLINE vec sample(const float* p, const Samples& s, const float* w) {
    return (L::get(p) * w[0] + L::get(p + s.right) * w[1]) +
           (L::get(p + s.down) * w[2] + L::get(p + s.down + s.right) * w[3]);
  }

  // Scores of both heads at p and p + s.length; `partial` (length, 2, kLanes).
  RVRT_INLINE void scores(const Samples& s, const float* base, const float* row, const float* const* weight,
                          float* partial, float* p) {
    float rows[2][kWidth] = {};  // the query, zero in the channels of the other head
    for (int h = 0; h < 2; ++h) std::copy(row + h * SEGMENT, row + (h + 1) * SEGMENT, rows[h] + h * SEGMENT);
    vec q[2][kVectors];
    for (int h = 0; h < 2; ++h)
      for (int v = 0; v < kVectors; ++v) q[h][v] = L::get(rows[h] + v * kLanes);
    for (int64_t n = 0; n < s.count; ++n) {
      const float w[4] = {weight[0][n], weight[1][n], weight[2][n], weight[3][n]};
      const float* from = base + s.place[n];
      vec sum[2] = {};
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) {
        const vec value = sample(from + v * kLanes, s, w);
        if (has(v, 0)) sum[0] += q[0][v] * value;
        if (has(v, 1)) sum[1] += q[1][v] * value;
      }
      L::put(partial + 2 * n * kLanes, sum[0]), L::put(partial + (2 * n + 1) * kLanes, sum[1]);
    }
    for (int h = 0; h < 2; ++h) add_rows(partial + h * kLanes, s.count, p + h * s.length);
  }

  // sums[n] = the sum over the lanes of partial[n][0].
  RVRT_INLINE void add_rows(const float* partial, int64_t count, float* sums) {
    for (int64_t n = 0; n < count; n += 4) {
      v4 total = {};
      if constexpr (kLanes == W) {
        total = sum_four(partial + n * 2 * kLanes, 2 * kLanes);
      } else {
        v4 r[4] = {};
        for (int u = 0; u < 4; ++u)
          for (int l = 0; l < kLanes; l += 4) r[u] += load4(partial + (n + u) * 2 * kLanes + l);
        transpose4(r[0], r[1], r[2], r[3]);
        total = (r[0] + r[1]) + (r[2] + r[3]);
      }
      store4(sums + n, total);
    }
  }

  // row = the samples, weighted by both heads' weights at p and p + s.length.
  RVRT_INLINE void combine(const Samples& s, const float* base, const float* const* weight, const float* p,
                           float* row) {
    float ones[kWidth];  // of head 0
    for (int c = 0; c < kWidth; ++c) ones[c] = c < SEGMENT ? 1.0f : 0.0f;
    vec total[kVectors] = {};
    for (int64_t n = 0; n < s.count; ++n) {
      const float w[4] = {weight[0][n], weight[1][n], weight[2][n], weight[3][n]};
      const float* from = base + s.place[n];
      const vec first = p[n] - vec{}, second = p[s.length + n] - vec{};
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) {
        const vec both = L::get(ones + v * kLanes) > 0.5f ? first : second;
        total[v] += (has(v, 0) && has(v, 1) ? both : has(v, 0) ? first : second) * sample(from + v * kLanes, s, w);
      }
    }
    for (int v = 0; v < kVectors; ++v) L::put(row + v * kLanes, total[v]);
  }
};
