// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"

namespace fewstep::noise {

// out[b, n] = scale * z(seeds[b], stream, step, n)
struct NormalProblem {
  int64_t B, N;
  const uint64_t* seeds;  // [B]
  int64_t seed_stride;    // elements
  void* out;              // [B, N] dtype
  int64_t out_stride;     // elements between samples
  DType dtype;            // f32 f16 bf16
  uint32_t step, stream;
  float scale;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using NormalFn = void(const NormalProblem&);
FEWSTEP_DECLARE_KERNELS(NormalFn, normal)

}  // namespace fewstep::noise
