// SPDX-License-Identifier: Apache-2.0
// What follows the network in inference, on whole output frames: chroma shrinkage and steadying. The definitions are
// model/chroma_shrinkage.py and model/steadying.py, which say what the constants are.
//
// Vector lanes are input pixels. The output is read twice and written once: what the network adds to bicubic chroma is
// computed again rather than stored.
#ifndef RVRT_ISA

#include "kernel.h"

#include <algorithm>
#include <cmath>

namespace rvrt {
namespace {

constexpr int kFactor = 4, kColors = 3, kChroma = 2;  // output px per input px along an axis; of RGB; Cb and Cr
constexpr int kPixelRow = kFactor * kColors;          // floats of an output row in an input pixel
constexpr int64_t kPad = 16;                          // floats on either side of a row: a vector
constexpr float kToChroma[kChroma][kColors] = {{-37.797f, -74.203f, 112.0f}, {112.0f, -93.786f, -18.214f}};
// The inverse of YCbCr from RGB, without its first column.
constexpr float kFromChroma[kChroma][kColors] = {{1.18570129e-9f, -1.53632368e-3f, 7.91071620e-3f},
                                                 {6.25892891e-3f, -3.18811091e-3f, 1.19474286e-8f}};
constexpr float kNoise = 10.0f, kCoarse = 0.4f, kRounding = 0.05f;
// Bicubic weights of the input px x - 2 ... x + 2 at the output px of x (Keys, a = -0.5).
constexpr float kBicubic[kFactor][5] = {{-0.0439453125f, 0.3896484375f, 0.7275390625f, -0.0732421875f, 0},
                                        {-0.0068359375f, 0.0908203125f, 0.9638671875f, -0.0478515625f, 0},
                                        {0, -0.0478515625f, 0.9638671875f, 0.0908203125f, -0.0068359375f},
                                        {0, -0.0732421875f, 0.7275390625f, 0.3896484375f, -0.0439453125f}};
constexpr float kSigma = 2.0f / 255, kLeastShare = 1e-3f;
constexpr float kNegligible = 1e-8f;  // a share that rounding exceeds

// Rows whose first and last px are repeated beyond their ends; whole vectors may be read and written there.
struct Plane {
  float* data = nullptr;
  int64_t stride = 0;
  float* row(int64_t r) const { return data + r * stride + kPad; }
};

int64_t stride_of(int64_t width) { return 2 * kPad + round_up(width, kPad); }

Plane take(Arena& arena, int64_t rows, int64_t width) {
  const int64_t stride = stride_of(width);
  return {arena.take(rows * stride), stride};
}

int64_t within(int64_t at, int64_t length) { return std::min(std::max<int64_t>(at, 0), length - 1); }

// One frame; each pass states which members it reads and writes.
struct ShrinkJob {
  const float *raw, *low;
  float* out;
  int64_t H, W;  // of `low`
  Plane chroma[kChroma], smooth[kChroma], fine[kChroma], coarse[kChroma], power[kChroma];
  Plane rows;  // 8 for each thread
};

constexpr int kThreadRows = 8;

struct SteadyJob {
  const float *raw, *frame, *before;  // input frames
  const float *last, *kept;           // the output frame before: as a frame, or as `kept`
  float *out, *next;
  int64_t H, W;
  float share;
  Plane largest, weight, mean;
  Plane rows;  // 2 of 12 W floats for each thread
};

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "finish_output.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

void shrink_frame(const ShrinkJob& job) {
  parallel_shared(job.H, RVRT_DISPATCH(chroma_rows), &job);
  parallel_shared(job.H, RVRT_DISPATCH(smooth_rows), &job);
  parallel_shared(job.H, RVRT_DISPATCH(measure_rows), &job);
  parallel_shared(job.H, RVRT_DISPATCH(shrink_rows), &job);
}

void steady_frame(const SteadyJob& job) {
  parallel_shared(job.H, RVRT_DISPATCH(change_rows), &job);
  parallel_shared(job.H, RVRT_DISPATCH(share_rows), &job);
  parallel_shared(job.H, RVRT_DISPATCH(mean_rows), &job);
  float most = 0;
  for (int64_t r = 0; r < job.H; ++r)
    most = std::max(most, *std::max_element(job.mean.row(r), job.mean.row(r) + job.W));
  if (most > kLeastShare)
    parallel_shared(job.H, RVRT_DISPATCH(mix_rows), &job);
  else if (job.out != job.raw)
    std::copy(job.raw, job.raw + job.H * job.W * kFactor * kPixelRow, job.out);
}

}  // namespace
}  // namespace rvrt

// raw (B, 4H, 4W, 3), the network's output; low (B, H, W, 3), its input, RGB in [0, 1] -> raw's chroma shrunk, which
// may take raw's place.
RVRT_ENTRY(shrink_chroma_forward) {
  using namespace rvrt;
  if (const int bad = t.check(2, 0, 1)) return bad;
  RVRT_CHECK(t.ndims[1] == 4 && t.dim(1, 3) == kColors, kShape);
  const int64_t B = t.dim(1, 0), H = t.dim(1, 1), W = t.dim(1, 2), size = H * W * kColors;
  RVRT_CHECK(t.has_shape(0, {B, kFactor * H, kFactor * W, kColors}) && t.same_shape(0, 2), kShape);
  if (B * size == 0) return kOk;
  ShrinkJob job{};
  job.H = H, job.W = W;
  const auto planes = [&](float* block) {
    Arena arena(block);
    for (auto* pair : {&job.chroma, &job.smooth, &job.fine, &job.coarse, &job.power})
      for (Plane& plane : *pair) plane = take(arena, H, W);
    job.rows = take(arena, kThreadRows * parallel_width(H), W);
    return arena.taken();
  };
  const Scratch scratch(planes(nullptr), true);
  RVRT_CHECK(scratch.ok(), kMemory);
  planes(scratch.data());
  for (int64_t b = 0; b < B; ++b) {
    job.low = t.f(1) + b * size;
    job.raw = t.f(0) + b * size * kFactor * kFactor, job.out = t.f(2) + b * size * kFactor * kFactor;
    shrink_frame(job);
  }
  return kOk;
}

// raw (T, 4H, 4W, 3), output frames; frames (T, H, W, 3), their input; before (1, H, W, 3) and kept (1, H, W, 48), the
// input and output frame before them, or of no frame (0, ...); share (1) -> raw steadied, which may take raw's place; the
// last frame as `kept`: the 4x4 output px of each input px.
RVRT_ENTRY(steady_forward) {
  using namespace rvrt;
  if (const int bad = t.check(5, 0, 2)) return bad;
  RVRT_CHECK(t.ndims[1] == 4 && t.ndims[2] == 4 && t.size(4) == 1, kShape);
  const int64_t T = t.dim(1, 0), H = t.dim(1, 1), W = t.dim(1, 2), size = H * W * kColors, known = t.dim(2, 0);
  constexpr int64_t kKept = kFactor * kPixelRow;
  RVRT_CHECK(t.has_shape(0, {T, kFactor * H, kFactor * W, kColors}) && t.same_shape(0, 5), kShape);
  RVRT_CHECK(t.has_shape(1, {T, H, W, kColors}) && t.has_shape(2, {known, H, W, kColors}) && known <= 1, kShape);
  RVRT_CHECK(t.has_shape(3, {known, H, W, kKept}) && t.has_shape(6, {1, H, W, kKept}) && T > 0, kShape);
  if (size == 0) return kOk;
  SteadyJob job{};
  job.H = H, job.W = W, job.share = t.f(4)[0], job.next = t.f(6);
  const auto planes = [&](float* block) {
    Arena arena(block);
    for (Plane* plane : {&job.largest, &job.weight, &job.mean}) *plane = take(arena, H, W);
    job.rows = take(arena, 2 * parallel_width(H), W * kPixelRow);
    return arena.taken();
  };
  const Scratch scratch(planes(nullptr), true);
  RVRT_CHECK(scratch.ok(), kMemory);
  planes(scratch.data());
  job.before = known ? t.f(2) : nullptr, job.kept = known ? t.f(3) : nullptr;
  for (int64_t i = 0; i < T; ++i) {
    job.frame = t.f(1) + i * size;
    job.raw = t.f(0) + i * size * kFactor * kFactor, job.out = t.f(5) + i * size * kFactor * kFactor;
    if (job.before)
      steady_frame(job);
    else if (job.out != job.raw)
      std::copy(job.raw, job.raw + size * kFactor * kFactor, job.out);
    job.before = job.frame, job.last = job.out, job.kept = nullptr;
  }
  return parallel_shared(H, RVRT_DISPATCH(keep_rows), &job);
}

#else

#include "simd.h"

RVRT_INLINE void repeat_edges(float* row, int64_t width) {
  row[-2] = row[-1] = row[0], row[width] = row[width + 1] = row[width - 1];
}

// --- chroma shrinkage

// low -> chroma
void chroma_rows(const void* context, Span span) {
  const ShrinkJob& job = *static_cast<const ShrinkJob*>(context);
  for (int64_t r = span.begin; r < span.end; ++r) {
    const float* from = job.low + r * job.W * kColors;
    for (int c = 0; c < kChroma; ++c) {
      float* to = job.chroma[c].row(r);
      for (int64_t x = 0; x < job.W; ++x)
        to[x] = kToChroma[c][0] * from[3 * x] + kToChroma[c][1] * from[3 * x + 1] + kToChroma[c][2] * from[3 * x + 2];
      repeat_edges(to, job.W);
    }
  }
}

// Sums over (2 * REACH + 1) rows around row r, the frame's edges repeated.
template <int REACH>
RVRT_INLINE void sum_columns(const Plane& plane, int64_t r, int64_t height, int64_t width, float* to) {
  const float* rows[2 * REACH + 1];
  for (int i = -REACH; i <= REACH; ++i) rows[i + REACH] = plane.row(within(r + i, height));
  for (int64_t x = 0; x < width; x += W) {
    vf sum = load(rows[0] + x);
    for (int i = 1; i <= 2 * REACH; ++i) sum += load(rows[i] + x);
    store(to + x, sum);
  }
  repeat_edges(to, width);
}

// Means over (2 * REACH + 1)² px at x of a row of `sum_columns`.
template <int REACH>
RVRT_INLINE vf box_mean(const float* sums) {
  vf sum = load(sums - REACH);
  for (int i = 1 - REACH; i <= REACH; ++i) sum += load(sums + i);
  return sum * (1.0f / ((2 * REACH + 1) * (2 * REACH + 1)));
}

// chroma -> smooth, and fine: the square of what is finer
void smooth_rows(const void* context, Span span) {
  const ShrinkJob& job = *static_cast<const ShrinkJob*>(context);
  float* sums = job.rows.row(span.thread * kThreadRows);
  for (int64_t r = span.begin; r < span.end; ++r)
    for (int c = 0; c < kChroma; ++c) {
      const float* chroma = job.chroma[c].row(r);
      float *smooth = job.smooth[c].row(r), *fine = job.fine[c].row(r);
      sum_columns<1>(job.chroma[c], r, job.H, job.W, sums);
      for (int64_t x = 0; x < job.W; x += W) {
        const vf mean = box_mean<1>(sums + x), rest = load(chroma + x) - mean;
        store(smooth + x, mean), store(fine + x, rest * rest);
      }
      repeat_edges(smooth, job.W), repeat_edges(fine, job.W);
    }
}

// Bicubic chroma of output row 4 r + phase, upscaled down the columns only.
RVRT_INLINE void upscale_columns(const ShrinkJob& job, int64_t r, int phase, float* const (&to)[kChroma]) {
  for (int c = 0; c < kChroma; ++c) {
    const float* rows[5];
    for (int i = 0; i < 5; ++i) rows[i] = job.chroma[c].row(within(r + i - 2, job.H));
    for (int64_t x = 0; x < job.W; x += W) {
      vf sum = {};
      for (int i = 0; i < 5; ++i) sum += kBicubic[phase][i] * load(rows[i] + x);
      store(to[c] + x, sum);
    }
    repeat_edges(to[c], job.W);
  }
}

// `count` input px of an output row, as planes of their 12 floats.
RVRT_INLINE void load_pixels(const float* from, int64_t count, float (&pixels)[kPixelRow][W]) {
  transpose(from, kPixelRow, count, kPixelRow, 1.0f, pixels[0], W);
}

// What the network adds to the chroma of W input px of an output row, for each of their four columns.
RVRT_INLINE void added_chroma(const float (&pixels)[kPixelRow][W], const float* const (&columns)[kChroma], int64_t x,
                              vf (&added)[kChroma][kFactor]) {
  for (int c = 0; c < kChroma; ++c) {
    vf near[5];
    for (int i = 0; i < 5; ++i) near[i] = load(columns[c] + x + i - 2);
    for (int q = 0; q < kFactor; ++q) {
      vf sum = {}, bicubic = {};
      for (int k = 0; k < kColors; ++k) sum += kToChroma[c][k] * load(pixels[q * kColors + k]);
      for (int i = q / 2; i < q / 2 + 4; ++i) bicubic += kBicubic[q][i] * near[i];
      added[c][q] = sum - bicubic;
    }
  }
}

// smooth -> coarse: the square of what is finer than 5 px; raw, chroma -> power: the mean square of what is added
void measure_rows(const void* context, Span span) {
  const ShrinkJob& job = *static_cast<const ShrinkJob*>(context);
  float* own[3];
  for (int i = 0; i < 3; ++i) own[i] = job.rows.row(span.thread * kThreadRows + i);
  float* const upscaled[kChroma] = {own[1], own[2]};
  const float* const columns[kChroma] = {own[1], own[2]};
  float pixels[kPixelRow][W] = {};
  for (int64_t r = span.begin; r < span.end; ++r) {
    for (int c = 0; c < kChroma; ++c) {
      const float* smooth = job.smooth[c].row(r);
      float* coarse = job.coarse[c].row(r);
      sum_columns<2>(job.smooth[c], r, job.H, job.W, own[0]);
      for (int64_t x = 0; x < job.W; x += W) {
        const vf rest = load(smooth + x) - box_mean<2>(own[0] + x);
        store(coarse + x, rest * rest);
      }
      repeat_edges(coarse, job.W);
    }
    float* const power[kChroma] = {job.power[0].row(r), job.power[1].row(r)};
    for (int phase = 0; phase < kFactor; ++phase) {
      upscale_columns(job, r, phase, upscaled);
      const float* raw = job.raw + (r * kFactor + phase) * job.W * kPixelRow;
      for (int64_t x = 0; x < job.W; x += W) {
        load_pixels(raw + x * kPixelRow, std::min<int64_t>(W, job.W - x), pixels);
        vf added[kChroma][kFactor];
        added_chroma(pixels, columns, x, added);
        for (int c = 0; c < kChroma; ++c) {
          vf sum = phase ? load(power[c] + x) : vf{};
          for (int q = 0; q < kFactor; ++q) sum += added[c][q] * added[c][q] * (1.0f / (kFactor * kFactor));
          store(power[c] + x, sum);
        }
      }
    }
    for (float* row : power) repeat_edges(row, job.W);
  }
}

// The share of what is added that is removed, from mean squares.
RVRT_INLINE vf removed_share(vf fine, vf coarse, vf added) {
  const vf c2 = coarse * coarse, c4 = c2 * c2;
  const vf finer = fine * (1 / kCoarse) + kRounding, f2 = finer * finer;
  const vf missing = c4 / (c4 + f2 * f2);
  const vf restored = added / (added + 2.0f * fine + 2 * kRounding);
  return kNoise / (fine + kNoise) * (1.0f - missing * restored);
}

// raw, chroma, fine, coarse, power -> out
void shrink_rows(const void* context, Span span) {
  const ShrinkJob& job = *static_cast<const ShrinkJob*>(context);
  float* own[7];
  for (int i = 0; i < 7; ++i) own[i] = job.rows.row(span.thread * kThreadRows + i);
  float* const removed[kChroma] = {own[3], own[4]};
  float* const upscaled[kChroma] = {own[5], own[6]};
  const float* const columns[kChroma] = {own[5], own[6]};
  float pixels[kPixelRow][W] = {};
  for (int64_t r = span.begin; r < span.end; ++r) {
    for (int c = 0; c < kChroma; ++c) {
      sum_columns<2>(job.fine[c], r, job.H, job.W, own[0]);
      sum_columns<2>(job.coarse[c], r, job.H, job.W, own[1]);
      sum_columns<2>(job.power[c], r, job.H, job.W, own[2]);
      for (int64_t x = 0; x < job.W; x += W)
        store(removed[c] + x, removed_share(box_mean<2>(own[0] + x), box_mean<2>(own[1] + x), box_mean<2>(own[2] + x)));
    }
    for (int phase = 0; phase < kFactor; ++phase) {
      upscale_columns(job, r, phase, upscaled);
      const int64_t start = (r * kFactor + phase) * job.W * kPixelRow;
      for (int64_t x = 0; x < job.W; x += W) {
        const int64_t count = std::min<int64_t>(W, job.W - x), at = start + x * kPixelRow;
        load_pixels(job.raw + at, count, pixels);
        vf added[kChroma][kFactor];
        added_chroma(pixels, columns, x, added);
        for (int q = 0; q < kFactor; ++q) {
          const vf blue = added[0][q] * load(removed[0] + x), red = added[1][q] * load(removed[1] + x);
          for (int k = 0; k < kColors; ++k) {
            float* pixel = pixels[q * kColors + k];
            store(pixel, load(pixel) - (kFromChroma[0][k] * blue + kFromChroma[1][k] * red));
          }
        }
        transpose(pixels[0], W, kPixelRow, count, 1.0f, job.out + at, kPixelRow);
      }
    }
  }
}

// --- steadying

// frame, before -> largest: the largest change of a pixel's colors
void change_rows(const void* context, Span span) {
  const SteadyJob& job = *static_cast<const SteadyJob*>(context);
  for (int64_t r = span.begin; r < span.end; ++r) {
    const float *now = job.frame + r * job.W * kColors, *then = job.before + r * job.W * kColors;
    float* to = job.largest.row(r);
    for (int64_t x = 0; x < job.W; ++x) {
      float most = 0;
      for (int k = 0; k < kColors; ++k) most = std::max(most, std::abs(now[3 * x + k] - then[3 * x + k]));
      to[x] = most;
    }
    repeat_edges(to, job.W);
  }
}

// largest -> weight: the share by the largest change within 5x5 px
void share_rows(const void* context, Span span) {
  const SteadyJob& job = *static_cast<const SteadyJob*>(context);
  constexpr float kFall = -kLog2e / (kSigma * kSigma);
  float* columns = job.rows.row(2 * span.thread);
  for (int64_t r = span.begin; r < span.end; ++r) {
    const float* rows[5];
    for (int i = 0; i < 5; ++i) rows[i] = job.largest.row(within(r + i - 2, job.H));
    for (int64_t x = 0; x < job.W; x += W) {
      vf most = load(rows[0] + x);
      for (int i = 1; i < 5; ++i) most = vmax(most, load(rows[i] + x));
      store(columns + x, most);
    }
    repeat_edges(columns, job.W);
    float* to = job.weight.row(r);
    for (int64_t x = 0; x < job.W; x += W) {
      vf most = load(columns + x - 2);
      for (int i = -1; i <= 2; ++i) most = vmax(most, load(columns + x + i));
      store(to + x, job.share * exp2(kFall * most * most));
    }
    repeat_edges(to, job.W);
  }
}

// weight -> mean, over 3x3 px
void mean_rows(const void* context, Span span) {
  const SteadyJob& job = *static_cast<const SteadyJob*>(context);
  float* columns = job.rows.row(2 * span.thread);
  for (int64_t r = span.begin; r < span.end; ++r) {
    const float* rows[3];
    for (int i = 0; i < 3; ++i) rows[i] = job.weight.row(within(r + i - 1, job.H));
    for (int64_t x = 0; x < job.W; x += W)
      store(columns + x, load(rows[0] + x) + load(rows[1] + x) + load(rows[2] + x));
    repeat_edges(columns, job.W);
    for (int64_t x = 0; x < job.W; x += W)
      store(job.mean.row(r) + x, (load(columns + x - 1) + load(columns + x) + load(columns + x + 1)) * (1.0f / 9));
  }
}

// raw, mean, last or kept -> out
void mix_rows(const void* context, Span span) {
  const SteadyJob& job = *static_cast<const SteadyJob*>(context);
  const int64_t line = job.W * kPixelRow;
  float *weights = job.rows.row(2 * span.thread), *before = job.rows.row(2 * span.thread + 1);
  for (int64_t r = span.begin; r < span.end; ++r) {
    const float* mean = job.mean.row(r);
    const bool counts = *std::max_element(mean, mean + job.W) > kNegligible;
    if (counts)
      for (int64_t x = 0; x < job.W; ++x) std::fill(weights + x * kPixelRow, weights + (x + 1) * kPixelRow, mean[x]);
    for (int64_t row = r * kFactor; row < (r + 1) * kFactor; ++row) {
      const float* raw = job.raw + row * line;
      float* out = job.out + row * line;
      if (!counts) {
        if (out != raw) std::copy(raw, raw + line, out);
        continue;
      }
      const float* last = before;
      if (job.kept) {
        const float* kept = job.kept + (r * job.W * kFactor + row % kFactor) * kPixelRow;
        for (int64_t x = 0; x < job.W; ++x, kept += kFactor * kPixelRow)
          std::copy(kept, kept + kPixelRow, before + x * kPixelRow);
      } else {
        last = job.last + row * line;
      }
      int64_t i = 0;
      for (; i + W <= line; i += W) {
        const vf here = load(raw + i);
        store(out + i, here + load(weights + i) * (load(last + i) - here));
      }
      for (; i < line; ++i) out[i] = raw[i] + weights[i] * (last[i] - raw[i]);
    }
  }
}

// last -> next
void keep_rows(const void* context, Span span) {
  const SteadyJob& job = *static_cast<const SteadyJob*>(context);
  for (int64_t r = span.begin; r < span.end; ++r)
    for (int i = 0; i < kFactor; ++i) {
      const float* from = job.last + (r * kFactor + i) * job.W * kPixelRow;
      float* to = job.next + (r * job.W * kFactor + i) * kPixelRow;
      for (int64_t x = 0; x < job.W; ++x, from += kPixelRow, to += kFactor * kPixelRow)
        std::copy(from, from + kPixelRow, to);
    }
}

#endif
