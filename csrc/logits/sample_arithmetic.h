// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::logits {

struct SampleArithmeticProblem {
  Rows rows;
  const uint64_t* codes;  // [R]
  int64_t codes_stride;
  uint64_t* next_codes;  // [R]; may be codes
  int64_t next_codes_stride;
  int32_t* out;  // [R]
  int64_t out_stride;
  float* logprobs;  // [R] or null
  int64_t logprobs_stride;
  int32_t* status;  // [R] or null
  int64_t status_stride;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using SampleArithmeticFn = void(const SampleArithmeticProblem&);
FEWSTEP_DECLARE_KERNELS(SampleArithmeticFn, sample_arithmetic)

}  // namespace fewstep::logits
