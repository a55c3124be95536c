// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::logits {

struct TopKProblem {
  Rows rows;
  int32_t K;
  bool normalise;
  int32_t* ids;   // [R, K]
  float* values;  // [R, K]
  int64_t ids_stride, values_stride;
  float* log_normaliser;  // [R] or null
  int64_t log_normaliser_stride;
  int32_t* status;  // [R] or null
  int64_t status_stride;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using TopKFn = void(const TopKProblem&);
FEWSTEP_DECLARE_KERNELS(TopKFn, top_k)

}  // namespace fewstep::logits
