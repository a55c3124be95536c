// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/host_device.h"

// Scores of a stochastic beam. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// A child's perturbed log-probability given that the greatest of its siblings' is the parent's:
// -log(exp(-parent) - exp(-greatest) + exp(-own)).
// Source: Kool, van Hoof, Welling 2019, "Stochastic beams and where to find them", arXiv
// 1903.06059, appendix B.3, in its stable form.
FEWSTEP_HOST_DEVICE inline double given_greatest(double own, double greatest, double parent) {
  const double below = own - greatest;  // at most 0
  const double log_rest = below > -0.6931 ? log(-expm1(below)) : log1p(-exp(below));
  const double v = parent - own + log_rest;
  return parent - (v > 0.0 ? v : 0.0) - log1p(exp(-fabs(v)));
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
