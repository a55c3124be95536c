// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/dtype.h"
#include "linear/layout.h"

// What an op on packed weights says of its activations, to have them prepared.
namespace fewstep::linear {

// Rows of a floating type; data is null where an optional tensor is absent.
struct Rows {
  char* data;
  int64_t stride_bytes;
  DType type;
};

struct ActivationsProblem {
  int64_t M, I;
  Kind kind;  // of the weights
  int32_t group;
  float norm_eps;
  Rows x;           // [M, I]
  Rows norm;        // [I]
  char* workspace;  // as large as activations_bytes says
};

// The workspace is aligned to cache lines inside, and so are its three parts.
static inline int64_t activations_bytes(int64_t M, Kind kind, int64_t I, int group) {
  if (M <= 0) return 0;
  const PreparedSize n = prepared_size(kind, I, group);
  const int64_t words = M * n.words, scales = M * n.scales, sums = M * n.sums;
  return 64 * (1 + ceil_div(words, 16) + ceil_div(scales, 16) + ceil_div(sums, 16));
}

}  // namespace fewstep::linear
