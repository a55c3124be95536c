// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/cpu/exp.h"
#include "core/host_device.h"

// The exponential is that of the CPU's kernels; what they have no need to spell out is here.
// Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

FEWSTEP_HOST_DEVICE inline int ones_of(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __popc(word);
#else
  return __builtin_popcount(word);
#endif
}

// 2^x for x < 127.5, within 2^-22 of it, relatively; results below 2^-126 may be 0. Not the CPU's
// bits: for what is rounded to 16 bits anyway.
FEWSTEP_HOST_DEVICE inline float about_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return vec::exp2_below_127({x}).v;
#endif
}

// ln(x) in float64 for a float32 x of 0 or more; NaN and infinity stay. CUDA's own begins with an
// approximate quotient. Error below 2^-50.
// x = m 2^e with m in [sqrt(1/2), sqrt(2)); ln(m) = 2 atanh(s), s = (m - 1) / (m + 1), whose series
// ends where s^2 <= 0.0295 has become smaller than that.
FEWSTEP_HOST_DEVICE inline double log_of(float x) {
  if (!(x > 0.0f && x < __builtin_inff())) return x == 0.0f ? -__builtin_inf() : (double)x;
  const double wide = (double)x;
  uint64_t bits;
  memcpy(&bits, &wide, 8);
  int e = (int)(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  memcpy(&m, &bits, 8);
  if (m > 0x1.6a09e667f3bcdp+0) {
    m *= 0.5;
    ++e;
  }
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double sum = 0.0;
  FEWSTEP_UNROLL
  for (int k = 21; k > 1; k -= 2) sum = fma(sum, z, 1.0 / k);
  sum = fma(sum * z, s, s);
  return fma((double)e, 0x1.62e42fefa39efp-1, 2.0 * sum);
}

}  // namespace
}  // namespace fewstep::gpu
