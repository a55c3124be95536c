// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::logits {

// Ragged lists of tokens: row r has entries [indptr[r], indptr[r + 1]), or all of them.
struct TokenLists {
  int64_t count;  // of all entries
  const int32_t* ids;
  int64_t ids_stride;
  const int32_t* indptr;  // null: every row has all entries
  int64_t indptr_stride;
};
FEWSTEP_HOST_DEVICE static inline int64_t list_begin(const TokenLists& lists, int64_t row) {
  return lists.indptr ? lists.indptr[row * lists.indptr_stride] : 0;
}
FEWSTEP_HOST_DEVICE static inline int64_t list_end(const TokenLists& lists, int64_t row) {
  return lists.indptr ? lists.indptr[(row + 1) * lists.indptr_stride] : lists.count;
}

struct PenaliseProblem {
  int64_t R, V;
  const char* logits;  // [R, V] dtype
  char* out;           // [R, V] dtype; may be logits
  int64_t logits_pitch, out_pitch;
  DType dtype;
  TokenLists history, biased;
  const int32_t* counts;  // of the history's entries, or null: 1 each
  int64_t counts_stride;
  const float* bias;  // of the biased entries
  int64_t bias_stride;
  PerRow<float> repetition, presence, frequency;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using PenaliseFn = void(const PenaliseProblem&);
FEWSTEP_DECLARE_KERNELS(PenaliseFn, penalise)

}  // namespace fewstep::logits
