// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/check.h"

// Checks of the tree encoding that several ops read, on the CPU: of indptr i32[B+1], which says
// what rows of a flat array belong to which request, and of parent i32[N], the index of each node's
// parent within its request.
namespace fewstep::tree {

// Elements of a checked [N] tensor, which may be strided.
struct Indices {
  const int32_t* data = nullptr;
  int64_t stride = 1;

  Indices() = default;
  explicit Indices(const View& v) : data(v.as<int32_t>()), stride(v.stride) {}
  explicit operator bool() const { return data != nullptr; }
  int32_t operator[](int64_t i) const { return data[i * stride]; }
};

// indptr begins with 0, ascends and ends with N. Returns the nodes of the largest request.
int64_t check_indptr(const ArgCheck& check, Indices indptr, int64_t B, int64_t N, char letter);

// Every request that has nodes has one root, node 0, and every other node an earlier parent.
void check_parents(const ArgCheck& check, Indices parent, Indices indptr, int64_t B);

}  // namespace fewstep::tree
