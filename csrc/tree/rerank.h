// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>
#include <string.h>

#include "core/host_device.h"
#include "core/kernel_set.h"

namespace fewstep::tree {

// Of each request's M nodes the `budget` best, ancestors with them.
struct RerankProblem {
  int64_t B, M;
  const int32_t* indptr;  // [B + 1], checked
  const int32_t* parent;  // [M], checked
  const float* cum_logp;  // [M]
  const int32_t* budget;  // [B], 0 or more
  int32_t* kept;          // [N]: rows of the nodes kept, request by request; -1 behind them
  int32_t* kept_parent;   // [N]
  int32_t* kept_indptr;   // [B + 1]
  uint64_t* keys;         // [2 M]: scratch
  int64_t N;
  int64_t indptr_stride, parent_stride, cum_logp_stride, budget_stride;
  int64_t kept_stride, kept_parent_stride, kept_indptr_stride;
  int32_t threads;
  void* cuda_stream;
};
using RerankFn = void(const RerankProblem&);
FEWSTEP_DECLARE_KERNELS(RerankFn, rerank)

constexpr uint32_t kRootScore = 0xfffffffeu;  // above all floats

// Floats in the order of unsigned integers; NaN and -infinity are 0, below all others.
FEWSTEP_HOST_DEVICE static inline uint32_t ordered(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (!(x > -__builtin_inff())) return 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

}  // namespace fewstep::tree
