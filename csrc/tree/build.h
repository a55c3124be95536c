// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"

namespace fewstep::tree {

// What a tree's parents imply. Outputs that are null are not wanted; depth is always there.
struct BuildProblem {
  int64_t B, N;
  const int32_t* indptr;  // [B + 1], checked
  const int32_t* parent;  // [N], checked
  const int32_t* base;    // [B]; null: 0
  int32_t* depth;         // [N]
  int32_t* first_child;   // [N]
  int32_t* next_sibling;  // [N]
  int32_t* positions;     // [N]
  uint32_t* bits;         // [N, W]
  int64_t indptr_stride, parent_stride, base_stride;
  int64_t depth_stride, first_child_stride, next_sibling_stride, positions_stride, bits_stride;
  int64_t W;
  int32_t threads;
  void* cuda_stream;
};
using BuildFn = void(const BuildProblem&);
FEWSTEP_DECLARE_KERNELS(BuildFn, build)

}  // namespace fewstep::tree
