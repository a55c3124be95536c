// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "fewstep/draft.h"

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

}  // namespace fewstep::python
