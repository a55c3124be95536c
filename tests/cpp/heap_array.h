// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fewstep/fewstep.h"

// Tensors over heap memory of exactly their size, so that the sanitizers see every byte that is
// touched beside them.
namespace heap {

using Random = std::mt19937;

inline int below(Random& random, int limit) { return int(random() % uint32_t(limit)); }

// An element of 16 bits: the upper half of a float.
struct Brain {
  uint16_t bits = 0;

  static Brain of(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    return {uint16_t(word >> 16)};
  }
};

template <class T>
constexpr uint8_t kCode = std::is_same_v<T, Brain>      ? 4
                          : std::is_floating_point_v<T> ? 2
                          : std::is_unsigned_v<T>       ? 1
                                                        : 0;

using Shape = std::vector<int64_t>;

template <class T>
class Array {
 public:
  explicit Array(Shape shape, T value = T{}) : dims_(std::move(shape)) {
    for (const int64_t dim : dims_) size_ *= size_t(dim);
    data_.reset(new T[size_]);
    for (size_t i = 0; i < size_; ++i) data_[i] = value;
    tensor_.data = data_.get();
    tensor_.device = {1, 0};
    tensor_.ndim = int32_t(dims_.size());
    tensor_.dtype = {kCode<T>, uint8_t(8 * sizeof(T)), 1};
    tensor_.shape = dims_.data();
  }
  Array(Shape shape, const std::vector<T>& values) : Array(std::move(shape)) {
    for (size_t i = 0; i < size_; ++i) data_[i] = values[i];
  }
  Array(const Array&) = delete;

  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  const fewstep_tensor* tensor() const { return &tensor_; }
  std::vector<T> values() const { return {data_.get(), data_.get() + size_}; }

 private:
  size_t size_ = 1;
  Shape dims_;
  std::unique_ptr<T[]> data_;
  fewstep_tensor tensor_{};
};

// Floats that 16 bits hold exactly: quarters from -limit / 4 to limit / 4.
inline std::vector<float> quarters(Random& random, size_t count, int limit) {
  std::vector<float> values(count);
  for (float& value : values) value = float(below(random, 2 * limit + 1) - limit) / 4;
  return values;
}

// The error's text, or nothing.
inline std::string text_of(fewstep_status status) {
  return status == FEWSTEP_OK ? "" : fewstep_last_error();
}

}  // namespace heap
