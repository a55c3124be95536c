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

}  // namespace fewstep::tree
