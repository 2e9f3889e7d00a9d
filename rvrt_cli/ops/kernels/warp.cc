// SPDX-License-Identifier: Apache-2.0
// Warping by a flow, forward and backward. The simplest kernel file: read it as the example for kernel.h.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>
#include <vector>

namespace rvrt {
namespace {

// Field n of image b = clip * T + t is a warp of frame (n + t) % T of the clip; a plain warp is one of clips of one frame.
struct WarpJob {
  const float *x, *flow, *dout;
  float *out, *dx, *dflow;
  int32_t* reach;  // (B * T * H, 2): first and last input row that a row of a field reads; none if first > last
  int64_t B, H, W, C;
  int64_t T;           // frames of a clip, and fields of an image
  int64_t stride;      // floats of a pixel of the output
  int64_t bands;       // per image, of dx
  bool border, joins;  // joins: the output ends with the fields

  int64_t fields() const { return B * T; }
  int64_t source(int64_t field) const {
    const int64_t image = field / T, n = field % T;
    return image / T * T + (n + image % T) % T;
  }
  int64_t at(int64_t field, int64_t row, int64_t col) const { return (field * H + row) * W + col; }
  // In the output, the first channel of a field's pixel.
  int64_t out_at(int64_t field, int64_t row, int64_t col) const {
    return at(field / T, row, col) * stride + field % T * C;
  }
  int64_t joined_at(int64_t field, int64_t row, int64_t col) const {
    return at(field / T, row, col) * stride + T * C + field % T * 2;
  }
};

// What an output pixel reads: corner (y, x) has weight wy[y] * wx[x]. Outside the frame the weight is zero and the
// index is clamped, so that it is safe to read. Where clamping to the border stops the gradient, the slopes are zero.
struct Footprint {
  int64_t y[2], x[2];
  float wy[2], wx[2];
  float sy[2], sx[2];  // derivatives of the weights by the coordinate
};

// One axis. Coordinates are clamped before they become integers: any float is safe, NaN too.
inline void footprint_axis(float at, int64_t length, bool border, int64_t* index, float* weight, float* slope) {
  const float low = border ? 0.0f : -2.0f, high = static_cast<float>(border ? length - 1 : length + 1);
  const bool moves = at >= low && at <= high;
  const float limited = at > low ? (at < high ? at : high) : low;
  int64_t first = static_cast<int64_t>(limited);
  first -= static_cast<float>(first) > limited;
  const float part = limited - static_cast<float>(first);
  for (int i = 0; i < 2; ++i) {
    const int64_t k = first + i, inside = std::min(std::max<int64_t>(k, 0), length - 1);
    const bool counts = border || k == inside;
    index[i] = inside;
    weight[i] = counts ? (i ? part : 1 - part) : 0.0f;
    slope[i] = counts && moves ? (i ? 1.0f : -1.0f) : 0.0f;
  }
}

inline Footprint footprint(const WarpJob& job, int64_t field, int64_t row, int64_t col) {
  Footprint f;
  const float* flow = job.flow + job.at(field, row, col) * 2;
  footprint_axis(static_cast<float>(row) + flow[1], job.H, job.border, f.y, f.wy, f.sy);
  footprint_axis(static_cast<float>(col) + flow[0], job.W, job.border, f.x, f.wx, f.sx);
  return f;
}

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "warp.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

// x (B, H, W, C), flow (B, H, W, 2) and `alike` as x, one of them x itself; attributes [padding: 0 zeros, 1 border].
int warp_job(const Tensors& t, int alike, int attributes, WarpJob* job) {
  RVRT_CHECK(t.ndims[0] == 4 && t.same_shape(0, alike), kShape);
  job->B = t.dim(0, 0), job->H = t.dim(0, 1), job->W = t.dim(0, 2), job->C = t.dim(0, 3);
  RVRT_CHECK(t.has_shape(1, {job->B, job->H, job->W, 2}), kShape);
  const int32_t padding = t.ints(attributes)[0];
  RVRT_CHECK(padding == 0 || padding == 1, kAttribute);
  job->border = padding == 1;
  job->T = 1, job->stride = job->C;
  job->x = t.f(0), job->flow = t.f(1);
  return kOk;
}

// x (N, T, H, W, C), flows (N, T, T, H, W, 2) and `joined` (N, T, H, W, T * C + T * 2).
int warp_clip_job(const Tensors& t, int joined, WarpJob* job) {
  RVRT_CHECK(t.ndims[0] == 5, kShape);
  const int64_t N = t.dim(0, 0), T = t.dim(0, 1), H = t.dim(0, 2), W = t.dim(0, 3), C = t.dim(0, 4);
  RVRT_CHECK(t.has_shape(1, {N, T, T, H, W, 2}) && t.has_shape(joined, {N, T, H, W, T * (C + 2)}), kShape);
  job->B = N * T, job->T = T, job->H = H, job->W = W, job->C = C;
  job->stride = T * (C + 2), job->joins = true;
  job->x = t.f(0), job->flow = t.f(1);
  return kOk;
}

// dx is summed in raster order of the output, whatever the number of threads: every thread owns rows of dx and visits the
// output rows that read them.
int warp_gradients(WarpJob job) {
  const Scratch reach(job.fields() * job.H * 2);
  RVRT_CHECK(reach.ok(), kMemory);
  job.reach = reinterpret_cast<int32_t*>(reach.data());
  parallel_shared(job.fields() * job.H, RVRT_DISPATCH(warp_flow_gradient), &job);
  job.bands = std::min(job.H, ceil_div(2 * threads(), std::max<int64_t>(job.B, 1)));
  return parallel_shared(job.B * job.bands, RVRT_DISPATCH(warp_input_gradient), &job);
}

}  // namespace
}  // namespace rvrt

// x (B, H, W, C), flow (B, H, W, 2) px as (x, y), attributes [padding: 0 zeros, 1 border] -> out (B, H, W, C):
// x sampled bilinearly at (column + flow_x, row + flow_y), pixel centers at whole numbers.
RVRT_ENTRY(warp_forward) {
  if (const int bad = t.check(2, 1, 1)) return bad;
  rvrt::WarpJob job{};
  if (const int bad = rvrt::warp_job(t, 3, 2, &job)) return bad;
  job.out = t.f(3);
  return rvrt::parallel_shared(job.B * job.H, RVRT_DISPATCH(warp_rows), &job);
}

// x, flow, dout (B, H, W, C), attributes as above -> dx as x, dflow as flow.
RVRT_ENTRY(warp_backward) {
  if (const int bad = t.check(3, 1, 2)) return bad;
  rvrt::WarpJob job{};
  if (const int bad = rvrt::warp_job(t, 2, 3, &job)) return bad;
  RVRT_CHECK(t.same_shape(0, 4) && t.same_shape(1, 5), rvrt::kShape);
  job.dout = t.f(2), job.dx = t.f(4), job.dflow = t.f(5);
  return rvrt::warp_gradients(job);
}

// x (N, T, H, W, C), flows (N, T, T, H, W, 2) px as (x, y) -> out (N, T, H, W, T * C + T * 2): field n of frame b, warped
// from frame (n + b) % T with zeros beyond the frame, at channels n * C on; then the fields.
RVRT_ENTRY(warp_clip_forward) {
  if (const int bad = t.check(2, 0, 1)) return bad;
  rvrt::WarpJob job{};
  if (const int bad = rvrt::warp_clip_job(t, 2, &job)) return bad;
  job.out = t.f(2);
  return rvrt::parallel_shared(job.B * job.H, RVRT_DISPATCH(warp_rows), &job);
}

// x, flows, dout as `out` there -> dx as x, dflows as flows.
RVRT_ENTRY(warp_clip_backward) {
  if (const int bad = t.check(3, 0, 2)) return bad;
  rvrt::WarpJob job{};
  if (const int bad = rvrt::warp_clip_job(t, 2, &job)) return bad;
  RVRT_CHECK(t.same_shape(0, 3) && t.same_shape(1, 4), rvrt::kShape);
  job.dout = t.f(2), job.dx = t.f(3), job.dflow = t.f(4);
  return rvrt::warp_gradients(job);
}

#else

#include "simd.h"

// out[c] = the corners' weighted sum, `channels` of them.
RVRT_INLINE void sample(const Footprint& f, const float* frame, int64_t width, int64_t channels, float* out) {
  const float* p[4];
  float w[4];
  for (int i = 0; i < 4; ++i) {
    p[i] = frame + (f.y[i >> 1] * width + f.x[i & 1]) * channels;
    w[i] = f.wy[i >> 1] * f.wx[i & 1];
  }
  int64_t c = 0;
  for (; c + W <= channels; c += W)
    store(out + c, load(p[0] + c) * w[0] + load(p[1] + c) * w[1] + load(p[2] + c) * w[2] + load(p[3] + c) * w[3]);
  for (; c < channels; ++c) out[c] = p[0][c] * w[0] + p[1][c] * w[1] + p[2][c] * w[2] + p[3][c] * w[3];
}

void warp_rows(const void* context, Span span) {
  const WarpJob& job = *static_cast<const WarpJob*>(context);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t image = task / job.H, row = task % job.H;
    for (int64_t field = image * job.T; field < (image + 1) * job.T; ++field) {
      const float* frame = job.x + job.at(job.source(field), 0, 0) * job.C;
      for (int64_t col = 0; col < job.W; ++col) {
        sample(footprint(job, field, row, col), frame, job.W, job.C, job.out + job.out_at(field, row, col));
        if (!job.joins) continue;
        const float* flow = job.flow + job.at(field, row, col) * 2;
        std::memcpy(job.out + job.joined_at(field, row, col), flow, 2 * sizeof(float));
      }
    }
  }
}

void warp_flow_gradient(const void* context, Span span) {
  const WarpJob& job = *static_cast<const WarpJob*>(context);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t field = task / job.H, row = task % job.H;
    const float* frame = job.x + job.at(job.source(field), 0, 0) * job.C;
    int64_t first = job.H, last = -1;
    for (int64_t col = 0; col < job.W; ++col) {
      const Footprint f = footprint(job, field, row, col);
      const float* g = job.dout + job.out_at(field, row, col);
      float dot[4];  // of the output's gradient with each corner
      for (int i = 0; i < 4; ++i) {
        const float* p = frame + (f.y[i >> 1] * job.W + f.x[i & 1]) * job.C;
        vf acc = {};
        int64_t c = 0;
        for (; c + W <= job.C; c += W) acc += load(g + c) * load(p + c);
        dot[i] = c ? sum(acc) : 0.0f;
        for (; c < job.C; ++c) dot[i] += g[c] * p[c];
      }
      float* dflow = job.dflow + (task * job.W + col) * 2;
      dflow[0] = f.wy[0] * (f.sx[0] * dot[0] + f.sx[1] * dot[1]) + f.wy[1] * (f.sx[0] * dot[2] + f.sx[1] * dot[3]);
      dflow[1] = f.wx[0] * (f.sy[0] * dot[0] + f.sy[1] * dot[2]) + f.wx[1] * (f.sy[0] * dot[1] + f.sy[1] * dot[3]);
      if (job.joins) {
        const float* direct = job.dout + job.joined_at(field, row, col);
        dflow[0] += direct[0], dflow[1] += direct[1];
      }
      for (int i = 0; i < 2; ++i) {
        if (f.wy[i] == 0) continue;
        first = std::min(first, f.y[i]);
        last = std::max(last, f.y[i]);
      }
    }
    job.reach[2 * task] = static_cast<int32_t>(first);
    job.reach[2 * task + 1] = static_cast<int32_t>(last);
  }
}

// Adds to rows [top, bottom) of a frame's gradient what `field` has read of them.
inline void add_field_gradient(const WarpJob& job, int64_t field, int64_t top, int64_t bottom, float* frame) {
  for (int64_t row = 0; row < job.H; ++row) {
    const int32_t* reach = job.reach + 2 * (field * job.H + row);
    if (reach[0] >= bottom || reach[1] < top) continue;
    for (int64_t col = 0; col < job.W; ++col) {
      const Footprint f = footprint(job, field, row, col);
      const float* g = job.dout + job.out_at(field, row, col);
      for (int i = 0; i < 4; ++i) {
        const int64_t y = f.y[i >> 1];
        const float w = f.wy[i >> 1] * f.wx[i & 1];
        if (w == 0 || y < top || y >= bottom) continue;
        float* p = frame + (y * job.W + f.x[i & 1]) * job.C;
        int64_t c = 0;
        for (; c + W <= job.C; c += W) store(p + c, load(p + c) + load(g + c) * w);
        for (; c < job.C; ++c) p[c] += g[c] * w;
      }
    }
  }
}

void warp_input_gradient(const void* context, Span span) {
  const WarpJob& job = *static_cast<const WarpJob*>(context);
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t image = task / job.bands, band = task % job.bands;
    const int64_t top = band * job.H / job.bands, bottom = (band + 1) * job.H / job.bands;
    float* frame = job.dx + image * job.H * job.W * job.C;
    std::fill(frame + top * job.W * job.C, frame + bottom * job.W * job.C, 0.0f);
    const int64_t clip = image / job.T, t = image % job.T;
    for (int64_t other = 0; other < job.T; ++other)  // its field that reads this frame
      add_field_gradient(job, (clip * job.T + other) * job.T + (t - other + job.T) % job.T, top, bottom, frame);
  }
}

#endif
