// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::tree {

constexpr int kMaxChildren = 64;

// K children of each of R frontier rows, and each request's M best of all its rows'.
struct ExpandProblem {
  int64_t B;
  int32_t K, M;
  logits::Rows rows;
  const float* cum_logp;  // [R]
  const int32_t* indptr;  // [B + 1], checked
  const int32_t* d2t;     // [V]; null: ids are those of the logits
  int32_t* ids;           // [R, K]
  float* logp;            // [R, K]
  int32_t* beam_ids;      // [B, M]; null: no beam
  float* beam_logp;
  int32_t* beam_parent;
  int32_t* status;  // [R]; null: not wanted
  int64_t cum_logp_stride, indptr_stride, d2t_stride, status_stride;
  int64_t ids_stride, logp_stride, beam_ids_stride, beam_logp_stride, beam_parent_stride;
  int32_t threads;
  void* cuda_stream;
};
using ExpandFn = void(const ExpandProblem&);
FEWSTEP_DECLARE_KERNELS(ExpandFn, expand)

// The kernel for a device; throws where there is none.
ExpandFn& expand_kernel(Device device, const char* function);

}  // namespace fewstep::tree
