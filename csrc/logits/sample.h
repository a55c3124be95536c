// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::logits {

struct SampleProblem {
  int64_t R, V;
  const char* logits;    // [R, V] dtype
  int64_t logits_pitch;  // bytes between rows
  DType dtype;
  const uint32_t* bitmask;  // [R, ceil(V / 32)] or null
  int64_t bitmask_stride;   // words between rows
  const uint64_t* seeds;    // [R]
  int64_t seeds_stride;
  const int32_t* positions;  // [R]
  int64_t positions_stride;
  const Filters* filters;
  uint32_t stream, draw;
  int32_t* out;  // [R]
  int64_t out_stride;
  float* logprobs;  // [R] or null
  int64_t logprobs_stride;
  int32_t* status;  // [R] or null
  int64_t status_stride;
  int32_t threads;  // 0: the process-wide count
};
using SampleFn = void(const SampleProblem&);
FEWSTEP_DECLARE_KERNELS(SampleFn, sample)

}  // namespace fewstep::logits
