// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"
#include "linear/layout.h"

namespace fewstep::linear {

// Rows of a floating type; data is null where an optional tensor is absent.
struct Rows {
  char* data;
  int64_t stride_bytes;
  DType type;
};

struct RunProblem {
  int64_t M, I, O;
  Kind kind;
  int32_t group;
  float norm_eps;
  Rows x;              // [M, I]
  const char* packed;  // panels
  const char* up;      // panels of the same layout, or null
  Rows bias;           // [O]
  Rows residual;       // [M, O]
  Rows norm;           // [I]
  Rows out;            // [M, O]
  char* workspace;     // as large as run_workspace_bytes says
  int32_t threads;     // 0: the process-wide count
};
using RunFn = void(const RunProblem&);
FEWSTEP_DECLARE_KERNELS(RunFn, run)

// The workspace is aligned to cache lines inside, and so are its three parts.
static inline int64_t run_workspace_bytes(int64_t M, Kind kind, int64_t I, int group) {
  if (M <= 0) return 0;
  const PreparedSize n = prepared_size(kind, I, group);
  const int64_t words = M * n.words, scales = M * n.scales, sums = M * n.sums;
  return 64 * (1 + ceil_div(words, 16) + ceil_div(scales, 16) + ceil_div(sums, 16));
}

}  // namespace fewstep::linear
