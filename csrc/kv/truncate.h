// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "kv/cache.h"

namespace fewstep::kv {

// length[b] = kept[b]
struct TruncateProblem {
  int64_t B;
  int32_t* length;
  int64_t length_stride;
  Ints kept;
  void* cuda_stream;
};
using TruncateFn = void(const TruncateProblem&);
FEWSTEP_DECLARE_KERNELS(TruncateFn, truncate)

}  // namespace fewstep::kv
