// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::logits {

struct RenormProblem {
  Rows rows;
  float* out;  // [R, V] or null
  int64_t out_stride;
  int32_t K;
  int32_t* ids;  // [R, K] or null, as the two that follow
  int64_t ids_stride;
  float* probabilities;  // [R, K]
  int64_t probabilities_stride;
  int32_t* count;  // [R]
  int64_t count_stride;
  int32_t* status;  // [R] or null
  int64_t status_stride;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using RenormFn = void(const RenormProblem&);
FEWSTEP_DECLARE_KERNELS(RenormFn, renorm)

}  // namespace fewstep::logits
