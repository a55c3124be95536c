// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::logits {

struct SampleProblem {
  Rows rows;
  RowDraws draws;
  int32_t* out;  // [R]
  int64_t out_stride;
  float* logprobs;  // [R] or null
  int64_t logprobs_stride;
  int32_t* status;  // [R] or null
  int64_t status_stride;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using SampleFn = void(const SampleProblem&);
FEWSTEP_DECLARE_KERNELS(SampleFn, sample)

}  // namespace fewstep::logits
