// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::logits {

struct GumbelTopKProblem {
  Rows rows;
  RowDraws draws;
  int32_t K;
  int32_t* ids;  // [R, K]
  int64_t ids_stride;
  float* perturbed;  // [R, K]
  int64_t perturbed_stride;
  float* logprobs;  // [R, K] or null
  int64_t logprobs_stride;
  int32_t* status;  // [R] or null
  int64_t status_stride;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using GumbelTopKFn = void(const GumbelTopKProblem&);
FEWSTEP_DECLARE_KERNELS(GumbelTopKFn, gumbel_top_k)

}  // namespace fewstep::logits
