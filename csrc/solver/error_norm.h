// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "solver/sum_input.h"

namespace fewstep::solver {

// The inputs in the order in which kernels take them; `minus` is the last because it may be absent.
enum ErrorInput { kError, kBefore, kAfter, kMinus, kErrorInputs };

// out[b] = sqrt(mean of ((error - minus) / s)^2), s = atol + rtol max(|before|, |after|) or, with
// `maximum`, max(atol, rtol max(|before|, |after|)). partials [B, pieces] is scratch.
struct ErrorNormProblem {
  int64_t B, N;
  SumInput in[kErrorInputs];
  bool has_minus, maximum;
  double atol, rtol;
  double* out;         // [B]
  int64_t out_stride;  // elements
  double* partials;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using ErrorNormFn = void(const ErrorNormProblem&);
FEWSTEP_DECLARE_KERNELS(ErrorNormFn, error_norm)

}  // namespace fewstep::solver
