// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"
#include "linear/layout.h"

namespace fewstep::linear {

struct UnpackProblem {
  int64_t O, I;
  Kind kind;
  int32_t group;
  DType type;            // of the output
  int64_t stride_bytes;  // between rows of the output
  const char* packed;
  char* out;             // [O, I]
  const int64_t* index;  // [O], outputs of packed; null: its outputs one after the other
  int64_t index_stride;
  int32_t threads;    // 0: the process-wide count
  void* cuda_stream;  // used on CUDA
};
using UnpackFn = void(const UnpackProblem&);
FEWSTEP_DECLARE_KERNELS(UnpackFn, unpack)

// The kernel for a device; throws where there is none.
UnpackFn& unpack_kernel(Device device, const char* function);

}  // namespace fewstep::linear
