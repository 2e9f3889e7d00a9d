// SPDX-License-Identifier: Apache-2.0
// A kernel that is made of others: a call of another entry point.
#pragma once

#include "kernel.h"

#include <deque>
#include <utility>
#include <vector>

namespace rvrt {

using Shape = std::vector<int64_t>;
using EntryPoint = int (*)(int, void**, int*, int64_t**, const char**, void*, void*);

// Inputs and outputs in their order; `run` returns the Status.
class KernelCall {
 public:
  KernelCall& floats(const float* data, Shape shape) { return add(data, std::move(shape), "float32"); }
  KernelCall& attributes(std::vector<int32_t> values) {
    values_.push_back(std::move(values));
    const std::vector<int32_t>& kept = values_.back();
    return add(kept.data(), {static_cast<int64_t>(kept.size())}, "int32");
  }
  int run(EntryPoint entry) {
    return entry(static_cast<int>(data_.size()), data_.data(), ndims_.data(), shapes_.data(), dtypes_.data(), nullptr,
                 nullptr);
  }

 private:
  KernelCall& add(const void* data, Shape shape, const char* dtype) {
    kept_shapes_.push_back(std::move(shape));
    data_.push_back(const_cast<void*>(data));
    ndims_.push_back(static_cast<int>(kept_shapes_.back().size()));
    shapes_.push_back(kept_shapes_.back().data());
    dtypes_.push_back(dtype);
    return *this;
  }

  std::deque<Shape> kept_shapes_;
  std::deque<std::vector<int32_t>> values_;
  std::vector<void*> data_;
  std::vector<int> ndims_;
  std::vector<int64_t*> shapes_;
  std::vector<const char*> dtypes_;
};

inline Shape shape_of(const Tensors& t, int i) { return Shape(t.shapes[i], t.shapes[i] + t.ndims[i]); }

// to += from
struct AddFloats {
  const float* from;
  float* to;
};

inline void add_floats(const void* pointer, Span span) {
  const AddFloats& job = *static_cast<const AddFloats*>(pointer);
  for (int64_t i = span.begin; i < span.end; ++i) job.to[i] += job.from[i];
}

}  // namespace rvrt
