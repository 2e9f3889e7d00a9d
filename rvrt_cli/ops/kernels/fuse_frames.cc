// SPDX-License-Identifier: Apache-2.0
// Frame fusion: kernel regression of the samples of a frame and its neighbors on the grid of the upscaled frame; see
// ops/frame_fusion.py.
//
// Vector lanes are pixels of a row: the exponentials of a pixel's places are few, and sums need no broadcasts.
#ifndef RVRT_ISA

#include "clip_flows.h"

#include <algorithm>

namespace rvrt {
namespace {

constexpr int kScale = 4, kPlaces = kScale * kScale, kColors = 3;
constexpr int kReach = 2, kRows = 2 * kReach + 1;  // pixels of the frame that cubic interpolation reads
constexpr float kCubic = -0.75f;
constexpr float kSpread = 0.25f, kTrust = 0.1f, kFade = 1.0f / 16;
constexpr int64_t kPadding = 16;   // floats on either side of a row of colors: a vector
constexpr float kFar = 1e6f;       // px; anything farther is equally far outside
constexpr float kMissing = -8.0f;  // every value of a missing frame: MISSING_FRAME

// A frame and its neighbors, `count` from place `first` on in the lists of them.
struct FusedFrame {
  const float* frame;
  int64_t first, count;
};

struct FusionJob {
  const FusedFrame* frames;
  const float* const* neighbors;
  const float *flows, *matches;  // of each neighbor
  float* out;
  int64_t H, W;
  float* scratch;
  int64_t scratch_floats;
};

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "fuse_frames.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

int run_fusion(FusionJob& job, int64_t frames) {
  RVRT_CHECK(job.H < (1 << 24) && job.W < (1 << 24), kShape);
  job.scratch_floats = kRows * kColors * (job.W + 2 * kPadding);
  const Scratch scratch(parallel_width(frames * job.H) * job.scratch_floats, true);
  RVRT_CHECK(scratch.ok(), kMemory);
  job.scratch = scratch.data();
  return parallel_shared(frames * job.H, RVRT_DISPATCH(fuse_rows), &job);
}

bool is_missing(const float* frame, int64_t floats) {
  return std::all_of(frame, frame + floats, [](float value) { return value == kMissing; });
}

}  // namespace
}  // namespace rvrt

// frame (B, H, W, 3), neighbors (B, K, H, W, 3), flows (B, K, H, W, 2) px as (x, y), matches (B, K, H, W) -> (B, H, W, 64):
// 3 x 16 places of the regression less the frame's pixel; then the neighbors' share of the weight at each place.
RVRT_ENTRY(fuse_frames_forward) {
  using namespace rvrt;
  if (const int bad = t.check(4, 0, 1)) return bad;
  RVRT_CHECK(t.ndims[0] == 4 && t.ndims[1] == 5, kShape);
  const int64_t B = t.dim(0, 0), K = t.dim(1, 1), H = t.dim(0, 1), W = t.dim(0, 2), size = H * W * kColors;
  RVRT_CHECK(t.has_shape(0, {B, H, W, kColors}) && t.has_shape(1, {B, K, H, W, kColors}), kShape);
  RVRT_CHECK(t.has_shape(2, {B, K, H, W, 2}) && t.has_shape(3, {B, K, H, W}), kShape);
  RVRT_CHECK(t.has_shape(4, {B, H, W, (kColors + 1) * kPlaces}), kShape);
  std::vector<FusedFrame> frames;
  std::vector<const float*> neighbors;
  for (int64_t b = 0; b < B; ++b) {
    frames.push_back({t.f(0) + b * size, b * K, K});
    for (int64_t k = 0; k < K; ++k) neighbors.push_back(t.f(1) + (b * K + k) * size);
  }
  FusionJob job{frames.data(), neighbors.data(), t.f(2), t.f(3), t.f(4), H, W, nullptr, 0};
  return run_fusion(job, B);
}

// video (N, R + T + R, H, W, 3), attributes [levels, iterations on each] of the flow -> (N, T, H, W, 64): the T frames in
// the middle as fuse_frames_forward fuses each with R frames on either side, by the flow of lucas_kanade_forward. Missing
// frames, which would have no weight, are left out.
RVRT_ENTRY(fuse_clip_forward) {
  using namespace rvrt;
  if (const int bad = t.check(1, 2, 1)) return bad;
  RVRT_CHECK(t.ndims[0] == 5 && t.ndims[2] == 5, kShape);
  const int64_t N = t.dim(0, 0), L = t.dim(0, 1), H = t.dim(0, 2), W = t.dim(0, 3), size = H * W * kColors;
  const int64_t T = t.dim(2, 1), R = (L - T) / 2;
  RVRT_CHECK(t.has_shape(0, {N, L, H, W, kColors}) && L == T + 2 * R && T > 0, kShape);
  RVRT_CHECK(t.has_shape(2, {N, T, H, W, (kColors + 1) * kPlaces}), kShape);
  if (N * size == 0) return kOk;
  for (int64_t n = 0; n < N; ++n) {  // flows of one video at a time
    const auto frame = [&](int64_t i) { return t.f(0) + (n * L + i) * size; };
    std::vector<bool> missing(L);
    for (int64_t i = 0; i < L; ++i) missing[i] = is_missing(frame(i), size);
    // To a frame that is missing itself, others like it would be neighbors as good as any.
    if (std::count(missing.begin() + R, missing.begin() + R + T, true)) missing.assign(L, false);
    std::vector<const float*> video, neighbors;
    std::vector<int64_t> places(L);  // of frames in `video`
    for (int64_t i = 0; i < L; ++i) {
      places[i] = static_cast<int64_t>(video.size());
      if (!missing[i]) video.push_back(frame(i));
    }
    std::vector<FramePair> pairs;
    std::vector<FusedFrame> fused;
    for (int64_t i = R; i < R + T; ++i) {
      const int64_t first = static_cast<int64_t>(pairs.size());
      for (int64_t k = i - R; k <= i + R; ++k) {
        if (k == i || missing[k]) continue;
        pairs.push_back({places[i], places[k]});
        neighbors.push_back(frame(k));
      }
      fused.push_back({frame(i), first, static_cast<int64_t>(pairs.size()) - first});
    }
    const int64_t pixels = static_cast<int64_t>(pairs.size()) * H * W;
    const Scratch scratch(3 * pixels);
    RVRT_CHECK(scratch.ok(), kMemory);
    float *flows = scratch.data(), *matches = flows + 2 * pixels;
    if (const int bad = flows_of_pairs(video, pairs, H, W, t.ints(1)[0], t.ints(1)[1], flows, matches)) return bad;
    float* out = t.f(2) + n * T * H * W * (kColors + 1) * kPlaces;
    FusionJob job{fused.data(), neighbors.data(), flows, matches, out, H, W, nullptr, 0};
    if (const int bad = run_fusion(job, T)) return bad;
  }
  return kOk;
}

#else

#include "simd.h"

// Weights at the four places of one axis for samples at `offset` px. The ratio of one weight to the one before is
// geometric: two exponentials suffice.
RVRT_INLINE void place_weights(vf offset, vf (&weights)[kScale]) {
  constexpr float kSharpness = 0.5f * kLog2e / (kSpread * kSpread), kStep = 1.0f / kScale;
  const vf distance = (0.5f * kStep - 0.5f) - offset;
  const vf narrowing = exp2(set1(-2 * kSharpness * kStep * kStep));
  weights[0] = exp2(-kSharpness * distance * distance);
  vf ratio = exp2(-kSharpness * kStep * (2.0f * distance + kStep));
  for (int i = 1; i < kScale; ++i) weights[i] = weights[i - 1] * ratio, ratio *= narrowing;
}

// Weights of cubic interpolation at `offset` px, from 0 to 1, of the pixels at -1, 0, 1 and 2.
RVRT_INLINE void cubic_weights(vf offset, vf (&weights)[4]) {
  const vf rest = 1.0f - offset;
  const auto outer = [](vf near, vf far) { return kCubic * far * far * near; };  // of a pixel 1 + near away
  const auto inner = [](vf away) { return (((kCubic + 2) * away - (kCubic + 3)) * away) * away + 1.0f; };
  weights[0] = outer(offset, rest), weights[1] = inner(offset), weights[2] = inner(rest),
  weights[3] = outer(rest, offset);
}

// Colors of the frame at W pixels and around them, the frame's border repeated.
struct Surroundings {
  const float* rows[kRows][kColors];

  vf at(int down, int right, int color) const { return load(rows[down + kReach][color] + right); }
};

// Weighted sum of four pixels of a row, the first of them `right` px from this one.
RVRT_INLINE vf interpolated(const Surroundings& frame, int down, int right, int color, const vf (&weights)[4]) {
  vf sum = weights[0] * frame.at(down, right, color);
  for (int i = 1; i < 4; ++i) sum += weights[i] * frame.at(down, right + i, color);
  return sum;
}

// The regression at the places of W pixels: of what samples differ by from the frame, interpolated.
struct Sums {
  vf color[kColors][kPlaces], weight[kPlaces];
};

// One axis of the two pixels of a neighbor on either side of where the flow leads.
struct Pair {
  vf offset[2];    // px from this pixel: the first in (-1, 0], the second in (0, 1]
  vf presence[2];  // 1, fading to 0 at a whole pixel: there another sample takes this one's place
  vi index[2], inside[2];
};

RVRT_INLINE Pair pair_at(vf flow, vi index, int64_t size) {
  const int32_t length = static_cast<int32_t>(size);
  const vf limited = vmin(vmax(flow, set1(-kFar)), set1(kFar));  // NaN, too, is far
  vi whole = __builtin_convertvector(limited, vi);
  whole += __builtin_convertvector(whole, vf) > limited;  // truncation to floor; true is -1
  Pair pair;
  pair.offset[0] = __builtin_convertvector(whole, vf) - limited;
  pair.offset[1] = pair.offset[0] + 1.0f;
  pair.presence[0] = vmin(pair.offset[1] * (1 / kFade), set1(1.0f));
  pair.presence[1] = vmin(-pair.offset[0] * (1 / kFade), set1(1.0f));
  for (int i = 0; i < 2; ++i) {
    const vi at = index + whole + i;
    pair.inside[i] = (at >= 0) & (at < length);
    pair.index[i] = at & pair.inside[i];
  }
  return pair;
}

// Samples at the corners (y, x) -> what they differ by from the frame there, and their weight by that.
RVRT_INLINE void compare_corners(const Surroundings& frame, const Pair& y, const Pair& x,
                                 const float (&samples)[4][kColors][W], vf (&differences)[4][kColors], vf (&trust)[4]) {
  constexpr float kFactor = -0.5f * kLog2e / (kColors * kTrust * kTrust);
  // Less would not count beside the frame's own weights, and times two small weights it would be a denormal number.
  constexpr float kLeast = -40.0f;
  vf unlike[4] = {}, along[4], beside[4];
  cubic_weights(y.offset[1], along), cubic_weights(x.offset[1], beside);
  for (int c = 0; c < kColors; ++c) {
    vf across[kRows][2];  // at both offsets: they are a pixel apart
    for (int r = 0; r < kRows; ++r)
      for (int right = 0; right < 2; ++right)
        across[r][right] = interpolated(frame, r - kReach, right - kReach, c, beside);
    for (int i = 0; i < 4; ++i) {
      const int down = i / 2, right = i % 2;
      vf expected = along[0] * across[down][right];
      for (int r = 1; r < 4; ++r) expected += along[r] * across[down + r][right];
      // Outside, whatever was read instead must not count, even if it is NaN.
      differences[i][c] = (vf)((vi)(load(samples[i][c]) - expected) & y.inside[down] & x.inside[right]);
      unlike[i] += differences[i][c] * differences[i][c];
    }
  }
  for (int i = 0; i < 4; ++i) {
    const vf exponent = kFactor * unlike[i];
    const vf likeness = exp2(exponent) * y.presence[i / 2] * x.presence[i % 2];
    trust[i] = (vf)((vi)likeness & y.inside[i / 2] & x.inside[i % 2] & (exponent > kLeast));
  }
}

// Add values at the corners, by their weights at the places of either axis.
RVRT_INLINE void add_corners(const vf (&values)[4], const vf (&down)[2][kScale], const vf (&across)[2][kScale],
                             vf (&sums)[kPlaces]) {
  for (int j = 0; j < kScale; ++j) {
    const vf above = values[0] * across[0][j] + values[1] * across[1][j];
    const vf below = values[2] * across[0][j] + values[3] * across[1][j];
    for (int i = 0; i < kScale; ++i) sums[i * kScale + j] += down[0][i] * above + down[1][i] * below;
  }
}

// Add a neighbor's samples at the corners (y, x), which are to be trusted as far as they match.
RVRT_INLINE void add_neighbor(const float* neighbor, int64_t line, const Pair& y, const Pair& x, vf match,
                              const Surroundings& frame, Sums& sums) {
  int32_t rows[2][W], columns[2][W];
  for (int i = 0; i < 2; ++i) store(rows[i], y.index[i]), store(columns[i], x.index[i] * kColors);
  float samples[4][kColors][W];
  for (int lane = 0; lane < W; ++lane)
    for (int i = 0; i < 4; ++i) {
      const float* sample = neighbor + rows[i / 2][lane] * line + columns[i % 2][lane];
      for (int c = 0; c < kColors; ++c) samples[i][c][lane] = sample[c];
    }
  vf trust[4], differences[4][kColors], down[2][kScale], across[2][kScale];
  compare_corners(frame, y, x, samples, differences, trust);
  for (int i = 0; i < 2; ++i) place_weights(y.offset[i], down[i]), place_weights(x.offset[i], across[i]);
  for (vf& one : trust) one *= match;
  add_corners(trust, down, across, sums.weight);
  for (int c = 0; c < kColors; ++c) {
    vf values[4];
    for (int i = 0; i < 4; ++i) values[i] = trust[i] * differences[i][c];
    add_corners(values, down, across, sums.color[c]);
  }
}

// Sums -> (count, 64).
RVRT_INLINE void write_pixels(const Sums& sums, const Surroundings& frame, const vf (&own)[kScale], int64_t count,
                              float* out) {
  float planes[(kColors + 1) * kPlaces][W];
  vf cubic[kScale][4];
  int start[kScale];
  for (int i = 0; i < kScale; ++i) {
    const float place = (i + 0.5f) / kScale - 0.5f;
    start[i] = place < 0 ? -kReach : 1 - kReach;
    cubic_weights(set1(place < 0 ? place + 1 : place), cubic[i]);
  }
  vf inverse[kPlaces];
  for (int p = 0; p < kPlaces; ++p) {
    inverse[p] = 1.0f / sums.weight[p];
    store(planes[kColors * kPlaces + p], 1.0f - own[p / kScale] * own[p % kScale] * inverse[p]);
  }
  for (int c = 0; c < kColors; ++c)
    for (int j = 0; j < kScale; ++j) {
      vf across[kRows];
      for (int r = 0; r < kRows; ++r) across[r] = interpolated(frame, r - kReach, start[j], c, cubic[j]);
      for (int i = 0; i < kScale; ++i) {
        const int p = i * kScale + j;
        vf value = sums.color[c][p] * inverse[p] - frame.at(0, 0, c);
        for (int r = 0; r < 4; ++r) value += cubic[i][r] * across[start[i] + kReach + r];
        store(planes[c * kPlaces + p], value);
      }
    }
  constexpr int kChannels = (kColors + 1) * kPlaces;
  transpose(planes[0], W, kChannels, count, 1.0f, out, kChannels);
}

RVRT_INLINE void split_colors(const float* pixels, int64_t width, float* const* rows) {
  for (int c = 0; c < kColors; ++c) {
    float* row = rows[c];
    for (int64_t x = 0; x < width; ++x) row[x] = pixels[x * kColors + c];
    for (int i = 1; i <= kReach; ++i) row[-i] = row[0], row[width - 1 + i] = row[width - 1];
  }
}

void fuse_rows(const void* context, Span span) {
  const FusionJob& job = *static_cast<const FusionJob*>(context);
  const int64_t line = job.W * kColors;
  vf own[kScale] = {};  // weights of the frame's own pixels, which do not differ from it, on one axis
  for (int d = -1; d <= 1; ++d) {
    vf weights[kScale];
    place_weights(set1(static_cast<float>(d)), weights);
    for (int i = 0; i < kScale; ++i) own[i] += weights[i];
  }
  vi lanes;
  for (int i = 0; i < W; ++i) lanes[i] = i;
  float* rows[kRows][kColors];
  for (int i = 0; i < kRows * kColors; ++i)
    rows[i / kColors][i % kColors] =
        job.scratch + span.thread * job.scratch_floats + i * (job.W + 2 * kPadding) + kPadding;
  for (int64_t task = span.begin; task < span.end; ++task) {
    const FusedFrame& fused = job.frames[task / job.H];
    const int64_t row = task % job.H;
    for (int y = 0; y < kRows; ++y) {
      const int64_t near = std::min(std::max<int64_t>(row + y - kReach, 0), job.H - 1);
      split_colors(fused.frame + near * line, job.W, rows[y]);
    }
    for (int64_t col = 0; col < job.W; col += W) {
      const int64_t count = std::min<int64_t>(W, job.W - col);
      Surroundings frame;
      for (int i = 0; i < kRows * kColors; ++i)
        frame.rows[i / kColors][i % kColors] = rows[i / kColors][i % kColors] + col;
      Sums sums = {};
      for (int p = 0; p < kPlaces; ++p) sums.weight[p] = own[p / kScale] * own[p % kScale];
      for (int64_t neighbor = fused.first; neighbor < fused.first + fused.count; ++neighbor) {
        const float* flow = job.flows + ((neighbor * job.H + row) * job.W + col) * 2;
        const float* matches = job.matches + (neighbor * job.H + row) * job.W + col;
        float across[W] = {}, along[W] = {}, match[W] = {};
        for (int64_t i = 0; i < count; ++i) across[i] = flow[2 * i], along[i] = flow[2 * i + 1], match[i] = matches[i];
        const Pair y = pair_at(load(along), vi{} + static_cast<int32_t>(row), job.H);
        const Pair x = pair_at(load(across), lanes + static_cast<int32_t>(col), job.W);
        add_neighbor(job.neighbors[neighbor], line, y, x, load(match), frame, sums);
      }
      write_pixels(sums, frame, own, count, job.out + (task * job.W + col) * (kColors + 1) * kPlaces);
    }
  }
}

#endif
