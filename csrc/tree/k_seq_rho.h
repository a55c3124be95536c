// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "logits/row.h"
#include "tree/trees.h"

namespace fewstep::tree {

// SpecTr's rho for k draws from each row's draft law.
struct KSeqRhoProblem {
  logits::Rows rows;
  DraftLaws laws;
  int32_t k;
  double* rho;      // [R]
  double* accept;   // [R] or null
  int32_t* status;  // [R] or null
  int64_t rho_stride, accept_stride, status_stride;
  int32_t threads;
  void* cuda_stream;
};
using KSeqRhoFn = void(const KSeqRhoProblem&);
FEWSTEP_DECLARE_KERNELS(KSeqRhoFn, k_seq_rho)

}  // namespace fewstep::tree
