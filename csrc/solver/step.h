// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"
#include "solver/row.h"

namespace fewstep::solver {

// Sample b's elements are contiguous at data + b * stride.
struct StepTensor {
  char* data;
  int64_t stride;  // bytes
  DType dtype;
};

// Advances sample b by row rows[b] of the plan, or by `row` where rows is null.
struct StepProblem {
  int64_t B, N;
  StepTensor slots[FEWSTEP_MAX_SLOTS];      // f32; unset where no row needs the slot
  StepTensor models[FEWSTEP_MAX_GUIDANCE];  // M_j; f32 f16 bf16
  StepTensor known, mask;                   // f32
  StepTensor model_input;                   // f32 f16 bf16; the copies follow each other:
  int32_t input_copies;                     //   copy c of sample b is row c * B + b
  const uint64_t* seeds;                    // [B]
  int64_t seed_stride;                      // elements
  const fewstep_plan_row* plan;             // [n_rows]
  const ResolvedRow* table;                 // [n_rows], without guidance; null on the CPU
  int32_t n_rows;
  const int32_t* rows;  // [B], below n_rows; negative leaves the sample alone; or null
  int64_t row_stride;   // elements
  int32_t row;
  const ResolvedRow* shared;  // the row of every sample, or null where they differ
  const float* guidance;      // [B, G], or null
  int64_t guidance_stride;    // elements between samples
  int32_t n_guidance;
  const float* clip;    // [B, 2], limit and factor of what rows clamp; or null
  int64_t clip_stride;  // elements between samples
  bool has_mask, has_model_input;
  uint32_t given;       // operands that the caller gave, as in ResolvedRow::needed
  int64_t cache_bytes;  // outputs that are not read leave the cache out when all bytes exceed this
  int32_t threads;      // 0: the process-wide count
  void* cuda_stream;
};
using StepFn = void(const StepProblem&);
FEWSTEP_DECLARE_KERNELS(StepFn, step)

}  // namespace fewstep::solver
