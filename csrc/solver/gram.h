// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"
#include "solver/sum_input.h"

namespace fewstep::solver {

constexpr int kMaxGramArrays = 4;

// out[b] is the Gram matrix of (1, u_1 .. u_K) of sample b; partials [B, entries, pieces] is
// scratch.
struct GramProblem {
  int64_t B, N;
  int32_t K;
  SumInput in[kMaxGramArrays];
  double* out;         // [B, (K + 1) * (K + 1)]
  int64_t out_stride;  // elements between samples
  double* partials;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using GramFn = void(const GramProblem&);
FEWSTEP_DECLARE_KERNELS(GramFn, gram)

// Sums that a Gram matrix of K arrays needs: u_k, and u_j u_k for j <= k, in the order
// u_1, u_1 u_1, u_2, u_1 u_2, u_2 u_2, u_3, ...
constexpr int gram_entries(int K) { return K + K * (K + 1) / 2; }

}  // namespace fewstep::solver
