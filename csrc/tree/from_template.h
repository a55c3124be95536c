// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"

namespace fewstep::tree {

// Either table or heads is not null.
struct FromTemplateProblem {
  int64_t B, Q;
  int64_t V;              // of the table
  const int32_t* parent;  // [Q], checked
  const int32_t* rank;    // [Q], checked but for the root's
  const int32_t* root;    // [B], in [0, V) with a table
  const int32_t* table;   // [V, K]
  const int32_t* heads;   // [B, H, K]
  int32_t* tokens;        // [B, Q]
  int64_t parent_stride, rank_stride, root_stride, table_stride, heads_stride, tokens_stride;
  int64_t H, K;
  int32_t threads;
  void* cuda_stream;
};
using FromTemplateFn = void(const FromTemplateProblem&);
FEWSTEP_DECLARE_KERNELS(FromTemplateFn, from_template)

}  // namespace fewstep::tree
