// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "py_tensor.h"

namespace fewstep::python {

// What a Python recycler holds; throws for another object.
fewstep_recycler* recycler_of(pybind11::handle object);

// Tokens of an array as they lie, or those of a list.
class Given {
 public:
  explicit Given(const pybind11::object& tokens);
  const int32_t* data() const { return array_ ? begin_ : list_.data(); }
  int64_t size() const { return array_ ? size_ : int64_t(list_.size()); }

 private:
  pybind11::object array_;
  const int32_t* begin_ = nullptr;
  int64_t size_ = 0;
  std::vector<int32_t> list_;
};

template <class T, void (*destroy)(T*)>
struct Destroy {
  void operator()(T* object) const { destroy(object); }
};

// Scratch for a draft tree with each node's chance, kept from call to call.
class Scored {
 public:
  // Calls propose(token, parent, score, capacity, &nodes); returns the nodes as three new arrays.
  template <class Propose>
  pybind11::tuple of(int32_t max_nodes, const Propose& propose) {
    const size_t room = size_t(std::max(max_nodes, 1));
    if (token_.size() < room) {
      token_.resize(room);
      parent_.resize(room);
      score_.resize(room);
    }
    int32_t nodes = 0;
    check(propose(token_.data(), parent_.data(), score_.data(), max_nodes, &nodes));
    return pybind11::make_tuple(first(token_, nodes), first(parent_, nodes), first(score_, nodes));
  }

 private:
  template <class T>
  static pybind11::array_t<T> first(const std::vector<T>& values, int32_t count) {
    return pybind11::array_t<T>(pybind11::ssize_t(count), values.data());
  }

  std::vector<int32_t> token_, parent_;
  std::vector<float> score_;
};

}  // namespace fewstep::python
