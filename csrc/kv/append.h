// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"
#include "kv/cache.h"

namespace fewstep::kv {

constexpr int64_t kMaxHeadDim = 1024;  // a head's elements as floats, 4 KB, are on the stack

// Rows [N, G, D] of keys or values and where they go.
struct AppendRows {
  const char* rows;
  int64_t row, head;  // bytes between rows and between heads
  Cache cache;
  Cache scale;  // of an int8 cache
};

struct AppendProblem {
  int64_t B, N, G, D;
  DType in, out;
  int64_t in_bytes, out_bytes;  // of an element
  AppendRows k, v;
  Ints indptr, length;
  Pages pages;
  int32_t rope;  // fewstep_rope
  int64_t pairs;
  const float *cos, *sin;
  int64_t cos_stride, sin_stride;
  Ints positions;  // data is null: a row's slot
  int32_t threads;
};
using AppendFn = void(const AppendProblem&);
FEWSTEP_DECLARE_KERNELS(AppendFn, append)

}  // namespace fewstep::kv
