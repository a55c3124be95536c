// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"

namespace fewstep::tree {

constexpr int kMaxMerge = 8;

// out[n, h] = sum_i exp(lses[i] - lse) parts[i].
struct MergeProblem {
  int64_t N, H, D;
  int32_t n_parts;
  struct Part {
    const char* data;
    int64_t row, head;  // bytes
    DType type;
    const float* lse;
    int64_t lse_row;  // elements
  } parts[kMaxMerge];
  char* out;
  int64_t out_row, out_head;  // bytes
  DType out_type;
  float* lse;  // null: not wanted
  int64_t lse_row;
  int32_t threads;
  void* cuda_stream;
};
using MergeFn = void(const MergeProblem&);
FEWSTEP_DECLARE_KERNELS(MergeFn, merge)

}  // namespace fewstep::tree
