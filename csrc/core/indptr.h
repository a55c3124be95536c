// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/check.h"

// Ragged rows of a flat array: indptr i32[B+1] says which elements belong to which row.
namespace fewstep {

// Elements of a checked [N] tensor, which may be strided.
struct Indices {
  const int32_t* data = nullptr;
  int64_t stride = 1;

  Indices() = default;
  explicit Indices(const View& v) : data(v.as<int32_t>()), stride(v.stride) {}
  explicit operator bool() const { return data != nullptr; }
  int32_t operator[](int64_t i) const { return data[i * stride]; }
};

// The argument `name` begins with 0, ascends and ends with N, the dimension `letter`. Returns the
// elements of the largest row.
int64_t check_indptr(const ArgCheck& check, const char* name, Indices indptr, int64_t B, int64_t N,
                     char letter);

}  // namespace fewstep
