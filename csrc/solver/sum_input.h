// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace fewstep::solver {

// An array that a reduction reads: sample b's elements are contiguous at data + b * stride.
struct SumInput {
  const char* data;
  int64_t stride;  // bytes
  DType dtype;     // f32 f16 bf16
};

}  // namespace fewstep::solver
