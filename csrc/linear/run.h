// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "linear/activations.h"

namespace fewstep::linear {

struct RunProblem {
  ActivationsProblem in;
  int64_t O;
  const char* packed;  // panels
  const char* up;      // panels of the same layout, or null
  Rows bias;           // [O]
  Rows residual;       // [M, O]
  Rows out;            // [M, O]
  int32_t threads;     // 0: the process-wide count
  void* cuda_stream;   // used on CUDA
};
using RunFn = void(const RunProblem&);
FEWSTEP_DECLARE_KERNELS(RunFn, run)

// The kernel for a device; throws where there is none.
RunFn& run_kernel(Device device, const char* function);

}  // namespace fewstep::linear
