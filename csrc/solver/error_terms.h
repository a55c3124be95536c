// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/cpu/vec.h"
#include "core/host_device.h"
#include "solver/error_norm.h"

// What kernels of both kinds add up for a scaled error norm. Included by kernel files only.
namespace fewstep::solver {
namespace {

template <bool kHasMinus, bool kMaximum>
struct ErrorTerms {
  static constexpr int kInputs = kHasMinus ? 4 : 3, kEntries = 1;
  double atol, rtol;

  FEWSTEP_HOST_DEVICE void add(const vec::F32 x[kInputs], vec::F64 sum[1]) const {
    const vec::F32 zero = vec::set(0.0f);
    const vec::F32 before = vec::max(x[kBefore], vec::sub(zero, x[kBefore]));
    const vec::F32 after = vec::max(x[kAfter], vec::sub(zero, x[kAfter]));
    const vec::F64 size = vec::mul(vec::set(rtol), vec::widen(vec::max(before, after)));
    vec::F64 scale = kMaximum ? vec::max(vec::set(atol), size) : vec::add(vec::set(atol), size);
    // Zero, or NaN where a state is not finite: max would drop a NaN, and an error divided by
    // infinity would vanish.
    const vec::F64 states = vec::add(vec::widen(x[kBefore]), vec::widen(x[kAfter]));
    scale = vec::add(scale, vec::mul(vec::set(0.0), states));
    vec::F64 error = vec::widen(x[kError]);
    if constexpr (kHasMinus) error = vec::sub(error, vec::widen(x[kMinus]));
    const vec::F64 ratio = vec::div(error, scale);
    sum[0] = vec::add(sum[0], vec::mul(ratio, ratio));
  }
};

struct ErrorDone {
  double* out;
  int64_t stride, N;

  FEWSTEP_HOST_DEVICE void operator()(int64_t b, int, double sum) const {
    // An infinite error has an infinite sum, which is no size to act on either.
    const double norm = ::sqrt(sum / (double)(N > 0 ? N : 1));
    out[b * stride] = norm < HUGE_VAL ? norm : (double)NAN;
  }
};

// Calls f with the terms of a problem.
template <class F>
void with_error_terms(const ErrorNormProblem& p, const F& f) {
  if (p.has_minus && p.maximum) return f(ErrorTerms<true, true>{p.atol, p.rtol});
  if (p.has_minus) return f(ErrorTerms<true, false>{p.atol, p.rtol});
  if (p.maximum) return f(ErrorTerms<false, true>{p.atol, p.rtol});
  return f(ErrorTerms<false, false>{p.atol, p.rtol});
}

}  // namespace
}  // namespace fewstep::solver
