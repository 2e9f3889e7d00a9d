// SPDX-License-Identifier: Apache-2.0
// The transforms that Winograd's convolutions share: winograd.cc explains them. Include after simd.h, once per instruction
// set, inside its namespace.

constexpr float kA = 0.625f, kB = 1.5f;  // the points; their powers are exact
constexpr float kA2 = kA * kA, kB2 = kB * kB, kA3 = kA2 * kA, kB3 = kB2 * kB;

// The transforms along one axis. Rows of ±p share their even and odd parts.
RVRT_INLINE void transform_data(const vf (&d)[6], vf (&v)[6]) {
  const vf even_a = d[4] - kB2 * d[2], odd_a = d[3] - kB2 * d[1];
  const vf even_b = d[4] - kA2 * d[2], odd_b = d[3] - kA2 * d[1];
  v[0] = kA2 * kB2 * d[0] + (d[4] - (kA2 + kB2) * d[2]);
  v[1] = even_a + kA * odd_a;
  v[2] = even_a - kA * odd_a;
  v[3] = even_b + kB * odd_b;
  v[4] = even_b - kB * odd_b;
  v[5] = kA2 * kB2 * d[1] + (d[5] - (kA2 + kB2) * d[3]);
}

RVRT_INLINE void transform_products(const vf (&m)[6], vf (&y)[4]) {
  const vf sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const vf sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = (m[0] + sum_a) + sum_b;
  y[1] = kA * difference_a + kB * difference_b;
  y[2] = kA2 * sum_a + kB2 * sum_b;
  y[3] = (m[5] + kA3 * difference_a) + kB3 * difference_b;
}

// Rows of G' for the four pixels of a gradient's tile, without the factors 1 / f of the interpolation, which the
// transform back applies to the sums.
RVRT_INLINE void transform_gradient(const vf (&g)[4], vf (&u)[6]) {
  const vf even_a = g[0] + kA2 * g[2], odd_a = kA * g[1] + kA3 * g[3];
  const vf even_b = g[0] + kB2 * g[2], odd_b = kB * g[1] + kB3 * g[3];
  u[0] = g[0];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = g[3];
}

// From the sums of products to the gradient of three taps.
RVRT_INLINE void transform_sums(const vf (&s)[6], vf (&taps)[3]) {
  const vf sum_a = s[1] + s[2], sum_b = s[3] + s[4];
  taps[0] = (s[0] + sum_a) + sum_b;
  taps[1] = kA * (s[1] - s[2]) + kB * (s[3] - s[4]);
  taps[2] = (s[5] + kA2 * sum_a) + kB2 * sum_b;
}

constexpr double kFactor[6] = {1.0 / (kA2 * kB2),
                               1.0 / (2.0 * kA2 * (kA2 - kB2)),
                               1.0 / (2.0 * kA2 * (kA2 - kB2)),
                               1.0 / (2.0 * kB2 * (kB2 - kA2)),
                               1.0 / (2.0 * kB2 * (kB2 - kA2)),
                               1.0};
constexpr double kPoint[6] = {0, kA, -kA, kB, -kB, 0};

// G g along one axis: g at the taps, `stride` apart.
template <int TAPS>
RVRT_INLINE double transform_filter(int place, const double* g, int64_t stride) {
  if (place == 5) return g[(TAPS - 1) * stride];
  double sum = g[(TAPS - 1) * stride];
  for (int tap = TAPS - 2; tap >= 0; --tap) sum = g[tap * stride] + kPoint[place] * sum;
  return kFactor[place] * sum;
}

// U = G g Gᵀ in double precision, of W filters g (tap, lane) of TAPS x TAPS taps; places are `place` floats apart.
template <int TAPS>
inline void transform_filters(const double (&g)[TAPS * TAPS][W], float* out, int64_t place) {
  for (int i = 0; i < 6; ++i) {
    double half[TAPS][W];
    for (int x = 0; x < TAPS; ++x)
      for (int lane = 0; lane < W; ++lane) half[x][lane] = transform_filter<TAPS>(i, &g[x][lane], TAPS * W);
    for (int k = 0; k < 6; ++k)
      for (int lane = 0; lane < W; ++lane)
        out[(i * 6 + k) * place + lane] = static_cast<float>(transform_filter<TAPS>(k, &half[0][lane], W));
  }
}

// `count` floats, and zeros up to `width`. For so few, calls of memcpy and memset took a quarter of a convolution's time.
RVRT_INLINE void copy_padded(const float* from, int64_t count, int64_t width, float* to) {
  int64_t i = 0;
  for (; i + W <= count; i += W) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = from[i];
  for (; i + W <= width; i += W) store(to + i, vf{});
  for (; i < width; ++i) to[i] = 0.0f;
}

// A transform along both axes: from kFrom x kFrom vectors, got by `load_at`(row, column), to kTo x kTo, given to `store_at`.
template <int kFrom, int kTo, void (*kTransform)(const vf (&)[kFrom], vf (&)[kTo]), class Load, class Store>
RVRT_INLINE void transform_square(Load load_at, Store store_at) {
  vf columns[kTo][kFrom];
#pragma GCC unroll 6
  for (int x = 0; x < kFrom; ++x) {
    vf from[kFrom], to[kTo];
#pragma GCC unroll 6
    for (int y = 0; y < kFrom; ++y) from[y] = load_at(y, x);
    kTransform(from, to);
#pragma GCC unroll 6
    for (int y = 0; y < kTo; ++y) columns[y][x] = to[y];
  }
#pragma GCC unroll 6
  for (int y = 0; y < kTo; ++y) {
    vf to[kTo];
    kTransform(columns[y], to);
#pragma GCC unroll 6
    for (int x = 0; x < kTo; ++x) store_at(y, x, to[x]);
  }
}

// V of one tile, `channels` (whole vectors) of 6x6 pixels, in any type of number that has a `store`: place i * 6 + j at
// out + (i * 6 + j) * place.
template <class Number>
inline void transform_patch(const float* pixels, int64_t row, int64_t pixel, int64_t channels, Number* out,
                            int64_t place) {
  for (int64_t c = 0; c < channels; c += W)
    transform_square<6, 6, transform_data>(
        [=](int y, int x) __attribute__((always_inline)) { return load(pixels + y * row + x * pixel + c); },
        [=](int y, int x, vf v) __attribute__((always_inline)) { store(out + (y * 6 + x) * place + c, v); });
}

// The sums of products at 36 places, transformed back.
template <int kTo, void (*kTransform)(const vf (&)[6], vf (&)[kTo])>
RVRT_INLINE void transform_back(const float* products, int64_t place, vf (&y)[kTo][kTo]) {
  transform_square<6, kTo, kTransform>(
      [=](int i, int j) __attribute__((always_inline)) { return load(products + (i * 6 + j) * place); },
      [&](int i, int j, vf v) __attribute__((always_inline)) { y[i][j] = v; });
}
