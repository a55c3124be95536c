// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"

namespace fewstep::tree {

// Of each request's M nodes the `budget` best, ancestors with them.
struct RerankProblem {
  int64_t B, M;
  const int32_t* indptr;  // [B + 1], checked
  const int32_t* parent;  // [M], checked
  const float* cum_logp;  // [M]
  const int32_t* budget;  // [B], 0 or more
  int32_t* kept;          // [N]: rows of the nodes kept, request by request; -1 behind them
  int32_t* kept_parent;   // [N]
  int32_t* kept_indptr;   // [B + 1]
  uint64_t* keys;         // [2 M]: scratch
  int64_t N;
  int64_t indptr_stride, parent_stride, cum_logp_stride, budget_stride;
  int64_t kept_stride, kept_parent_stride, kept_indptr_stride;
  int32_t threads;
};
using RerankFn = void(const RerankProblem&);
FEWSTEP_DECLARE_KERNELS(RerankFn, rerank)

}  // namespace fewstep::tree
