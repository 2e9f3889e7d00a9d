// SPDX-License-Identifier: Apache-2.0
// Tiles of a 7x7 convolution from pixels to V and from the products to pixels, and its weights. Include after gemm.h and
// winograd_math.h, once per instruction set, inside its namespace.

// Four taps along one axis: the first of two parts has taps 0 to 3, the second 4 to 6 behind a zero.
RVRT_INLINE bool has_tap(int part, int tap) { return part == 0 || tap > 0; }

// U of the filters from input channel `in` to W output channels from `first` on: (part, place, lane). Zeros stand for channels
// that only fill a vector.
inline void transform_wide_filters(const WideWeightsJob& job, int64_t in, int64_t first,
                                   float (&u)[kParts][kPlaces * W]) {
  constexpr int64_t taps = kKernelEdge * kKernelEdge;
  for (int part = 0; part < kParts; ++part) {
    const int down = part / 2, right = part % 2;
    double g[16][W];
    for (int lane = 0; lane < W; ++lane) {
      const bool exists = in < job.inputs && first + lane < job.outputs;
      const float* source = exists ? job.weight + ((first + lane) * job.inputs + in) * taps : nullptr;
      for (int y = 0; y < 4; ++y)
        for (int x = 0; x < 4; ++x)
          g[4 * y + x][lane] = exists && has_tap(down, y) && has_tap(right, x)
                                   ? source[(3 * down + y) * kKernelEdge + 3 * right + x]
                                   : 0.0;
    }
    transform_filters<4>(g, u[part], W);
  }
}

// `Products` says how V and U are multiplied: `Number` of V, `Weight` of U, which holds kChannels input channels side by side,
// `store_weights` and `multiply`.

// The weights of rows [begin, end) of the packed matrices, which are input channels or groups of kChannels.
template <class Products>
inline void transform_wide_weights(const void* pointer, Span span) {
  const WideWeightsJob& job = *static_cast<const WideWeightsJob*>(pointer);
  const int64_t all = vectors(job.outputs), rows = job.depth / Products::kChannels, matrix = 2 * rows * all * W;
  float u[Products::kChannels][kParts][kPlaces * W];
  for (int64_t v = 0; v < all;) {
    const int width = panel_vectors(all - v);
    for (int64_t row = span.begin; row < span.end; ++row)
      for (int j = 0; j < width; ++j) {
        for (int channel = 0; channel < Products::kChannels; ++channel)
          transform_wide_filters(job, row * Products::kChannels + channel, (v + j) * W, u[channel]);
        for (int part = 0; part < kParts; ++part) {
          auto* to = static_cast<typename Products::Weight*>(job.packed) + part / 2 * matrix + v * W * 2 * rows +
                     ((part % 2 * rows + row) * width + j) * W;
          for (int place = 0; place < kPlaces; ++place)
            Products::store_weights(to + place * 2 * matrix, u, part, place);
        }
      }
    v += width;
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
      const bool inner = top >= 0 && begin >= 0 && top + kPatchEdge <= grid.height && begin + kPatchEdge <= grid.width;
      if (inner && ld == channels) {
        transform_patch(source, grid.width * channels, channels, ld, out, job.place_v);
        continue;
      }
      float* to = patch;
      for (int64_t y = top; y < top + kPatchEdge; ++y)
        for (int64_t c = begin; c < begin + kPatchEdge; ++c, to += ld) {
          const bool inside = y >= 0 && y < grid.height && c >= 0 && c < grid.width;
          copy_padded(inside ? x + ((image * grid.height + y) * grid.width + c) * channels : nullptr,
                      inside ? channels : 0, ld, to);
        }
      transform_patch(patch, kPatchEdge * ld, ld, ld, out, job.place_v);
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

// The products of a block of `rows` x `columns` tiles, whose rows lie `columns` + 1 patches apart: the last tile of each but
// the last is none, and its products are not read.
template <class Products>
inline void multiply_block(const WideJob& job, int64_t rows, int64_t columns, const typename Products::Number* v,
                           float* m) {
  const int64_t all = vectors(job.call->outputs), ldm = job.outputs;
  const int64_t depth = 2 * job.depth / Products::kChannels, matrix = depth * ldm;
  const int64_t line = columns + 1, tiles = rows * line - 1;
  const float zeros[kPanelFloats] = {};
  for (int64_t place = 0; place < kPlaces; ++place)
    for (int64_t first = 0; first < all;) {
      const int width = panel_vectors(all - first);
      const auto* a = v + place * job.place_v;
      const auto* b =
          static_cast<const typename Products::Weight*>(job.packed) + 2 * place * matrix + first * W * depth;
      float* c = m + place * job.place_m + first * W;
      // A tile's left and right patch lie side by side.
      Products::multiply(tiles, width, depth, a, job.depth, b, zeros, 0, c, ldm);
      Products::multiply(tiles, width, depth, a + line * job.depth, job.depth, b + matrix, c, ldm, c, ldm);
      first += width;
    }
}

// Tasks are bands. The last row of patches of a block is the first of the next one.
template <class Products>
inline void wide_bands(const void* pointer, Span span) {
  using Number = typename Products::Number;
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
      multiply_block<Products>(job, rows, columns, v, m);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
          finish_wide_tile(job, image, (top + i) * kStep, (left + j) * kStep,
                           m + (i * (columns + 1) + j) * job.outputs);
      ready = 1;
      for (int64_t place = 0; place < kPlaces; ++place)
        std::memcpy(v + place * job.place_v, v + place * job.place_v + rows * line, sizeof(Number) * line);
    }
  }
}
