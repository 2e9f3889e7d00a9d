// SPDX-License-Identifier: Apache-2.0
// Packing, dense layers, LayerNorm and activations on blocks of rows. Include after gemm.h, once per instruction set, inside
// its namespace.

constexpr float kEpsilon = 1e-5f;  // LayerNorm, as published

inline void pack_matrix(const void* pointer, Span span) {
  const PackMatrixJob& job = *static_cast<const PackMatrixJob*>(pointer);
  pack_panels(job.source, job.stride_k, job.stride_n, job.depth, job.columns, span.begin, span.end, job.packed);
}

// `dense_rows` with operands rounded to bfloat16.
inline void half_dense_rows(int64_t rows, const PackedDense& layer, const float* a, int64_t lda, const Finish& f) {
  if (multiplies_pairs()) return pair_dense_rows({rows, &layer, a, lda, f.activation, f.residual, f.ldr, f.out, f.ldo});
  const int64_t depth = round_up(layer.inputs, kHalfDepth), tall = round_up(rows, 16);
  float* scratch = half_scratch(tall * (depth / 2 + kHalfColumns));
  uint16_t* rounded = reinterpret_cast<uint16_t*>(scratch);
  float* sums = scratch + tall * depth / 2;
  if (lda == depth && layer.inputs == depth) {
    round_to_half(a, rows * depth, rounded);
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      round_to_half(a + i * lda, layer.inputs, rounded + i * depth);
      std::memset(rounded + i * depth + layer.inputs, 0, sizeof(uint16_t) * (depth - layer.inputs));
    }
  }
  for (int64_t first = 0; first < layer.outputs; first += kHalfColumns) {
    const int64_t count = layer.outputs - first < kHalfColumns ? layer.outputs - first : kHalfColumns;
    HalfProduct product{rows, depth,       1, rounded, depth, 0, layer.half + first * depth, layer.bias + first,
                        sums, kHalfColumns};
    if (tall == rows && count == kHalfColumns && f.activation == kNone && !f.residual) {
      product.c = f.out + first, product.ldc = f.ldo;
      half_product(product);
      continue;
    }
    half_product(product);
    finish(rows, count, sums, kHalfColumns,
           {f.activation, f.residual ? f.residual + first : nullptr, f.ldr, f.out + first, f.ldo});
  }
}

// A dense layer on rows of `a`, then `f`; `scratch` holds rows * kPanelFloats.
inline void dense_rows(int64_t rows, const PackedDense& layer, const float* a, int64_t lda, float* scratch,
                       const Finish& f) {
  if (layer.half) return half_dense_rows(rows, layer, a, lda, f);
  product_rows(rows, layer.outputs, layer.inputs, a, lda, layer.packed, layer.bias, scratch, f);
}

// The sums of four vectors' lanes.
RVRT_INLINE v4 sum4(vf a, vf b, vf c, vf d) {
  v4 q[4] = {};
  float s[4][W];
  store(s[0], a), store(s[1], b), store(s[2], c), store(s[3], d);
  for (int r = 0; r < 4; ++r)
    for (int i = 0; i < W; i += 4) q[r] += load4(s[r] + i);
  transpose4(q[0], q[1], q[2], q[3]);
  return (q[0] + q[1]) + (q[2] + q[3]);
}

// To about 1e-7, absolute.
RVRT_INLINE vf tanh(vf x) {
  const vf bounded = vmin(vmax(x, set1(-15.0f)), set1(15.0f));
  return 1.0f - 2.0f / (exp2(bounded * (2.0f * kLog2e)) + 1.0f);
}

struct RowStatistics {
  float mean, scale;  // scale = 1 / sqrt(variance + epsilon)
};

// Four rows at a time, so that four sums over lanes cost little more than one; the last row stands in for missing ones.
inline void row_statistics(int64_t rows, int64_t columns, const float* x, RowStatistics* out) {
  const int64_t whole = columns / W * W, part = columns - whole;
  const float over = 1.0f / static_cast<float>(columns);
  for (int64_t i = 0; i < rows; i += 4) {
    const float* row[4];
    vf s[4], q[4];
    for (int r = 0; r < 4; ++r) {
      row[r] = x + (i + r < rows ? i + r : rows - 1) * columns;
      s[r] = part ? load_part(row[r] + whole, part) : vf{};
      for (int64_t j = 0; j < whole; j += W) s[r] += load(row[r] + j);
    }
    const v4 mean = sum4(s[0], s[1], s[2], s[3]) * over;
    for (int r = 0; r < 4; ++r) {
      q[r] = vf{};
      for (int64_t j = 0; j < whole; j += W) {
        const vf d = load(row[r] + j) - mean[r];
        q[r] += d * d;
      }
      if (part) {
        float d[W] = {};
        for (int64_t j = 0; j < part; ++j) d[j] = row[r][whole + j] - mean[r];
        q[r] += load(d) * load(d);
      }
    }
    const v4 variance = sum4(q[0], q[1], q[2], q[3]) * over;
    for (int r = 0; r < 4 && i + r < rows; ++r) out[i + r] = {mean[r], 1.0f / __builtin_sqrtf(variance[r] + kEpsilon)};
  }
}

// out[i, :] = (x[i, :] - mean) * scale * gamma + beta, rows of `out` ldo apart.
inline void normalize(int64_t rows, int64_t columns, const float* x, const RowStatistics* statistics,
                      const float* gamma, const float* beta, float* out, int64_t ldo) {
  for (int64_t i = 0; i < rows; ++i) {
    const float mean = statistics[i].mean, scale = statistics[i].scale;
    for (int64_t j = 0; j < columns; j += W) {
      const vf v = (load_row(x + i * columns, j, columns) - mean) * scale;
      store_row(out + i * ldo, j, columns, v * load_row(gamma, j, columns) + load_row(beta, j, columns));
    }
  }
}

// Gradients of `normalize`: dx = scale (dn gamma - mean(dn gamma) - n mean(dn gamma n)) + residual (none if null) with
// n the normalized row; dgamma and dbeta are added to. Rows of `dn` are ldn apart.
inline void normalize_gradient(int64_t rows, int64_t columns, const float* x, const RowStatistics* statistics,
                               const float* gamma, const float* dn, int64_t ldn, const float* residual, float* dx,
                               float* dgamma, float* dbeta) {
  const float over = 1.0f / static_cast<float>(columns);
  for (int64_t i = 0; i < rows; i += 4) {
    vf s[4] = {}, q[4] = {};
    const int64_t count = rows - i < 4 ? rows - i : 4;
    for (int64_t r = 0; r < count; ++r) {
      const RowStatistics& t = statistics[i + r];
      for (int64_t j = 0; j < columns; j += W) {
        const vf g = load_row(dn + (i + r) * ldn, j, columns) * load_row(gamma, j, columns);
        s[r] += g;
        q[r] += g * ((load_row(x + (i + r) * columns, j, columns) - t.mean) * t.scale);
      }
    }
    const v4 mean = sum4(s[0], s[1], s[2], s[3]) * over, along = sum4(q[0], q[1], q[2], q[3]) * over;
    for (int64_t r = 0; r < count; ++r) {
      const RowStatistics& t = statistics[i + r];
      const int64_t row = (i + r) * columns;
      for (int64_t j = 0; j < columns; j += W) {
        const vf g = load_row(dn + (i + r) * ldn, j, columns) * load_row(gamma, j, columns);
        const vf n = (load_row(x + row, j, columns) - t.mean) * t.scale;
        const vf v = (g - mean[r] - n * along[r]) * t.scale;
        store_row(dx + row, j, columns, residual ? v + load_row(residual + row, j, columns) : v);
      }
    }
  }
  for (int64_t j = 0; j < columns; j += W) {
    vf s = {}, q = {};
    for (int64_t i = 0; i < rows; ++i) {
      const vf g = load_row(dn + i * ldn, j, columns);
      s += g;
      q += g * ((load_row(x + i * columns, j, columns) - statistics[i].mean) * statistics[i].scale);
    }
    store_row(dgamma, j, columns, load_row(dgamma, j, columns) + q);
    store_row(dbeta, j, columns, load_row(dbeta, j, columns) + s);
  }
}
