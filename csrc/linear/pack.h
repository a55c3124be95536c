// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"
#include "linear/layout.h"

namespace fewstep::linear {

struct PackProblem {
  int64_t O, I;
  Kind kind;
  int32_t group;
  DType type;            // of the weight
  int64_t stride_bytes;  // between rows of the weight
  const char* weight;    // [O, I]
  char* out;
  int32_t threads;    // 0: the process-wide count
  void* cuda_stream;  // used on CUDA
};
using PackFn = void(const PackProblem&);
FEWSTEP_DECLARE_KERNELS(PackFn, pack)

}  // namespace fewstep::linear
