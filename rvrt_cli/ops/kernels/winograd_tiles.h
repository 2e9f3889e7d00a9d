// SPDX-License-Identifier: Apache-2.0
// Tiles of a 3x3 convolution from pixels to V and from the products to pixels. Include after gemm.h and
// winograd_math.h, once per instruction set, inside its namespace.

struct TilePlace {
  int64_t image, y, x;  // first pixel of its output
};

inline TilePlace tile_place(const TileGrid& grid, int64_t tile) {
  return {tile / (grid.down * grid.across), tile / grid.across % grid.down * kTileEdge, tile % grid.across * kTileEdge};
}

// An image batch with channels last, of which `channels` are read: those of a source from `data` on. With `through`, it is a
// gradient, which passes through the activation that gave `through`.
struct Image {
  const float* data;
  int64_t stride, channels;  // floats of a pixel, and those that are read
  const float* through;
  float slope;
};

// The 6x6 pixels of a tile and one pixel around it, `ld` floats apart, zeros beyond the image; the channels of each padded
// with zeros to `width`.
inline void copy_patch(const TileGrid& grid, const TilePlace& p, const Image& x, float* out, int64_t ld,
                       int64_t width) {
  for (int64_t row = p.y - 1; row < p.y - 1 + kPatchEdge; ++row)
    for (int64_t column = p.x - 1; column < p.x - 1 + kPatchEdge; ++column, out += ld) {
      if (row < 0 || row >= grid.height || column < 0 || column >= grid.width) {
        copy_padded(nullptr, 0, width, out);
        continue;
      }
      const int64_t at = ((p.image * grid.height + row) * grid.width + column) * x.stride;
      if (x.through) {
        copy_gradient(x.data + at, x.through + at, x.slope, x.channels, out);
        copy_padded(nullptr, 0, width - x.channels, out + x.channels);
      } else {
        copy_padded(x.data + at, x.channels, width, out);
      }
    }
}

// V of the tile at `p`, through `patch` where its pixels do not lie in memory as they are multiplied.
template <class Number>
inline void transform_tile(const TileGrid& grid, const TilePlace& p, const Image& x, float* patch, Number* out,
                           int64_t place) {
  const int64_t ld = padded(x.channels);
  const bool inner = p.y > 0 && p.x > 0 && p.y + kTileEdge < grid.height && p.x + kTileEdge < grid.width;
  if (inner && ld == x.channels && !x.through) {
    const float* first = x.data + ((p.image * grid.height + p.y - 1) * grid.width + p.x - 1) * x.stride;
    transform_patch(first, grid.width * x.stride, x.stride, ld, out, place);
  } else {
    copy_patch(grid, p, x, patch, ld, ld);
    transform_patch(patch, kPatchEdge * ld, ld, ld, out, place);
  }
}

// What becomes of a tile's output: `rows` x `columns` pixels of it lie in the image, from `first` on.
struct TileFinish {
  const WinogradCall* call;
  const float* bias;
  int64_t first, rows, columns;
};

inline void scatter_vector(vf v, const Destinations& to, int64_t pixel, int64_t first, int64_t count) {
  float lanes[W];
  store(lanes, v);
  scatter_channels(lanes, to, pixel, first, count);
}

inline void finish_tile(const float* products, int64_t place, const TileFinish& f) {
  const WinogradCall& call = *f.call;
  const float slope = negative_slope(call.activation);
  for (int64_t c = 0; c < call.outputs; c += W) {
    vf y[4][4];
    transform_back<4, transform_products>(products + c, place, y);
    const vf bias = load(f.bias + c);
    const int64_t part = call.outputs - c;
    for (int64_t i = 0; i < f.rows; ++i)
      for (int64_t j = 0; j < f.columns; ++j) {
        const int64_t at = (f.first + i * call.width + j) * call.y_stride + c;
        vf v = y[i][j] + bias;
        v = vmax(v, v * slope);
        if (call.residual) v += part >= W ? load(call.residual + at) : load_part(call.residual + at, part);
        if (call.y.count > 1)
          scatter_vector(v, call.y, f.first + i * call.width + j, c, part < W ? part : W);
        else if (part >= W)
          store(call.y.data[0] + at, v);
        else
          store_part(call.y.data[0] + at, part, v);
      }
  }
}
