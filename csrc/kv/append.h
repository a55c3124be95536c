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
  Cache scale;  // of a cache of scaled bytes
};

// RMSNorm of each head, of a multiple of 16 elements.
struct HeadNorm {
  const char* weight;  // [D]; null: none
  DType type;
  float eps;
};

// Queries [N, H, D], normed and turned as keys are, in place.
struct Queries {
  char* rows;  // null: none
  int64_t H, row, head;
  HeadNorm norm;
};

struct AppendProblem {
  int64_t B, N, G, D;
  DType in, out;
  int64_t in_bytes, out_bytes;  // of an element
  AppendRows k, v;
  HeadNorm k_norm;
  Queries q;  // of type `in`
  Ints indptr, length;
  Pages pages;
  Room room;
  int32_t rope;      // fewstep_rope
  int64_t pairs, S;  // S: rows of cos and sin
  const float *cos, *sin;
  int64_t cos_stride, sin_stride;
  Ints positions;  // data is null: a row's slot
  int32_t threads;
  void* cuda_stream;
};
using AppendFn = void(const AppendProblem&);
FEWSTEP_DECLARE_KERNELS(AppendFn, append)

// The kernel for a device; throws where there is none.
AppendFn& append_kernel(Device device, const char* function);

}  // namespace fewstep::kv
