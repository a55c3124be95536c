// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cpu/candidates.h"

// The beam of a request: the best of all children of its frontier rows. Included by kernel files
// only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::FEWSTEP_ISA::Candidate;
using logits::FEWSTEP_ISA::Keeper;
using logits::FEWSTEP_ISA::kMaxBuffer;

// The candidates that were kept, the best first, of equal ones the lower id first; how many.
inline int ranked(Keeper* keeper) {
  keeper->cut();
  sort(keeper->best, keeper->count, logits::FEWSTEP_ISA::ByRank());
  return keeper->count;
}

// Of scores [rows, K] the `width` greatest above -infinity into beam [kMaxBuffer], with
// row * K + column as their ids; returns how many there are.
inline int choose_best(const float* scores, int64_t stride, int64_t rows, int K, int width,
                       Candidate* beam) {
  Keeper keeper{beam, width, -__builtin_inff()};
  for (int64_t r = 0; r < rows; ++r) {
    for (int j = 0; j < K; ++j) keeper.offer(scores[r * stride + j], (int32_t)(r * K + j));
  }
  return ranked(&keeper);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
