// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/cpu/vec.h"
#include "core/host_device.h"
#include "solver/gram.h"

// What kernels of both kinds add up for a Gram matrix. Included by kernel files only.

namespace fewstep::solver {
namespace {

// Where entry e of the sums stands in the matrix: row <= column. Column k has k + 1 entries, the
// first of which is u_k's sum.
FEWSTEP_HOST_DEVICE inline void gram_position(int e, int* row, int* column) {
  int k = 1;
  while (e > k) {
    e -= k + 1;
    ++k;
  }
  *row = e;
  *column = k;
}

// Writes a sum to its one or two places; entry 0 also writes the number of elements.
FEWSTEP_HOST_DEVICE inline void set_gram_entry(double* matrix, int K, int e, double sum,
                                               int64_t N) {
  int row, column;
  gram_position(e, &row, &column);
  matrix[row * (K + 1) + column] = sum;
  matrix[column * (K + 1) + row] = sum;
  if (e == 0) matrix[0] = (double)N;
}

template <int K>
struct GramTerms {
  static constexpr int kInputs = K, kEntries = gram_entries(K);

  FEWSTEP_HOST_DEVICE void add(const vec::F32 x[K], vec::F64 sum[kEntries]) const {
    vec::F64 v[K];
    for (int k = 0; k < K; ++k) v[k] = vec::widen(x[k]);
    int e = 0;
    FEWSTEP_UNROLL
    for (int k = 0; k < K; ++k) {
      sum[e] = vec::add(sum[e], v[k]);
      ++e;
      FEWSTEP_UNROLL
      for (int j = 0; j < K; ++j) {
        if (j > k) break;
        sum[e] = vec::add_exact_product(v[j], v[k], sum[e]);
        ++e;
      }
    }
  }
};

// Where the sums go.
template <int K>
struct GramDone {
  double* out;
  int64_t stride, N;

  FEWSTEP_HOST_DEVICE void operator()(int64_t b, int e, double sum) const {
    set_gram_entry(out + b * stride, K, e, sum, N);
  }
};

}  // namespace
}  // namespace fewstep::solver
