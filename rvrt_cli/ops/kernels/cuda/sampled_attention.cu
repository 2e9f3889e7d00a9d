// SPDX-License-Identifier: Apache-2.0
// Attention of each pixel to points of its own: a neighborhood (RVRT Light), or points displaced by offsets (guided
// deformable attention), forward and backward.
//
// Eight lanes share a unit, one head of one pixel; each holds every eighth channel.
#include "portable.h"

using namespace rvrt::cuda;

namespace {

constexpr int kLanes = 8;
constexpr float kFloor = -1e30f;

// Softmax over points that arrive one by one; `mean` is the weighted mean of a second number.
struct RunningSoftmax {
  float top = kFloor, total = 0, mean = 0;
  // Returns what earlier sums have to be multiplied with; `p` becomes the weight of the new point.
  __device__ __forceinline__ float add(float score, float& p) {
    const float highest = fmaxf(top, score), shrink = expf(top - highest);
    p = expf(score - highest);
    top = highest, total = total * shrink + p;
    return shrink;
  }
};

// A unit's place. Beyond the last unit the lanes work on the last one and store nothing, as shuffles need all of them.
struct Unit {
  bool valid;
  Index pixel;  // of all frames
  int head, x, y, frame;
  Index clip;  // first pixel of the clip
};

template <class Arguments>
RVRT_DEVICE Unit find_unit(const Arguments& a, Index unit) {
  Unit u;
  u.valid = unit < a.units;
  if (!u.valid) unit = a.units - 1;
  u.head = unit % a.heads, u.pixel = unit / a.heads;
  u.x = u.pixel % a.width;
  u.y = u.pixel / a.width % a.height;
  const Index image = u.pixel / (static_cast<Index>(a.width) * a.height);
  u.frame = image % a.frames;
  u.clip = (image - u.frame) * a.width * a.height;
  return u;
}

// The lane's channels of a head's vector in a tensor of `stride` channels, from channel `start` on.
template <class T, int kEach>
RVRT_DEVICE void load_lane(const void* tensor, Index pixel, int stride, int start, int width, float (&v)[kEach]) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int c = lane + kLanes * i;
    v[i] = c < width ? load<T>(tensor, pixel * stride + start + c) : 0.0f;
  }
}

template <class T, int kEach>
RVRT_DEVICE void store_lane(void* tensor, Index pixel, int stride, int start, int width, const float (&v)[kEach]) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int c = lane + kLanes * i;
    if (c < width) store<T>(tensor, pixel * stride + start + c, v[i]);
  }
}

template <int kEach>
RVRT_DEVICE float lane_dot(const float (&x)[kEach], const float (&y)[kEach]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) sum += x[i] * y[i];
  return lane_sum<kLanes>(sum);
}

RVRT_DEVICE Index units_of_blocks(Index units) { return (units + 31) / 32 * 32; }  // whole warps: 4 units each

// Points that a query attends to, in all frames.
template <class Arguments>
RVRT_DEVICE int point_count(const Arguments& a) {
  return a.frames * a.kernel_h * a.kernel_w;
}

// The two kinds of attention differ in where the key and value of a point come from: `load_point`, below for each.
template <class T, int kEach>
RVRT_DEVICE void load_point(const NeighborhoodArguments& a, const Unit& u, int point, float (&k)[kEach],
                            float (&v)[kEach]);
template <class T, int kEach>
RVRT_DEVICE void load_point(const DeformableArguments& a, const Unit& u, int point, float (&k)[kEach],
                            float (&v)[kEach]);

template <class T, int kEach, class Arguments>
RVRT_DEVICE void attend(const Arguments& a) {
  for (Index unit = thread_index() / kLanes; unit < units_of_blocks(a.units); unit += thread_count() / kLanes) {
    const Unit u = find_unit(a, unit);
    const int start = u.head * a.head_width;
    float q[kEach], k[kEach], v[kEach], out[kEach] = {};
    load_lane<T>(a.query, u.pixel, a.channels, start, a.head_width, q);
    RunningSoftmax softmax;
    for (int point = 0; point < point_count(a); ++point) {
      load_point<T>(a, u, point, k, v);
      float p;
      const float shrink = softmax.add(lane_dot(q, k), p);
#pragma unroll
      for (int i = 0; i < kEach; ++i) out[i] = out[i] * shrink + p * v[i];
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) out[i] /= softmax.total;
    if (u.valid) store_lane<T>(a.out, u.pixel, a.channels, start, a.head_width, out);
  }
}

// A query, the gradient `g` of its output, and what its softmax needs to be differentiated.
template <int kEach>
struct Query {
  float q[kEach], g[kEach];
  float top, inverse, mean;

  // Weight of a point, and the gradient of its score.
  __device__ __forceinline__ float weight(const float (&k)[kEach], const float (&v)[kEach], float& ds) const {
    const float p = expf(lane_dot(q, k) - top) * inverse;
    ds = p * (lane_dot(g, v) - mean);
    return p;
  }
};

template <class T, int kEach, class Arguments>
RVRT_DEVICE void find_query(const Arguments& a, const Unit& u, Query<kEach>& query) {
  const int start = u.head * a.head_width;
  float k[kEach], v[kEach];
  load_lane<T>(a.query, u.pixel, a.channels, start, a.head_width, query.q);
  load_lane<T>(a.dout, u.pixel, a.channels, start, a.head_width, query.g);
  RunningSoftmax softmax;
  for (int point = 0; point < point_count(a); ++point) {
    load_point<T>(a, u, point, k, v);
    float p;
    const float shrink = softmax.add(lane_dot(query.q, k), p);
    softmax.mean = softmax.mean * shrink + p * lane_dot(query.g, v);
  }
  query.top = softmax.top, query.inverse = 1.0f / softmax.total, query.mean = softmax.mean * query.inverse;
}

// --- neighborhood

// The pixel of kernel point `k` in frame `t`, or -1 beyond the frame; `sign` -1: the query that sees this key there.
RVRT_DEVICE Index neighbor(const NeighborhoodArguments& a, const Unit& u, int t, int k, int sign) {
  const int y = u.y + sign * (k / a.kernel_w - a.kernel_h / 2), x = u.x + sign * (k % a.kernel_w - a.kernel_w / 2);
  if (y < 0 || y >= a.height || x < 0 || x >= a.width) return -1;
  return u.clip + (static_cast<Index>(t) * a.height + y) * a.width + x;
}

template <class T, int kEach>
RVRT_DEVICE void load_key_value(const NeighborhoodArguments& a, const Unit& u, Index pixel, float (&k)[kEach],
                                float (&v)[kEach]) {
  const int start = u.head * a.head_width, width = pixel < 0 ? 0 : a.head_width;
  load_lane<T>(a.key_value, pixel, 2 * a.channels, start, width, k);
  load_lane<T>(a.key_value, pixel, 2 * a.channels, a.channels + start, width, v);
}

template <class T, int kEach>
RVRT_DEVICE void load_point(const NeighborhoodArguments& a, const Unit& u, int point, float (&k)[kEach],
                            float (&v)[kEach]) {
  const int points = a.kernel_h * a.kernel_w;
  load_key_value<T>(a, u, neighbor(a, u, point / points, point % points, 1), k, v);
}

template <class T, int kEach>
RVRT_DEVICE void neighborhood_forward(const NeighborhoodArguments& a) {
  attend<T, kEach>(a);
}

// Gradients of the queries, and their statistics for the keys.
template <class T, int kEach>
RVRT_DEVICE void neighborhood_queries(const NeighborhoodArguments& a) {
  for (Index unit = thread_index() / kLanes; unit < units_of_blocks(a.units); unit += thread_count() / kLanes) {
    const Unit u = find_unit(a, unit);
    Query<kEach> query;
    find_query<T>(a, u, query);
    float k[kEach], v[kEach], dq[kEach] = {};
    for (int point = 0; point < point_count(a); ++point) {
      load_point<T>(a, u, point, k, v);
      float ds;
      query.weight(k, v, ds);
#pragma unroll
      for (int i = 0; i < kEach; ++i) dq[i] += ds * k[i];
    }
    if (!u.valid) continue;
    store_lane<T>(a.dquery, u.pixel, a.channels, u.head * a.head_width, a.head_width, dq);
    float* row = a.rows + (u.pixel * a.heads + u.head) * 3;
    if (threadIdx.x % kLanes == 0) row[0] = query.top, row[1] = query.inverse, row[2] = query.mean;
  }
}

template <class T, int kEach>
RVRT_DEVICE void neighborhood_keys(const NeighborhoodArguments& a) {
  const int points = a.kernel_h * a.kernel_w;
  for (Index unit = thread_index() / kLanes; unit < units_of_blocks(a.units); unit += thread_count() / kLanes) {
    const Unit u = find_unit(a, unit);
    const int start = u.head * a.head_width;
    float k[kEach], v[kEach], q[kEach], g[kEach], dk[kEach] = {}, dv[kEach] = {};
    load_key_value<T>(a, u, u.pixel, k, v);
    for (int point = 0; point < point_count(a); ++point) {
      const Index pixel = neighbor(a, u, point / points, point % points, -1);
      const int width = pixel < 0 ? 0 : a.head_width;
      load_lane<T>(a.query, pixel, a.channels, start, width, q);
      load_lane<T>(a.dout, pixel, a.channels, start, width, g);
      const float score = lane_dot(q, k), slope = lane_dot(g, v);
      if (pixel < 0) continue;
      const float* row = a.rows + (pixel * a.heads + u.head) * 3;
      const float p = expf(score - row[0]) * row[1], ds = p * (slope - row[2]);
#pragma unroll
      for (int i = 0; i < kEach; ++i) dk[i] += ds * q[i], dv[i] += p * g[i];
    }
    if (!u.valid) continue;
    store_lane<T>(a.dkey_value, u.pixel, 2 * a.channels, start, a.head_width, dk);
    store_lane<T>(a.dkey_value, u.pixel, 2 * a.channels, a.channels + start, a.head_width, dv);
  }
}

// --- deformable

// Where one group of channels samples for one point.
struct Sample {
  int group;
  Index offset;  // element of the offset's row coordinate
  Footprint down, across;
};

struct Point {
  int field, k;
  Index frame;  // first pixel of the frame that the field reads
};

RVRT_DEVICE Point find_point(const DeformableArguments& a, const Unit& u, int point) {
  const int points = a.kernel_h * a.kernel_w;
  Point p;
  p.field = point / points, p.k = point % points;
  p.frame = u.clip + static_cast<Index>((p.field + u.frame) % a.frames) * a.height * a.width;
  return p;
}

template <class T>
RVRT_DEVICE void find_sample(const DeformableArguments& a, const Unit& u, const Point& point, int group, Sample& s) {
  s.group = group;
  const int points = a.kernel_h * a.kernel_w;
  s.offset = (((u.pixel * a.frames + point.field) * a.groups + group) * points + point.k) * 2;
  s.down = footprint(u.y + point.k / a.kernel_w - a.kernel_h / 2 + load<T>(a.offset, s.offset), a.height, false);
  s.across = footprint(u.x + point.k % a.kernel_w - a.kernel_w / 2 + load<T>(a.offset, s.offset + 1), a.width, false);
}

RVRT_DEVICE Index sample_element(const DeformableArguments& a, const Point& point, const Sample& s, int i, int j,
                                 int channel) {
  return (point.frame + static_cast<Index>(s.down.index[i]) * a.width + s.across.index[j]) * 2 * a.channels + channel;
}

// The lane's channels of keys (`half` 0) or values (1), sampled.
template <class T, int kEach>
RVRT_DEVICE void sample_lane(const DeformableArguments& a, const Unit& u, const Point& point, int half,
                             float (&out)[kEach]) {
  Sample s;
  s.group = -1;
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int c = threadIdx.x % kLanes + kLanes * n;
    out[n] = 0;
    if (c >= a.head_width) continue;
    const int channel = half * a.channels + u.head * a.head_width + c, group = channel / a.group_width;
    if (group != s.group) find_sample<T>(a, u, point, group, s);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        out[n] +=
            s.down.weight[i] * s.across.weight[j] * load<T>(a.key_value, sample_element(a, point, s, i, j, channel));
  }
}

// Adds the gradient of the lane's sampled channels to those of the pixels that they came from and of the offsets.
template <class T, int kEach>
RVRT_DEVICE void spread_lane(const DeformableArguments& a, const Unit& u, const Point& point, int half,
                             const float (&gradient)[kEach]) {
  const bool one_group = a.group_width % a.head_width == 0;  // then the lanes add up before the atomic addition
  Sample s;
  s.group = -1;
  float dy = 0, dx = 0;
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int c = threadIdx.x % kLanes + kLanes * n;
    if (c >= a.head_width || !u.valid) continue;
    const int channel = half * a.channels + u.head * a.head_width + c, group = channel / a.group_width;
    if (group != s.group) find_sample<T>(a, u, point, group, s);
    float down = 0, across = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const Index from = sample_element(a, point, s, i, j, channel);
        const float x = load<T>(a.key_value, from), weight = s.down.weight[i] * s.across.weight[j];
        down += x * s.down.slope[i] * s.across.weight[j];
        across += x * s.down.weight[i] * s.across.slope[j];
        if (weight != 0) atomicAdd(a.dkey_value + from, weight * gradient[n]);
      }
    dy += down * gradient[n], dx += across * gradient[n];
    if (!one_group) {
      atomicAdd(a.doffset + s.offset, dy), atomicAdd(a.doffset + s.offset + 1, dx);
      dy = dx = 0;
    }
  }
  dy = lane_sum<kLanes>(dy), dx = lane_sum<kLanes>(dx);
  if (one_group && u.valid && threadIdx.x % kLanes == 0)
    atomicAdd(a.doffset + s.offset, dy), atomicAdd(a.doffset + s.offset + 1, dx);
}

template <class T, int kEach>
RVRT_DEVICE void load_point(const DeformableArguments& a, const Unit& u, int point, float (&k)[kEach],
                            float (&v)[kEach]) {
  const Point found = find_point(a, u, point);
  sample_lane<T>(a, u, found, 0, k);
  sample_lane<T>(a, u, found, 1, v);
}

template <class T, int kEach>
RVRT_DEVICE void deformable_forward(const DeformableArguments& a) {
  attend<T, kEach>(a);
}

template <class T, int kEach>
RVRT_DEVICE void deformable_backward(const DeformableArguments& a) {
  for (Index unit = thread_index() / kLanes; unit < units_of_blocks(a.units); unit += thread_count() / kLanes) {
    const Unit u = find_unit(a, unit);
    Query<kEach> query;
    find_query<T>(a, u, query);
    float k[kEach], v[kEach], dq[kEach] = {};
    for (int i = 0; i < point_count(a); ++i) {
      load_point<T>(a, u, i, k, v);
      float ds;
      const float p = query.weight(k, v, ds);
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        dq[n] += ds * k[n];
        k[n] = ds * query.q[n], v[n] = p * query.g[n];  // now gradients
      }
      const Point point = find_point(a, u, i);
      spread_lane<T>(a, u, point, 0, k);
      spread_lane<T>(a, u, point, 1, v);
    }
    if (u.valid) store_lane<T>(a.dquery, u.pixel, a.channels, u.head * a.head_width, a.head_width, dq);
  }
}

}  // namespace

// One entry point for each bound of the head width, in channels per lane.
#define RVRT_SAMPLED(name, Arguments, each)            \
  template <class T>                                   \
  RVRT_DEVICE void name##_##each(const Arguments& a) { \
    name<T, each>(a);                                  \
  }                                                    \
  RVRT_KERNELS(name##_##each, Arguments)

#define RVRT_SAMPLED_ALL(each)                                    \
  RVRT_SAMPLED(neighborhood_forward, NeighborhoodArguments, each) \
  RVRT_SAMPLED(neighborhood_queries, NeighborhoodArguments, each) \
  RVRT_SAMPLED(neighborhood_keys, NeighborhoodArguments, each)    \
  RVRT_SAMPLED(deformable_forward, DeformableArguments, each)     \
  RVRT_SAMPLED(deformable_backward, DeformableArguments, each)

RVRT_SAMPLED_ALL(2)
RVRT_SAMPLED_ALL(3)
RVRT_SAMPLED_ALL(4)
