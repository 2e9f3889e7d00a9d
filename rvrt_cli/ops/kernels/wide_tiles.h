// SPDX-License-Identifier: Apache-2.0
// Tiles of a 7x7 convolution from pixels to V and from the products to pixels, and its weights. Include after gemm.h and
// winograd_math.h, once per instruction set, inside its namespace.

// Four taps along one axis: the first of two parts has taps 0 to 3, the second 4 to 6 behind a zero.
RVRT_INLINE bool has_tap(int part, int tap) { return part == 0 || tap > 0; }

// U = G g Gᵀ in double precision, of one part of W filters g (tap, lane); places are `place` floats apart.
inline void transform_part(const double (&g)[kKernelEdge * kKernelEdge][W], int down, int right, float* out,
                           int64_t place) {
  double part[4][4][W];
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 4; ++x)
      for (int lane = 0; lane < W; ++lane)
        part[y][x][lane] =
            has_tap(down, y) && has_tap(right, x) ? g[(3 * down + y) * kKernelEdge + 3 * right + x][lane] : 0.0;
  for (int i = 0; i < 6; ++i) {
    double half[4][W];
    for (int x = 0; x < 4; ++x)
      for (int lane = 0; lane < W; ++lane) half[x][lane] = transform_filter<4>(i, &part[0][x][lane], 4 * W);
    for (int k = 0; k < 6; ++k)
      for (int lane = 0; lane < W; ++lane)
        out[(i * 6 + k) * place + lane] = static_cast<float>(transform_filter<4>(k, &half[0][lane], W));
  }
}

// U of the filters from input channel `in` to W output channels, of one part after the other: `store_part`(part, places) gets
// them (place, lane). Zeros stand for channels that only fill a vector.
template <class StorePart>
RVRT_INLINE void transform_wide_filters(const WideWeightsJob& job, int64_t in, int64_t first, StorePart store_part) {
  constexpr int64_t taps = kKernelEdge * kKernelEdge;
  double g[taps][W];
  for (int lane = 0; lane < W; ++lane) {
    const int64_t out = first + lane;
    const bool exists = in < job.inputs && out < job.outputs;
    const float* source = exists ? job.weight + (out * job.inputs + in) * taps : nullptr;
    for (int64_t tap = 0; tap < taps; ++tap) g[tap][lane] = exists ? source[tap] : 0.0f;
  }
  for (int part = 0; part < kParts; ++part) {
    float places[kPatchPlaces * W];
    transform_part(g, part / 2, part % 2, places, W);
    store_part(part, places);
  }
}

// V of the patches of tile rows [first, first + rows), `columns` tiles of a strip and one patch more; `out` begins with the
// first of these rows.
template <class Number>
inline void transform_patches(const WideJob& job, int64_t image, int64_t first, int64_t rows, int64_t left,
                              int64_t columns, float* patch, Number* out) {
  const StripGrid& grid = job.grid;
  const WinogradCall& call = *job.call;
  const float* x = call.x.data[0];
  const int64_t ld = job.depth, channels = call.inputs;
  for (int64_t row = first; row < first + rows; ++row)
    for (int64_t column = left; column <= left + columns; ++column, out += ld) {
      const int64_t top = row * kStep - kReach, begin = column * kStep - kReach;
      const float* source = x + ((image * grid.height + top) * grid.width + begin) * channels;
      const bool inner = top >= 0 && begin >= 0 && top + kPatch <= grid.height && begin + kPatch <= grid.width;
      if (inner && ld == channels) {
        transform_patch(source, grid.width * channels, channels, ld, out, job.place_v);
        continue;
      }
      float* to = patch;
      for (int64_t y = top; y < top + kPatch; ++y)
        for (int64_t c = begin; c < begin + kPatch; ++c, to += ld) {
          const bool inside = y >= 0 && y < grid.height && c >= 0 && c < grid.width;
          copy_padded(inside ? x + ((image * grid.height + y) * grid.width + c) * channels : nullptr,
                      inside ? channels : 0, ld, to);
        }
      transform_patch(patch, kPatch * ld, ld, ld, out, job.place_v);
    }
}

// The output pixels of one tile, from (top, left) on, as far as the image has them.
inline void finish_wide_tile(const WideJob& job, int64_t image, int64_t top, int64_t left, const float* products) {
  const WinogradCall& call = *job.call;
  const float slope = negative_slope(call.activation);
  const int64_t rows = call.height - top < kStep ? call.height - top : kStep;
  const int64_t columns = call.width - left < kStep ? call.width - left : kStep;
  for (int64_t c = 0; c < call.outputs; c += W) {
    vf y[3][3];
    transform_back<3, transform_sums>(products + c, job.place_m, y);
    const vf bias = load(job.bias + c);
    const int64_t part = call.outputs - c;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t at = ((image * call.height + top + i) * call.width + left + j) * call.outputs + c;
        vf v = y[i][j] + bias;
        v = vmax(v, v * slope);
        if (call.residual) v += part >= W ? load(call.residual + at) : load_part(call.residual + at, part);
        if (part >= W)
          store(call.y.data[0] + at, v);
        else
          store_part(call.y.data[0] + at, part, v);
      }
  }
}

// Tasks are bands. The last row of patches of a block is the first of the next one. `kMultiply` makes a block's products of V.
template <class Number, void (*kMultiply)(const WideJob&, int64_t, int64_t, const Number*, float*)>
inline void wide_bands(const void* pointer, Span span) {
  const WideJob& job = *static_cast<const WideJob*>(pointer);
  const StripGrid& grid = job.grid;
  float* patch = job.scratch + span.thread * job.scratch_floats;
  Number* v = reinterpret_cast<Number*>(patch + job.patch_floats);
  float* m = patch + job.patch_floats + job.v_floats;
  const int64_t blocks = (grid.down + grid.rows - 1) / grid.rows;
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t image = task / (grid.bands * grid.strips), band = task / grid.strips % grid.bands;
    const int64_t left = task % grid.strips * grid.columns;
    const int64_t columns = grid.across - left < grid.columns ? grid.across - left : grid.columns;
    const int64_t line = (columns + 1) * job.depth, end = blocks * (band + 1) / grid.bands;
    int64_t ready = 0;  // rows of patches
    for (int64_t block = blocks * band / grid.bands; block < end; ++block) {
      const int64_t top = block * grid.rows, rows = grid.down - top < grid.rows ? grid.down - top : grid.rows;
      transform_patches(job, image, top + ready, rows + 1 - ready, left, columns, patch, v + ready * line);
      kMultiply(job, rows, columns, v, m);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
          finish_wide_tile(job, image, (top + i) * kStep, (left + j) * kStep,
                           m + (i * (columns + 1) + j) * job.outputs);
      ready = 1;
      for (int64_t place = 0; place < kPatchPlaces; ++place)
        std::memcpy(v + place * job.place_v, v + place * job.place_v + rows * line, sizeof(Number) * line);
    }
  }
}
