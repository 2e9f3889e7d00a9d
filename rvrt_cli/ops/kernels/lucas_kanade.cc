// SPDX-License-Identifier: Apache-2.0
// Optical flow by the Lucas-Kanade method; see ops/lucas_kanade_flow.py.
//
// One frame, then one pair of frames at a time, as passes over the rows of planes. The threads share the pairs if these are
// many or small, and else the rows. Rows are padded, so that whole vectors and the window may read past their ends.
#ifndef RVRT_ISA

#include "clip_flows.h"

#include <algorithm>
#include <cmath>

namespace rvrt {
namespace {

constexpr int kReach = 8, kTaps = 2 * kReach + 1;  // of the window [px]
constexpr float kSigma = 4.0f, kDamping = 3e-5f;
constexpr int kTryingLevels = 2;   // the finest ones, on which pixels try flows of others
constexpr int kTriedDistance = 5;  // of these others [px]
constexpr int kCandidates = 5;     // the pixel's own flow, and those left, right, above and below
constexpr int kMatchReach = 2, kMatchTaps = 2 * kMatchReach + 1;  // of the window of a match [px]
constexpr float kMatchSigma = 1.0f, kLargestError = 0.02f, kMatchingError = 3e-5f;
constexpr float kFlowSigma = 0.4f, kDetailSigma = 0.015f;
constexpr float kLuma[3] = {0.299f, 0.587f, 0.114f};
constexpr int kMaxLevels = 8;
constexpr int kProducts = 5;                        // of the gradients and the temporal difference
constexpr int64_t kPad = 16;                        // floats on either side of a row: a vector
constexpr int64_t kSmall = 64 * 64;                 // px: up to this size threads always share the pairs
constexpr int64_t kMostScratch = int64_t{1} << 26;  // floats, of all threads that share larger pairs

struct Plane {
  float* data = nullptr;
  int64_t stride = 0;
  float* row(int64_t r) const { return data + r * stride + kPad; }
};

int64_t stride_of(int64_t width) { return 2 * kPad + round_up(width, kPad); }

// One frame on one level; each pass states which members it reads and writes.
struct FrameLevel {
  const float* frame;
  int64_t H, W;  // of the frame
  int64_t h, w;  // of this level
  float taps[kTaps];
  Plane luma, halved, smooth, means;
};

// What pairs read of a frame, by level.
struct FlowImage {
  Plane smooth[kMaxLevels];
};

// One pair on one level; each pass states which members it reads and writes.
struct FlowPair {
  float *out, *match;
  int64_t H, W;  // of the frames
  int64_t h, w;  // of this level
  float taps[kTaps], match_taps[kMatchTaps];
  Plane smooth[2], flow[2], coarse[2], warped, inside, sums[kProducts];
};
static_assert(kCandidates == kProducts, "sums holds either");

// Pairs of frames, all of the same size.
struct FlowJob {
  int64_t H, W;
  int levels, iterations;
  float taps[kTaps], match_taps[kMatchTaps];
  const FramePair* pairs;
  const float* const* frames;
  const FlowImage* images;  // of the frames; null: each pair makes its own
  float *out, *matches, *scratch;
  int64_t scratch_floats;  // of a thread
};

}  // namespace
}  // namespace rvrt

#define RVRT_KERNEL "lucas_kanade.cc"
#include "each_isa.h"

namespace rvrt {
namespace {

template <class Level>
void pass(Body body, const Level& level, int64_t rows, bool alone) {
  if (alone)
    body(&level, Span{0, rows, 0, 1});
  else
    parallel_shared(rows, body, &level);
}

Plane take(Arena& arena, int64_t height, int64_t width) {
  const int64_t stride = stride_of(width);
  return {arena.take(height * stride), stride};
}

// Height or width on the finest level: the coarsest one has whole pixels.
int64_t finest(const FlowJob& job, int64_t side) { return round_up(side, int64_t{1} << (job.levels - 1)); }

FlowImage take_image(const FlowJob& job, Arena& arena) {
  FlowImage image{};
  for (int level = 0; level < job.levels; ++level)
    image.smooth[level] = take(arena, finest(job, job.H) >> level, finest(job, job.W) >> level);
  return image;
}

// frame -> image; takes scratch memory from `arena`, on a null block only that.
void prepare_image(const FlowJob& job, const float* frame, const FlowImage& image, Arena& arena, bool real,
                   bool alone) {
  FrameLevel f{};
  f.frame = frame, f.H = job.H, f.W = job.W, f.h = finest(job, job.H), f.w = finest(job, job.W);
  std::copy(job.taps, job.taps + kTaps, f.taps);
  Plane luma[kMaxLevels];
  for (int level = 0; level < job.levels; ++level) luma[level] = take(arena, f.h >> level, f.w >> level);
  f.means = take(arena, f.h, f.w);
  if (!real) return;
  f.luma = luma[0];
  pass(RVRT_DISPATCH(luma_rows), f, f.h, alone);
  for (int level = 0; level < job.levels; ++level) {
    f.luma = luma[level], f.smooth = image.smooth[level];
    f.means.stride = stride_of(f.w);  // a smaller level uses the beginning of the plane
    pass(RVRT_DISPATCH(smooth_rows), f, f.h, alone);
    pass(RVRT_DISPATCH(subtract_mean_rows), f, f.h, alone);
    if (level + 1 == job.levels) break;
    f.h /= 2, f.w /= 2, f.halved = luma[level + 1];
    pass(RVRT_DISPATCH(halve_rows), f, f.h, alone);
  }
}

// Likewise the flow of a pair.
void flow_of_images(const FlowJob& job, const FlowImage& reference, const FlowImage& neighbor, int64_t index,
                    Arena& arena, bool real, bool alone) {
  FlowPair p{};
  p.H = job.H, p.W = job.W;
  p.out = job.out + index * job.H * job.W * 2, p.match = job.matches + index * job.H * job.W;
  std::copy(job.taps, job.taps + kTaps, p.taps);
  std::copy(job.match_taps, job.match_taps + kMatchTaps, p.match_taps);
  const int64_t height = finest(job, job.H), width = finest(job, job.W);
  Plane flow[2][2];
  for (auto& planes : flow)
    for (Plane& plane : planes) plane = take(arena, height, width);
  for (Plane& plane : p.sums) plane = take(arena, height, width);
  p.warped = take(arena, height, width);
  p.inside = take(arena, height, width);
  if (!real) return;
  for (int level = job.levels - 1; level >= 0; --level) {
    p.h = height >> level, p.w = width >> level;
    p.smooth[0] = reference.smooth[level], p.smooth[1] = neighbor.smooth[level];
    std::copy(flow[level % 2], flow[level % 2] + 2, p.flow);
    std::copy(flow[1 - level % 2], flow[1 - level % 2] + 2, p.coarse);
    for (Plane* plane : {&p.flow[0], &p.flow[1], &p.warped, &p.inside})
      plane->stride = stride_of(p.w);  // a smaller level uses the beginning of a plane
    for (Plane& plane : p.sums) plane.stride = stride_of(p.w);
    for (Plane& plane : p.coarse) plane.stride = stride_of(p.w / 2);
    if (level == job.levels - 1)
      pass(RVRT_DISPATCH(zero_rows), p, p.h, alone);
    else
      pass(RVRT_DISPATCH(upsample_flow_rows), p, p.h, alone);
    for (int i = 0; i < job.iterations; ++i) {
      pass(RVRT_DISPATCH(warp_luma_rows), p, p.h, alone);
      pass(RVRT_DISPATCH(sum_rows), p, p.h, alone);
      pass(RVRT_DISPATCH(solve_rows), p, p.h, alone);
    }
    if (level >= kTryingLevels) continue;
    pass(RVRT_DISPATCH(match_rows), p, p.h, alone);
    pass(RVRT_DISPATCH(choose_rows), p, p.h, alone);
    std::swap(p.flow[0].data, p.warped.data), std::swap(p.flow[1].data, p.inside.data);
    std::copy(p.flow, p.flow + 2, flow[level % 2]);
  }
  pass(RVRT_DISPATCH(energy_rows), p, p.h, alone);
  pass(RVRT_DISPATCH(write_rows), p, job.H, alone);
}

// The flow of pair `index`; on a null block, how much scratch memory that takes.
int64_t flow_of_pair(const FlowJob& job, int64_t index, float* block, bool alone) {
  Arena arena(block);
  const FramePair& pair = job.pairs[index];
  if (job.images) {
    flow_of_images(job, job.images[pair.reference], job.images[pair.neighbor], index, arena, block != nullptr, alone);
    return arena.taken();
  }
  FlowImage images[2];
  for (int i = 0; i < 2; ++i) {
    images[i] = take_image(job, arena);
    prepare_image(job, job.frames[i ? pair.neighbor : pair.reference], images[i], arena, block != nullptr, alone);
  }
  flow_of_images(job, images[0], images[1], index, arena, block != nullptr, alone);
  return arena.taken();
}

void flow_pairs(const void* context, Span span) {
  const FlowJob& job = *static_cast<const FlowJob*>(context);
  for (int64_t task = span.begin; task < span.end; ++task)
    flow_of_pair(job, task, job.scratch + span.thread * job.scratch_floats, true);
}

void prepare_images(const void* context, Span span) {
  const FlowJob& job = *static_cast<const FlowJob*>(context);
  for (int64_t task = span.begin; task < span.end; ++task) {
    Arena arena(job.scratch + span.thread * job.scratch_floats);
    prepare_image(job, job.frames[task], job.images[task], arena, true, true);
  }
}

// Whether threads share pairs rather than rows.
bool shares_pairs(const FlowJob& job, int64_t pairs) {
  const bool many = pairs >= 2 * threads() && job.scratch_floats * threads() <= kMostScratch;
  return many || job.H * job.W <= kSmall;
}

// The weights of 2 * reach + 1 pixels; they sum to 1.
void gaussian_taps(int reach, float sigma, float* taps) {
  float total = 0;
  for (int i = -reach; i <= reach; ++i) {
    const float distance = static_cast<float>(i) / sigma;
    total += taps[i + reach] = std::exp(-0.5f * distance * distance);
  }
  for (int i = 0; i <= 2 * reach; ++i) taps[i] /= total;
}

FlowJob flow_job(int64_t height, int64_t width, int levels, int iterations) {
  FlowJob job{};
  job.H = height, job.W = width, job.levels = levels, job.iterations = iterations;
  gaussian_taps(kReach, kSigma, job.taps);
  gaussian_taps(kMatchReach, kMatchSigma, job.match_taps);
  return job;
}

int run_pairs(FlowJob& job, int64_t pairs) {
  job.scratch_floats = flow_of_pair(job, 0, nullptr, true);
  RVRT_CHECK(job.scratch_floats < (int64_t{1} << 31), kShape);
  const bool share = shares_pairs(job, pairs);
  const Scratch scratch(job.scratch_floats * (share ? parallel_width(pairs) : 1), true);
  RVRT_CHECK(scratch.ok(), kMemory);
  job.scratch = scratch.data();
  if (share) return parallel_shared(pairs, flow_pairs, &job);
  for (int64_t index = 0; index < pairs; ++index) flow_of_pair(job, index, job.scratch, false);
  return kOk;
}

bool are_flow_attributes(int levels, int iterations) { return levels >= 1 && levels <= kMaxLevels && iterations >= 0; }

}  // namespace

int flows_of_pairs(const std::vector<const float*>& frames, const std::vector<FramePair>& pairs, int64_t height,
                   int64_t width, int levels, int iterations, float* flows, float* matches) {
  RVRT_CHECK(are_flow_attributes(levels, iterations), kAttribute);
  if (pairs.empty()) return kOk;
  FlowJob job = flow_job(height, width, levels, iterations);
  job.frames = frames.data(), job.pairs = pairs.data(), job.out = flows, job.matches = matches;
  const int64_t count = static_cast<int64_t>(frames.size());
  std::vector<FlowImage> images(frames.size());
  const auto take_images = [&](float* block) {
    Arena arena(block);
    for (FlowImage& image : images) image = take_image(job, arena);
    return arena.taken();
  };
  const Scratch kept(take_images(nullptr), true);
  RVRT_CHECK(kept.ok(), kMemory);
  take_images(kept.data());
  job.images = images.data();
  {
    Arena sizes(nullptr);
    prepare_image(job, nullptr, images[0], sizes, false, true);
    job.scratch_floats = sizes.taken();
    const bool share = shares_pairs(job, count);
    const Scratch scratch(job.scratch_floats * (share ? parallel_width(count) : 1), true);
    RVRT_CHECK(scratch.ok(), kMemory);
    job.scratch = scratch.data();
    if (share) parallel_shared(count, prepare_images, &job);
    for (int64_t i = 0; !share && i < count; ++i) {
      Arena arena(job.scratch);
      prepare_image(job, frames[i], images[i], arena, true, false);
    }
  }
  return run_pairs(job, static_cast<int64_t>(pairs.size()));
}

}  // namespace rvrt

// reference, neighbor (B, H, W, 3), attributes [levels, iterations on each] -> flow (B, H, W, 2) px as (x, y), match
// (B, H, W).
RVRT_ENTRY(lucas_kanade_forward) {
  using namespace rvrt;
  if (const int bad = t.check(2, 2, 2)) return bad;
  RVRT_CHECK(t.ndims[0] == 4 && t.same_shape(0, 1), kShape);
  const int64_t batch = t.dim(0, 0), height = t.dim(0, 1), width = t.dim(0, 2);
  RVRT_CHECK(t.has_shape(0, {batch, height, width, 3}) && t.has_shape(3, {batch, height, width, 2}), kShape);
  RVRT_CHECK(t.has_shape(4, {batch, height, width}), kShape);
  const int levels = t.ints(2)[0], iterations = t.ints(2)[1];
  RVRT_CHECK(are_flow_attributes(levels, iterations), kAttribute);
  if (batch * height * width == 0) return kOk;
  FlowJob job = flow_job(height, width, levels, iterations);
  std::vector<const float*> frames;
  std::vector<FramePair> pairs;
  for (int64_t b = 0; b < batch; ++b) {
    for (int i = 0; i < 2; ++i) frames.push_back(t.f(i) + b * height * width * 3);
    pairs.push_back({2 * b, 2 * b + 1});
  }
  job.frames = frames.data(), job.pairs = pairs.data(), job.out = t.f(3), job.matches = t.f(4);
  return run_pairs(job, batch);
}

#else

#include "simd.h"

constexpr int64_t kPiece = 256;  // columns at a time: what is summed over a window stays in the cache

RVRT_INLINE int64_t within(int64_t at, int64_t length) { return std::min(std::max<int64_t>(at, 0), length - 1); }

// Repeat a row's first and last pixel in its padding.
RVRT_INLINE void repeat_ends(float* row, int64_t width) { row[-1] = row[0], row[width] = row[width - 1]; }

// frame -> luma, extended at the bottom and on the right.
void luma_rows(const void* context, Span span) {
  const FrameLevel& p = *static_cast<const FrameLevel*>(context);
  for (int64_t row = span.begin; row < span.end; ++row) {
    const float* from = p.frame + within(row, p.H) * p.W * 3;
    float* to = p.luma.row(row);
    int64_t x = 0;
    for (; x + W < p.W; x += W) {  // quarters of a vector read one float past their pixels
      vf color[4];
      for (int i = 0; i < 4; ++i) color[i] = load_quarters(from + 3 * (x + i), 12);
      transpose_quarters(color);
      store(to + x, kLuma[0] * color[0] + kLuma[1] * color[1] + kLuma[2] * color[2]);
    }
    for (; x < p.W; ++x) to[x] = kLuma[0] * from[3 * x] + kLuma[1] * from[3 * x + 1] + kLuma[2] * from[3 * x + 2];
    for (; x < p.w; ++x) to[x] = to[p.W - 1];
    repeat_ends(to, p.w);
  }
}

// luma -> halved (h, w): the mean of 2x2 pixels.
void halve_rows(const void* context, Span span) {
  const FrameLevel& p = *static_cast<const FrameLevel*>(context);
  for (int64_t row = span.begin; row < span.end; ++row) {
    const float *upper = p.luma.row(2 * row), *lower = p.luma.row(2 * row + 1);
    float* to = p.halved.row(row);
    for (int64_t x = 0; x < p.w; ++x)
      to[x] = 0.25f * ((upper[2 * x] + lower[2 * x]) + (upper[2 * x + 1] + lower[2 * x + 1]));
    repeat_ends(to, p.w);
  }
}

// values of `count` columns and kPad on either side -> sums over the columns of a window.
template <int kCount>
RVRT_INLINE void sum_columns(const float (&taps)[kCount], const float* values, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += W) {
    vf sum = {};
    for (int k = 0; k < kCount; ++k) sum += taps[k] * load(values + kPad + i + k - kCount / 2);
    store(to + i, sum);
  }
}

// Mean of a row's pixels over the window's columns; the row's ends repeat.
RVRT_INLINE void mean_of_columns(const float* from, int64_t width, const float (&taps)[kTaps], float* to) {
  float piece[kPiece + 3 * kPad];
  for (int64_t start = 0; start < width; start += kPiece) {
    const int64_t count = std::min(kPiece, width - start);
    for (int64_t i = -kReach; i < count + kReach; ++i) piece[kPad + i] = from[within(start + i, width)];
    sum_columns(taps, piece, count, to + start);
  }
}

// luma -> smooth: 1 2 1 down and across; the frame's edge repeats. And means: those over the window's columns.
void smooth_rows(const void* context, Span span) {
  const FrameLevel& p = *static_cast<const FrameLevel*>(context);
  for (int64_t row = span.begin; row < span.end; ++row) {
    const float* middle = p.luma.row(row);
    const float *upper = p.luma.row(within(row - 1, p.h)), *lower = p.luma.row(within(row + 1, p.h));
    float* to = p.smooth.row(row);
    for (int64_t x = 0; x < p.w; x += W) {
      vf down[3];  // of the pixels to the left, here and to the right
      for (int i = 0; i < 3; ++i) {
        const int64_t at = x + i - 1;
        down[i] = 0.5f * load(middle + at) + 0.25f * (load(upper + at) + load(lower + at));
      }
      store(to + x, 0.5f * down[1] + 0.25f * (down[0] + down[2]));
    }
    mean_of_columns(to, p.w, p.taps, p.means.row(row));
  }
}

// smooth, means over columns -> smooth minus its local mean; the frame's edge repeats.
void subtract_mean_rows(const void* context, Span span) {
  const FrameLevel& p = *static_cast<const FrameLevel*>(context);
  for (int64_t row = span.begin; row < span.end; ++row) {
    float* to = p.smooth.row(row);
    for (int64_t x = 0; x < p.w; x += W) {
      vf mean = {};
      for (int k = 0; k < kTaps; ++k) mean += p.taps[k] * load(p.means.row(within(row + k - kReach, p.h)) + x);
      store(to + x, load(to + x) - mean);
    }
    repeat_ends(to, p.w);
  }
}

// Repeat the first and the last flow of a row, as far as pixels try flows beyond them.
RVRT_INLINE void repeat_flow_ends(const FlowPair& p, int64_t row) {
  for (const Plane& axis : p.flow) {
    float* flow = axis.row(row);
    std::fill(flow - kTriedDistance, flow, flow[0]);
    std::fill(flow + p.w, flow + p.w + kTriedDistance, flow[p.w - 1]);
  }
}

// No flow, on the coarsest level.
void zero_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  for (int64_t row = span.begin; row < span.end; ++row) {
    for (const Plane& axis : p.flow) std::fill(axis.row(row), axis.row(row) + p.w, 0.0f);
    repeat_flow_ends(p, row);
  }
}

// coarse (h / 2, w / 2) -> flow: doubled and upsampled bilinearly, half-pixel centers.
void upsample_flow_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  const int64_t rows = p.h / 2, columns = p.w / 2;
  for (int64_t row = span.begin; row < span.end; ++row) {
    const int64_t near = row / 2, far = within(near + (row % 2 ? 1 : -1), rows);
    for (int axis = 0; axis < 2; ++axis) {
      const float *a = p.coarse[axis].row(near), *b = p.coarse[axis].row(far);
      float* to = p.flow[axis].row(row);
      float before = 0.75f * a[0] + 0.25f * b[0], here = before;
      for (int64_t x = 0; x < columns; ++x) {
        const int64_t next = std::min(x + 1, columns - 1);
        const float after = 0.75f * a[next] + 0.25f * b[next];
        to[2 * x] = 2 * (0.75f * here + 0.25f * before);
        to[2 * x + 1] = 2 * (0.75f * here + 0.25f * after);
        before = here, here = after;
      }
    }
    repeat_flow_ends(p, row);
  }
}

// How much of a pixel at `at` lies within 0 ... length - 1.
RVRT_INLINE vf share_inside(vf at, int64_t length) {
  return vmax(vmin(vmin(at + 1.0f, static_cast<float>(length) - at), set1(1.0f)), vf{});
}

// smooth[1] at W places, its border repeated.
RVRT_INLINE vf luma_at(const FlowPair& p, vf x, vf y) {
  const float *start = p.smooth[1].row(0), right = static_cast<float>(p.w - 1), bottom = static_cast<float>(p.h - 1);
  const int32_t stride = static_cast<int32_t>(p.smooth[1].stride);
  // never NaN, and never negative: the conversion below truncates towards zero
  const vf at_x = vmin(vmax(x, vf{}), set1(right)), at_y = vmin(vmax(y, vf{}), set1(bottom));
  const vi left = __builtin_convertvector(at_x, vi), top = __builtin_convertvector(at_y, vi);
  const vf u = at_x - __builtin_convertvector(left, vf), v = at_y - __builtin_convertvector(top, vf);
  int32_t upper[W], lower[W];                                    // indices of the left pixels
  const vi under = top - (top < static_cast<int32_t>(p.h - 1));  // true is -1
  store(upper, top * stride + left), store(lower, under * stride + left);
  float pairs[2][2 * W];
  for (int i = 0; i < W; ++i) {  // the pixel right of the last repeats it, see repeat_ends
    std::copy(start + upper[i], start + upper[i] + 2, pairs[0] + 2 * i);
    std::copy(start + lower[i], start + lower[i] + 2, pairs[1] + 2 * i);
  }
  vf corners[4];
  for (int i = 0; i < 2; ++i) split_pairs(pairs[i], corners[2 * i], corners[2 * i + 1]);
  const vf above = (1.0f - u) * corners[0] + u * corners[1];
  const vf below = (1.0f - u) * corners[2] + u * corners[3];
  return (1.0f - v) * above + v * below;
}

RVRT_INLINE vf lane_numbers() {
  float lanes[W];
  for (int i = 0; i < W; ++i) lanes[i] = static_cast<float>(i);
  return load(lanes);
}

// smooth[1], flow -> warped, its border repeated, and inside: there is nothing to match where the flow leaves the frame.
void warp_luma_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  const vf lane = lane_numbers();
  for (int64_t row = span.begin; row < span.end; ++row) {
    const float *across = p.flow[0].row(row), *down = p.flow[1].row(row);
    float *warped = p.warped.row(row), *inside = p.inside.row(row);
    for (int64_t col = 0; col < p.w; col += W) {
      const vf x = load(across + col) + (lane + static_cast<float>(col)),
               y = load(down + col) + static_cast<float>(row);
      store(inside + col, share_inside(x, p.w) * share_inside(y, p.h));
      store(warped + col, luma_at(p, x, y));
    }
    repeat_ends(warped, p.w);
  }
}

// The lanes of W pixels from column `col` on that lie within the frame; in the others are arbitrary numbers, NaN too.
RVRT_INLINE vf within_frame(const FlowPair& p, int64_t col, vf values) {
  if (col + W <= p.w) return values;
  int32_t kept[W];
  for (int i = 0; i < W; ++i) kept[i] = i < p.w - col ? -1 : 0;
  return (vf)((vi)values & load(kept));
}

// smooth[0], warped, inside -> sums: the five products, over the window's columns.
void sum_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  float products[kProducts][kPiece + 3 * kPad];
  for (int64_t row = span.begin; row < span.end; ++row) {
    const int64_t above = within(row - 1, p.h), below = within(row + 1, p.h);
    const float *first = p.smooth[0].row(row), *first_above = p.smooth[0].row(above),
                *first_below = p.smooth[0].row(below);
    const float *second = p.warped.row(row), *second_above = p.warped.row(above), *second_below = p.warped.row(below);
    const float* inside = p.inside.row(row);
    for (int64_t start = 0; start < p.w; start += kPiece) {
      const int64_t count = std::min(kPiece, p.w - start);
      // products of the columns start - kPad ... start + count + kPad, zero outside the frame
      for (int64_t i = -kPad; i < count + kPad; i += W) {
        const int64_t x = start + i;
        vf seen = {}, across = {}, down = {}, change = {};
        if (x >= 0 && x < p.w) {
          across =
              0.25f * ((load(first + x + 1) - load(first + x - 1)) + (load(second + x + 1) - load(second + x - 1)));
          down = 0.25f *
                 ((load(first_below + x) - load(first_above + x)) + (load(second_below + x) - load(second_above + x)));
          change = load(second + x) - load(first + x);
          seen = load(inside + x);
          for (vf* v : {&seen, &across, &down, &change}) *v = within_frame(p, x, *v);
        }
        const vf seen_across = seen * across, seen_down = seen * down;
        const int64_t at = i + kPad;
        store(products[0] + at, seen_across * across);
        store(products[1] + at, seen_across * down);
        store(products[2] + at, seen_down * down);
        store(products[3] + at, seen_across * change);
        store(products[4] + at, seen_down * change);
      }
      for (int c = 0; c < kProducts; ++c) sum_columns(p.taps, products[c], count, p.sums[c].row(row) + start);
    }
  }
}

// Window sums of W pixels -> a step of the flow at u, v.
RVRT_INLINE void solve(const vf (&total)[kProducts], float* u, float* v) {
  const vf xx = total[0] + kDamping, xy = total[1], yy = total[2] + kDamping;
  const vf inverse = 1.0f / (xx * yy - xy * xy);  // of at least the damping squared
  const vf across = (yy * total[3] - xy * total[4]) * inverse;
  const vf down = (xx * total[4] - xy * total[3]) * inverse;
  store(u, load(u) - vmax(vmin(across, set1(1.0f)), set1(-1.0f)));
  store(v, load(v) - vmax(vmin(down, set1(1.0f)), set1(-1.0f)));
}

constexpr int kBlock = 4;  // rows: what several of them read is loaded once

// The flow of kBlock rows whose windows lie within the frame.
RVRT_INLINE void solve_block(const FlowPair& p, int64_t row) {
  for (int64_t x = 0; x < p.w; x += W) {
    vf total[kBlock][kProducts];
    for (int c = 0; c < kProducts; ++c) {
      vf sums[kBlock] = {};
      const float* from = p.sums[c].row(row - kReach) + x;
#pragma GCC unroll 20
      for (int near = 0; near < kTaps + kBlock - 1; ++near, from += p.sums[c].stride) {
        const vf values = load(from);
#pragma GCC unroll 4
        for (int i = 0; i < kBlock; ++i)
          if (near >= i && near - i < kTaps) sums[i] += p.taps[near - i] * values;
      }
      for (int i = 0; i < kBlock; ++i) total[i][c] = sums[i];
    }
    for (int i = 0; i < kBlock; ++i) solve(total[i], p.flow[0].row(row + i) + x, p.flow[1].row(row + i) + x);
  }
}

RVRT_INLINE void solve_row(const FlowPair& p, int64_t row) {
  const int64_t begin = std::max<int64_t>(row - kReach, 0), end = std::min(row + kReach + 1, p.h);
  for (int64_t x = 0; x < p.w; x += W) {
    vf total[kProducts] = {};
    for (int64_t r = begin; r < end; ++r)
      for (int c = 0; c < kProducts; ++c) total[c] += p.taps[r - row + kReach] * load(p.sums[c].row(r) + x);
    solve(total, p.flow[0].row(row) + x, p.flow[1].row(row) + x);
  }
}

// sums -> flow: sum over the window's rows, then solve the least-squares problem.
void solve_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  for (int64_t row = span.begin; row < span.end;)
    if (row >= kReach && row + kBlock + kReach <= p.h && row + kBlock <= span.end)
      solve_block(p, row), row += kBlock;
    else
      solve_row(p, row++);
  for (int64_t row = span.begin; row < span.end; ++row) repeat_flow_ends(p, row);
}

// Rows of the flow that pixels of a row try, and by how much these are shifted.
struct Tried {
  const float *across, *down;
};

RVRT_INLINE Tried tried_flow(const FlowPair& p, int64_t row, int candidate) {
  constexpr int64_t kDown[kCandidates] = {0, 0, 0, -kTriedDistance, kTriedDistance};
  constexpr int64_t kRight[kCandidates] = {0, -kTriedDistance, kTriedDistance, 0, 0};
  const int64_t from = within(row + kDown[candidate], p.h);
  return {p.flow[0].row(from) + kRight[candidate], p.flow[1].row(from) + kRight[candidate]};
}

// Squared difference of smooth[1], where the flow leads, from smooth[0] at W pixels of a row.
RVRT_INLINE vf match_error(const FlowPair& p, int64_t row, int64_t col, const Tried& flow, vf lane) {
  const vf x = load(flow.across + col) + (lane + static_cast<float>(col)),
           y = load(flow.down + col) + static_cast<float>(row);
  const vf inside = share_inside(x, p.w) * share_inside(y, p.h);
  const vf change = luma_at(p, x, y) - load(p.smooth[0].row(row) + col);
  return inside * vmin(change * change, set1(kLargestError)) + (1.0f - inside) * kLargestError;
}

// smooth, flow -> sums: of each tried flow, the error of the match over the columns of its window.
void match_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  float errors[kPiece + 3 * kPad];
  const vf lane = lane_numbers();
  for (int64_t row = span.begin; row < span.end; ++row)
    for (int candidate = 0; candidate < kCandidates; ++candidate) {
      const Tried tried = tried_flow(p, row, candidate);
      for (int64_t start = 0; start < p.w; start += kPiece) {
        const int64_t count = std::min(kPiece, p.w - start);
        for (int64_t i = -kPad; i < count + kPad; i += W) {
          const int64_t col = start + i;
          vf error = {};
          if (col >= 0 && col < p.w) error = within_frame(p, col, match_error(p, row, col, tried, lane));
          store(errors + kPad + i, error);
        }
        sum_columns(p.match_taps, errors, count, p.sums[candidate].row(row) + start);
      }
    }
}

// Sum of a plane over the rows of a match's window.
RVRT_INLINE vf match_sum(const FlowPair& p, const Plane& plane, int64_t row, int64_t x) {
  const int64_t begin = std::max<int64_t>(row - kMatchReach, 0), end = std::min(row + kMatchReach + 1, p.h);
  vf sum = {};
  for (int64_t r = begin; r < end; ++r) sum += p.match_taps[r - row + kMatchReach] * load(plane.row(r) + x);
  return sum;
}

// sums, flow -> the mean of the tried flows, weighted by how well they match: to warped and inside, which are free.
void choose_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  for (int64_t row = span.begin; row < span.end; ++row) {
    float *across = p.warped.row(row), *down = p.inside.row(row);
    for (int64_t x = 0; x < p.w; x += W) {
      vf weight = {}, total[2] = {};
      for (int candidate = 0; candidate < kCandidates; ++candidate) {
        const vf error = match_sum(p, p.sums[candidate], row, x) + kMatchingError;
        const vf share = 1.0f / (error * error);
        const Tried tried = tried_flow(p, row, candidate);
        weight += share, total[0] += share * load(tried.across + x), total[1] += share * load(tried.down + x);
      }
      const vf inverse = 1.0f / weight;
      store(across + x, total[0] * inverse), store(down + x, total[1] * inverse);
    }
  }
}

// smooth, flow -> sums: the error of the match and the energy of smooth[0]'s gradients, over the columns of its window.
void energy_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  float errors[kPiece + 3 * kPad], energies[kPiece + 3 * kPad];
  const vf lane = lane_numbers();
  for (int64_t row = span.begin; row < span.end; ++row) {
    const Plane& luma = p.smooth[0];
    const float *middle = luma.row(row), *above = luma.row(within(row - 1, p.h)),
                *below = luma.row(within(row + 1, p.h));
    const Tried flow = tried_flow(p, row, 0);
    for (int64_t start = 0; start < p.w; start += kPiece) {
      const int64_t count = std::min(kPiece, p.w - start);
      for (int64_t i = -kPad; i < count + kPad; i += W) {
        const int64_t col = start + i;
        vf error = {}, energy = {};
        if (col >= 0 && col < p.w) {
          const vf across = 0.5f * (load(middle + col + 1) - load(middle + col - 1)),
                   down = 0.5f * (load(below + col) - load(above + col));
          error = within_frame(p, col, match_error(p, row, col, flow, lane));
          energy = within_frame(p, col, across * across + down * down);
        }
        store(errors + kPad + i, error), store(energies + kPad + i, energy);
      }
      sum_columns(p.match_taps, errors, count, p.sums[0].row(row) + start);
      sum_columns(p.match_taps, energies, count, p.sums[1].row(row) + start);
    }
  }
}

// flow, sums -> out and match.
void write_rows(const void* context, Span span) {
  const FlowPair& p = *static_cast<const FlowPair*>(context);
  for (int64_t row = span.begin; row < span.end; ++row) {
    const float *across = p.flow[0].row(row), *down = p.flow[1].row(row);
    float *out = p.out + row * p.W * 2, *match = p.match + row * p.W;
    for (int64_t x = 0; x < p.W; ++x) out[2 * x] = across[x], out[2 * x + 1] = down[x];
    for (int64_t x = 0; x < p.W; x += W) {
      const vf expected = kFlowSigma * kFlowSigma * match_sum(p, p.sums[1], row, x) + kDetailSigma * kDetailSigma;
      float likelihood[W];
      store(likelihood, exp2(-kLog2e * match_sum(p, p.sums[0], row, x) / expected));
      std::copy(likelihood, likelihood + std::min<int64_t>(W, p.W - x), match + x);
    }
  }
}

#endif
