// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/cpu/gumbel.h"
#include "tree/cpu/row_law.h"

// Children of a row drawn without replacement.
namespace fewstep::tree {
namespace {

static_assert(kLawGroup == kGumbelGroup);

inline void perturb_row(const RowLogits& row, const DrawKey& key, uint32_t draw, Perturbed* best) {
  alignas(64) float x[kLawChunk];
  for (int64_t begin = 0; begin < row.V; begin += kLawChunk) {
    load_chunk(row, begin, x);
    for (int g = 0; g < kLawGroups; ++g) {
      perturb_group(x + g * kLawGroup, begin + g * kLawGroup, key, draw, best);
    }
  }
}

// A child's perturbed log-probability given that the greatest of its siblings' is the parent's:
// -log(exp(-parent) - exp(-greatest) + exp(-own)).
// Source: Kool, van Hoof, Welling 2019, "Stochastic beams and where to find them", arXiv
// 1903.06059, appendix B.3, in its stable form.
inline double given_greatest(double own, double greatest, double parent) {
  const double below = own - greatest;  // at most 0
  const double log_rest = below > -0.6931 ? log(-expm1(below)) : log1p(-exp(below));
  const double v = parent - own + log_rest;
  return parent - (v > 0.0 ? v : 0.0) - log1p(exp(-fabs(v)));
}

}  // namespace
}  // namespace fewstep::tree
