// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/kernel_set.h"
#include "linear/activations.h"
#include "logits/row.h"

namespace fewstep::logits {

// Packed rows whose best tokens are found together: what they keep does not depend on threads.
constexpr int64_t kGroupRows = 2048;

// The same on CUDA, where a block of threads has a group: it may keep all of its logits.
constexpr int64_t kCudaGroupRows = 512;

// What a group keeps of a row of x, K candidates behind it.
struct Found {
  double sum;  // of exp(l - max)
  float max;   // NaN where a logit is
  int32_t count;
};
FEWSTEP_HOST_DEVICE static inline int64_t found_bytes(int64_t K) {
  return (int64_t)sizeof(Found) + 8 * K;
}
FEWSTEP_HOST_DEVICE static inline int64_t cuda_found_bytes(int64_t K) {
  return found_bytes(K < kCudaGroupRows ? K : kCudaGroupRows);
}

struct HeadProblem {
  linear::ActivationsProblem in;
  int64_t O;
  const char* packed;
  linear::Rows bias;      // [O]
  const int32_t* tokens;  // [O] or null
  int64_t tokens_stride;
  int32_t K;
  bool normalise, sums;  // sums: the normaliser is asked for
  int32_t* ids;
  float* values;
  int64_t ids_stride, values_stride;  // of rows
  float* log_normaliser;              // [M] or null
  int64_t log_normaliser_stride;
  int32_t* status;  // [M] or null
  int64_t status_stride;
  char* found;  // [groups, M] of found_bytes(K), on CUDA of cuda_found_bytes(K)
  int32_t threads;
  void* cuda_stream;
};
using HeadTopKFn = void(const HeadProblem&);
FEWSTEP_DECLARE_KERNELS(HeadTopKFn, head_top_k)

}  // namespace fewstep::logits
