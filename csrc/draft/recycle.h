// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"

namespace fewstep::draft {

// table[tokens[n], k] = top_ids[n, k], n ascending.
struct RecycleProblem {
  int64_t V, K, N;
  int32_t* table;
  const int32_t *tokens, *top_ids;
  int64_t table_stride, tokens_stride, top_ids_stride;
  void* cuda_stream;
};
using RecycleFn = void(const RecycleProblem&);
FEWSTEP_DECLARE_KERNELS(RecycleFn, recycle)

}  // namespace fewstep::draft
