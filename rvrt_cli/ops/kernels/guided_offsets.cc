// SPDX-License-Identifier: Apache-2.0
// Offsets of guided deformable attention: the last layer that predicts the residue, its bound and the flow, in one pass
// over the pixels; and the gradient of bound and flow.
#ifndef RVRT_ISA

#include "row_blocks.h"

namespace rvrt {

// Offsets of a pixel: (fields, pairs, 2) with `pairs` = groups * points, as (y, x). Flows are (N, T, fields, H, W, 2) as
// (x, y).
struct OffsetsJob {
  Blocks blocks;                         // of pixels (N, T, H, W)
  int64_t inputs, fields, pairs, frame;  // frame: pixels
  float max_offset;
  const float *x, *flows;
  PackedDense layer;
  float *offset, *corrected;
  const float *raw, *doffset, *dcorrected;  // backward
  float *draw, *dflows;
  float* scratch;
  int64_t scratch_floats;
  int64_t outputs() const { return fields * pairs * 2; }
  // Place in the flows of field 0 of a pixel.
  int64_t flow_at(int64_t pixel) const { return (pixel / frame * fields * frame + pixel % frame) * 2; }
};

}  // namespace rvrt

#define RVRT_KERNEL "guided_offsets.cc"
#include "each_isa.h"
#include "packed_weights.h"

namespace rvrt {
namespace {

// flows (N, T, F, H, W, 2) at parameter `flows`, attributes [groups * points] at `attributes`.
int offsets_sizes(const Tensors& t, int flows, int attributes, OffsetsJob* job) {
  RVRT_CHECK(t.ndims[flows] == 6 && t.dim(flows, 5) == 2, kShape);
  job->fields = t.dim(flows, 2);
  job->pairs = t.ints(attributes)[0];
  RVRT_CHECK(job->pairs > 0 && job->pairs % 2 == 0, kAttribute);
  job->frame = t.dim(flows, 3) * t.dim(flows, 4);
  job->blocks = row_blocks(t.dim(flows, 0) * t.dim(flows, 1) * job->frame);
  return kOk;
}

}  // namespace
}  // namespace rvrt

// offset = max_offset * tanh(x weightᵀ + bias) + flow; corrected = the mean offset of each field.
// Inputs: x (..., Ci), pixels in the order N, T, H, W; weight (F * P * 2, Ci); bias; flows (N, T, F, H, W, 2) as (x, y);
//   max_offset float32 (1); attributes int32 [P], the points of a field, an even number.
// Outputs: offset (N, T, H, W, F, P, 2) as (y, x), corrected (N, T, F, H, W, 2) as (x, y).
RVRT_ENTRY(guided_offsets_forward) {
  using namespace rvrt;
  if (int status = t.check(5, 1, 2)) return status;
  OffsetsJob job{};
  if (int status = offsets_sizes(t, 3, 5, &job)) return status;
  const int64_t outputs = job.outputs(), rows = job.blocks.rows;
  RVRT_CHECK(t.ndims[1] == 2 && t.dim(1, 0) == outputs && t.size(2) == outputs && t.size(4) == 1, kShape);
  job.inputs = t.dim(1, 1);
  RVRT_CHECK(job.inputs > 0 && t.size(0) == rows * job.inputs, kShape);
  RVRT_CHECK(t.size(6) == rows * outputs && t.size(7) == t.size(3), kShape);
  const int64_t columns = padded_floats(outputs);
  job.scratch_floats = round_up(job.blocks.block * (columns + RVRT_DISPATCH(kPanelFloats)) + columns, 16);
  const Scratch scratch(parallel_width(job.blocks.count()) * job.scratch_floats);
  const DenseWeights layer(t.f(1), t.f(2), job.inputs, outputs, kFloat32);
  RVRT_CHECK(scratch.ok() && layer.ok(), kMemory);
  job.x = t.f(0), job.flows = t.f(3), job.max_offset = t.f(4)[0];
  job.offset = t.f(6), job.corrected = t.f(7);
  job.layer = layer.view(), job.scratch = scratch.data();
  return parallel_shared(job.blocks.count(), RVRT_DISPATCH(offsets_blocks), &job);
}

// Inputs: raw (..., F * P * 2) = x weightᵀ + bias; flows; max_offset; doffset; dcorrected; attributes as there.
// Outputs: draw, dflows.
RVRT_ENTRY(guided_offsets_backward) {
  using namespace rvrt;
  if (int status = t.check(5, 1, 2)) return status;
  OffsetsJob job{};
  if (int status = offsets_sizes(t, 1, 5, &job)) return status;
  const int64_t floats = job.blocks.rows * job.outputs();
  for (int i : {0, 3, 6}) RVRT_CHECK(t.size(i) == floats, kShape);
  RVRT_CHECK(t.size(2) == 1 && t.size(4) == t.size(1) && t.size(7) == t.size(1), kShape);
  job.raw = t.f(0), job.max_offset = t.f(2)[0], job.doffset = t.f(3), job.dcorrected = t.f(4);
  job.draw = t.f(6), job.dflows = t.f(7);
  return parallel_shared(job.blocks.count(), RVRT_DISPATCH(offsets_gradient_blocks), &job);
}

#else

#include "simd.h"
#include "gemm.h"
#include "row_math.h"

// The pairs' sum over a field, as (y, x).
RVRT_INLINE void sum_pairs(const float* field, int64_t pairs, float* y, float* x) {
  v4 a = {}, b = {};
  int64_t i = 0;
  for (; i + 8 <= 2 * pairs; i += 8) a += load4(field + i), b += load4(field + i + 4);
  if (i < 2 * pairs) a += load4(field + i);
  a += b;
  *y = a[0] + a[2], *x = a[1] + a[3];
}

inline void offsets_blocks(const void* pointer, Span span) {
  const OffsetsJob& job = *static_cast<const OffsetsJob*>(pointer);
  const int64_t outputs = job.outputs(), columns = padded(outputs), field = 2 * job.pairs;
  float* raw = job.scratch + span.thread * job.scratch_floats;
  float* guide = raw + job.blocks.block * columns;
  float* sums = guide + columns;
  const float over = 1.0f / static_cast<float>(job.pairs);
  for (int64_t i = span.begin; i < span.end; ++i) {
    const int64_t first = job.blocks.begin(i), rows = job.blocks.size(i);
    dense_rows(rows, job.layer, job.x + first * job.inputs, job.inputs, sums, {kNone, nullptr, 0, raw, columns});
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = job.flow_at(first + r);
      for (int64_t f = 0; f < job.fields; ++f) {
        const float* flow = job.flows + at + f * job.frame * 2;
        const v4 yx = {flow[1], flow[0], flow[1], flow[0]};
        for (int64_t j = 0; j < field; j += 4) store4(guide + f * field + j, yx);
      }
      float* offset = job.offset + (first + r) * outputs;
      for (int64_t j = 0; j < outputs; j += W)
        store_row(offset, j, outputs, job.max_offset * tanh(load(raw + r * columns + j)) + load(guide + j));
      for (int64_t f = 0; f < job.fields; ++f) {
        float y, x;
        sum_pairs(offset + f * field, job.pairs, &y, &x);
        float* corrected = job.corrected + at + f * job.frame * 2;
        corrected[0] = x * over, corrected[1] = y * over;
      }
    }
  }
}

inline void offsets_gradient_blocks(const void* pointer, Span span) {
  const OffsetsJob& job = *static_cast<const OffsetsJob*>(pointer);
  const int64_t outputs = job.outputs(), field = 2 * job.pairs;
  const float over = 1.0f / static_cast<float>(job.pairs);
  for (int64_t i = span.begin; i < span.end; ++i)
    for (int64_t pixel = job.blocks.begin(i); pixel < job.blocks.begin(i) + job.blocks.size(i); ++pixel) {
      const int64_t at = job.flow_at(pixel);
      for (int64_t f = 0; f < job.fields; ++f) {
        const int64_t flow = at + f * job.frame * 2, first = pixel * outputs + f * field;
        float y, x;
        sum_pairs(job.doffset + first, job.pairs, &y, &x);
        job.dflows[flow] = x + job.dcorrected[flow], job.dflows[flow + 1] = y + job.dcorrected[flow + 1];
        const v4 mean =
            v4{job.dcorrected[flow + 1], job.dcorrected[flow], job.dcorrected[flow + 1], job.dcorrected[flow]} * over;
        for (int64_t j = 0; j < field; j += 4) store4(job.draw + first + j, load4(job.doffset + first + j) + mean);
      }
      float* draw = job.draw + pixel * outputs;
      for (int64_t j = 0; j < outputs; j += W) {
        const vf bounded = tanh(load_row(job.raw + pixel * outputs, j, outputs));
        store_row(draw, j, outputs, load_row(draw, j, outputs) * (1.0f - bounded * bounded) * job.max_offset);
      }
    }
}
#endif
