// SPDX-License-Identifier: Apache-2.0
// Weights of dense layers as gemm.h multiplies by them. Include after each_isa.h, in a file whose code per instruction set
// includes row_math.h.
#pragma once

#include "row_blocks.h"

namespace rvrt {
namespace {

void pack(const float* source, int64_t stride_k, int64_t stride_n, int64_t depth, int64_t columns, const Scratch& to) {
  const PackMatrixJob job{source, stride_k, stride_n, depth, columns, to.data()};
  parallel(depth, RVRT_DISPATCH(pack_matrix), &job, workers_for(depth * columns));
}

// Owns what a PackedDense points to: the packed transpose of weight (outputs, inputs), and the bias (zeros if null).
class DenseWeights {
 public:
  DenseWeights(const float* weight, const float* bias, int64_t inputs, int64_t outputs, Operands how)
      : inputs_(inputs),
        outputs_(outputs),
        is_half_(how != kFloat32 && inputs > 0),
        packed_(!is_half_            ? inputs * padded_floats(outputs)
                : multiplies_pairs() ? pair_weight_floats(inputs, outputs)
                                     : HalfPackJob{weight, inputs, outputs, 1, 1, nullptr}.floats()),
        bias_(round_up(outputs, kHalfColumns), true) {
    if (!ok()) return;
    if (!is_half_)
      pack(weight, 1, inputs, inputs, outputs, packed_);
    else if (multiplies_pairs())
      pack_pair_weights(weight, inputs, outputs, half());
    else
      pack_half({weight, inputs, outputs, 1, 1, half()});
    if (bias) std::memcpy(bias_.data(), bias, sizeof(float) * outputs);
  }
  bool ok() const { return packed_.ok() && bias_.ok(); }
  PackedDense view() const { return {inputs_, outputs_, packed_.data(), bias_.data(), is_half_ ? half() : nullptr}; }

 private:
  uint16_t* half() const { return reinterpret_cast<uint16_t*>(packed_.data()); }

  int64_t inputs_, outputs_;
  bool is_half_;
  Scratch packed_, bias_;
};

}  // namespace
}  // namespace rvrt
