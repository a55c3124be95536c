// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/check.h"
#include "core/indptr.h"

// Checks of the tree encoding that several ops read, on the CPU: of parent i32[N], the index of
// each node's parent within its request.
namespace fewstep::tree {

// Every request that has nodes has one root, node 0, and every other node an earlier parent.
void check_parents(const ArgCheck& check, Indices parent, Indices indptr, int64_t B);

// Rows of a draft's probabilities of the tokens `ids`, or of all tokens.
struct DraftLaws {
  const float* q;
  int64_t stride, S;
  const int32_t* ids;  // or null
  int64_t ids_stride;
};

// From checked views; without `ids` that are given, columns are all V tokens. Ids ascend in a row,
// so that kernels walk it once.
DraftLaws draft_laws(const ArgCheck& check, const View& draft, const View& ids, int64_t V);

}  // namespace fewstep::tree
