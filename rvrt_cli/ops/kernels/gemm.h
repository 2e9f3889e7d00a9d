// SPDX-License-Identifier: Apache-2.0
// Matrix products on row-major float32 blocks that fit the cache. Include after simd.h, once per instruction set,
// inside its namespace.
//
// The right-hand matrix B (K, N) is split into panels of at most kPanel vectors. A panel is K rows of its columns,
// packed side by side (see `pack_panels`), the last panel padded with zeros. Sums run over k in order and do not depend
// on how rows are grouped, so results do not depend on tiles or threads.

constexpr int kPanel = kRegisters == 32 ? 3 : 2;  // vectors in the widest panel
constexpr int kTile = kRegisters == 32 ? 8 : 6;   // rows that stay in registers: kTile * kPanel accumulators
constexpr int kPanelFloats = kPanel * W;

RVRT_INLINE int64_t vectors(int64_t n) { return (n + W - 1) / W; }
RVRT_INLINE int64_t padded(int64_t n) { return vectors(n) * W; }

// Vectors in the next panel when `left` remain: full ones, but 4 as 2 + 2 rather than 3 + 1.
RVRT_INLINE int panel_vectors(int64_t left) {
  if (left <= kPanel) return static_cast<int>(left);
  if (left < 2 * kPanel) return static_cast<int>((left + 1) / 2);
  return kPanel;
}

// c[i, j] = start[i, j] + sum over k < depth of a(i, k) * b[k, j] + residual[i, j] (none if null), for `rows` rows and
// `width` vectors of columns. lda, ldb, lds, ldc, ldr are row strides in floats; lds 0 adds the same row to all.
struct PanelProduct {
  int64_t rows;
  int width;
  int64_t depth;
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  const float* start;
  int64_t lds;
  float* c;
  int64_t ldc;
  const float* residual = nullptr;
  int64_t ldr = 0;
};

// gcc and clang keep `sums` in registers once all three loops are unrolled.
template <int kRows, int kWidth, bool kTransposed>
__attribute__((noinline)) void tile(const PanelProduct& p, int64_t row) {
  const int64_t lda = p.lda, ldb = p.ldb, step = kTransposed ? lda : 1;
  const float* __restrict a = p.a + (kTransposed ? row : row * lda);
  const float* __restrict b = p.b;
  vf sums[kRows][kWidth] = {};
  for (int64_t k = p.depth; k > 0; --k) {
    vf right[kWidth];
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; ++j) right[j] = load(b + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const vf left = set1(kTransposed ? a[i] : a[i * lda]);
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) sums[i][j] += left * right[j];
    }
    a += step;
    b += ldb;
  }
  if (p.residual) {
    const float* residual = p.residual + row * p.ldr;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) sums[i][j] += load(residual + i * p.ldr + j * W);
    }
  }
  const float* start = p.start + row * p.lds;
  float* c = p.c + row * p.ldc;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; ++j) store(c + i * p.ldc + j * W, load(start + i * p.lds + j * W) + sums[i][j]);
  }
}

// `Tiles::call<rows, width>` for a height of at most kTile and a width of at most kPanel vectors.
template <class Tiles, int kWidth>
inline typename Tiles::Call tile_of(int rows) {
  switch (rows) {
    case 1:
      return Tiles::template call<1, kWidth>;
    case 2:
      return Tiles::template call<2, kWidth>;
    case 3:
      return Tiles::template call<3, kWidth>;
    case 4:
      return Tiles::template call<4, kWidth>;
    case 5:
      return Tiles::template call<5, kWidth>;
    case 6:
      return Tiles::template call<6, kWidth>;
    case 7:
      return Tiles::template call<(kTile < 7 ? kTile : 7), kWidth>;
    default:
      return Tiles::template call<kTile, kWidth>;
  }
}

template <class Tiles>
inline typename Tiles::Call tile_of(int rows, int width) {
  if (width == 1) return tile_of<Tiles, 1>(rows);
  if (width == 2) return tile_of<Tiles, 2>(rows);
  return tile_of<Tiles, kPanel>(rows);
}

// Rows in tiles of nearly equal height: 33 rows are 7 + 7 + 7 + 6 + 6, not 4 * 8 + 1.
template <class Tiles>
RVRT_INLINE void all_tiles(const typename Tiles::Product& p) {
  if (p.rows <= 0) return;
  const int64_t tiles = (p.rows + kTile - 1) / kTile;
  const int height = static_cast<int>(p.rows / tiles), taller = static_cast<int>(p.rows % tiles);
  int64_t row = 0;
  if (taller) {
    const auto call = tile_of<Tiles>(height + 1, p.width);
    for (; row < taller * (height + 1); row += height + 1) call(p, row);
  }
  const auto call = tile_of<Tiles>(height, p.width);
  for (; row < p.rows; row += height) call(p, row);
}

template <bool kTransposed>
struct PanelTiles {
  using Product = PanelProduct;
  using Call = void (*)(const Product&, int64_t);
  template <int kRows, int kWidth>
  static constexpr Call call = tile<kRows, kWidth, kTransposed>;
};

// a(i, k) = a[i * lda + k]
inline void product(const PanelProduct& p) { all_tiles<PanelTiles<false>>(p); }
// a(i, k) = a[k * lda + i]
inline void product_transposed(const PanelProduct& p) { all_tiles<PanelTiles<true>>(p); }

// Activations by number, as the attributes of the entry points carry them.
enum { kNone = 0, kLeaky01 = 1, kLeaky02 = 2, kRelu = 3, kGelu = 4 };

RVRT_INLINE float negative_slope(int activation) {
  return activation == kLeaky01 ? 0.1f : activation == kLeaky02 ? 0.2f : activation == kRelu ? 0.0f : 1.0f;
}

// `count` floats of a gradient, through the activation that gave `y`.
inline void copy_gradient(const float* dy, const float* y, float slope, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + W <= count; i += W) {
    const vf g = load(dy + i);
    store(out + i, load(y + i) > 0.0f ? g : g * slope);
  }
  for (; i < count; ++i) out[i] = y[i] > 0.0f ? dy[i] : dy[i] * slope;
}

// The normal distribution's cumulative function, absolute error below 2e-7: 0.5 + x * P(x²) on |x| <= 5.3 with P a
// weighted least-squares fit in w = 2 x² / 5.3² - 1; 0 and 1 outside. GELU is x times it (Hendrycks & Gimpel 2016).
RVRT_INLINE vf normal_cdf(vf x) {
  const vf c = vmax(vmin(x, set1(5.3f)), set1(-5.3f));
  const vf w = c * c * (2.0f / (5.3f * 5.3f)) - 1.0f;
  vf p = w * -0.0006520268507301807f + 0.0016683561261743307f;
  p = p * w - 0.0014334717998281121f;
  p = p * w + 0.0019251304911449552f;
  p = p * w - 0.005462929140776396f;
  p = p * w + 0.009600142948329449f;
  p = p * w - 0.013396277092397213f;
  p = p * w + 0.018674153834581375f;
  p = p * w - 0.025242991745471954f;
  p = p * w + 0.032118383795022964f;
  p = p * w - 0.039595071226358414f;
  p = p * w + 0.04926192760467529f;
  p = p * w - 0.06651831418275833f;
  p = p * w + 0.1333925873041153f;
  const vf phi = c * p + 0.5f;
  return x < -5.3f ? vf{} : x > 5.3f ? set1(1.0f) : phi;
}

RVRT_INLINE vf gelu(vf x) { return x * normal_cdf(x); }

// GELU's derivative: the cumulative function plus x times the density.
RVRT_INLINE vf gelu_slope(vf x) { return normal_cdf(x) + x * 0.3989422804014327f * exp2(x * x * (-0.5f * kLog2e)); }

RVRT_INLINE vf load_part(const float* p, int64_t n) {
  float s[W] = {};
  for (int64_t i = 0; i < n; ++i) s[i] = p[i];
  return load(s);
}
RVRT_INLINE void store_part(float* p, int64_t n, vf v) {
  float s[W];
  store(s, v);
  for (int64_t i = 0; i < n; ++i) p[i] = s[i];
}

// Vector j of a row of `columns`, zeros beyond its end.
RVRT_INLINE vf load_row(const float* row, int64_t j, int64_t columns) {
  return j + W <= columns ? load(row + j) : load_part(row + j, columns - j);
}
RVRT_INLINE void store_row(float* row, int64_t j, int64_t columns, vf v) {
  if (j + W <= columns)
    store(row + j, v);
  else
    store_part(row + j, columns - j, v);
}

// Where a finished panel goes: out[i, j] = activation(c[i, j]) + residual[i, j] (none if null) for j < columns.
struct Finish {
  int activation;
  const float* residual;
  int64_t ldr;
  float* out;
  int64_t ldo;
};

template <class Activation>
RVRT_INLINE void finish_rows(int64_t rows, int64_t columns, const float* c, int64_t ldc, const Finish& f,
                             Activation activation) {
  const int64_t whole = columns / W * W, part = columns - whole;
  for (int64_t i = 0; i < rows; ++i) {
    const float* source = c + i * ldc;
    const float* residual = f.residual ? f.residual + i * f.ldr : nullptr;
    float* out = f.out + i * f.ldo;
    for (int64_t j = 0; j < whole; j += W) {
      const vf v = activation(load(source + j));
      store(out + j, residual ? v + load(residual + j) : v);
    }
    if (part) {
      const vf v = activation(load(source + whole));
      store_part(out + whole, part, residual ? v + load_part(residual + whole, part) : v);
    }
  }
}

inline void finish(int64_t rows, int64_t columns, const float* c, int64_t ldc, const Finish& f) {
  if (f.activation == kGelu) {
    finish_rows(rows, columns, c, ldc, f, [](vf v) __attribute__((always_inline)) { return gelu(v); });
  } else if (f.activation == kNone) {
    finish_rows(rows, columns, c, ldc, f, [](vf v) __attribute__((always_inline)) { return v; });
  } else {
    const float slope = negative_slope(f.activation);
    finish_rows(rows, columns, c, ldc, f, [slope](vf v) __attribute__((always_inline)) { return vmax(v, v * slope); });
  }
}

// The whole product of a block of rows with all panels of B (depth, columns): a @ B + bias, then `f`. `bias` holds
// padded(columns) floats, `scratch` rows * kPanelFloats.
inline void product_rows(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const float* packed,
                         const float* bias, float* scratch, const Finish& f) {
  const int64_t all = vectors(columns);
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    const int64_t ld = width * W, first = v * W, count = columns - first < ld ? columns - first : ld;
    const float* residual = f.residual ? f.residual + first : nullptr;
    const float* panel = packed + first * depth;
    if (f.activation == kNone && count == ld) {  // whole vectors need no pass of their own
      product({rows, width, depth, a, lda, panel, ld, bias + first, 0, f.out + first, f.ldo, residual, f.ldr});
    } else {
      product({rows, width, depth, a, lda, panel, ld, bias + first, 0, scratch, ld});
      finish(rows, count, scratch, ld, {f.activation, residual, f.ldr, f.out + first, f.ldo});
    }
    v += width;
  }
}

// sums (M, padded(N)) += aᵀ b over `depth` rows of a (depth, M) and b (depth, N): rows of b must be readable up to
// padded(N).
inline void add_outer(int64_t m, int64_t n, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb,
                      float* sums) {
  const int64_t all = vectors(n), ld = all * W;
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    float* c = sums + v * W;
    product_transposed({m, width, depth, a, lda, b + v * W, ldb, c, ld, c, ld});
    v += width;
  }
}

// Packs rows [begin, end) of B (depth, columns), B[k, n] = source[k * stride_k + n * stride_n], into panels.
inline void pack_panels(const float* source, int64_t stride_k, int64_t stride_n, int64_t depth, int64_t columns,
                        int64_t begin, int64_t end, float* packed) {
  const int64_t all = vectors(columns);
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    const int64_t ld = width * W, first = v * W;
    const int64_t count = columns - first < ld ? columns - first : ld;
    float* rows = packed + first * depth + begin * ld;
    if (stride_k == 1)
      transpose(source + first * stride_n + begin, stride_n, count, end - begin, 1.0f, rows, ld);
    else
      for (int64_t k = begin; k < end; ++k)
        for (int64_t j = 0; j < count; ++j) rows[(k - begin) * ld + j] = source[k * stride_k + (first + j) * stride_n];
    for (int64_t k = begin; count < ld && k < end; ++k)
      for (int64_t j = count; j < ld; ++j) rows[(k - begin) * ld + j] = 0.0f;
    v += width;
  }
}

// sums[j] += sum over `rows` of a[i, j], j < columns.
inline void add_columns(int64_t rows, int64_t columns, const float* a, int64_t lda, float* sums) {
  int64_t j = 0;
  for (; j + W <= columns; j += W) {
    vf s = {};
    for (int64_t i = 0; i < rows; ++i) s += load(a + i * lda + j);
    store(sums + j, load(sums + j) + s);
  }
  for (; j < columns; ++j) {
    float s = 0;
    for (int64_t i = 0; i < rows; ++i) s += a[i * lda + j];
    sums[j] += s;
  }
}
