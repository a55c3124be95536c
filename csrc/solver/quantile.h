// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/kernel_set.h"
#include "solver/radix_select.h"
#include "solver/sum_input.h"

namespace fewstep::solver {

// out[b] lies `fraction` of the way from the element of rank `rank` to the next one.
struct QuantileProblem {
  int64_t B, N;
  SumInput x;
  bool magnitude;  // of |x|
  uint64_t rank;
  double fraction;
  float* out;           // [B]
  int64_t out_stride;   // elements
  Selection* state;     // [B]
  uint32_t* histogram;  // [B, slices, kBins]
  int64_t slices;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using QuantileFn = void(const QuantileProblem&);
FEWSTEP_DECLARE_KERNELS(QuantileFn, quantile)

// Slices of a sample that are counted apart, so that threads need not share a histogram. One slice
// is one thread's work; 65536 elements take it about 0.1 ms.
constexpr int64_t kMaxSlices = 16;
constexpr int64_t kSlice = 65536;
constexpr int64_t slices_of(int64_t N) {
  const int64_t slices = (N + kSlice - 1) / kSlice;
  return slices < kMaxSlices ? slices : kMaxSlices;
}

}  // namespace fewstep::solver
