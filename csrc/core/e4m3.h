// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>
#include <string.h>

#include "core/host_device.h"

// float8_e4m3fn (OCP OFP8, E4M3): a sign, 4 bits of exponent with bias 7, 3 of mantissa; up to 448,
// no infinities, and one NaN of either sign. Kernels include it: nothing here may be shared between
// instruction sets.
namespace fewstep {
namespace {

// Exactly.
FEWSTEP_HOST_DEVICE inline float widen_e4m3(uint8_t code) {
  const uint32_t rest = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
  uint32_t u = (rest << 20) + (120u << 23);
  float x = (float)rest * 0x1p-9f;  // a subnormal number, with no float that is one on the way
  if (rest < 8) memcpy(&u, &x, sizeof u);
  if (rest == 0x7f) u = 0x7fc00000u;
  u |= sign;
  memcpy(&x, &u, sizeof x);
  return x;
}

// Rounded to nearest even. Requires: |x| at most 464, halfway from 448 to what would be next.
FEWSTEP_HOST_DEVICE inline uint8_t narrow_e4m3(float x) {
  uint32_t u, near_zero;
  memcpy(&u, &x, sizeof u);
  const uint32_t rest = u & 0x7fffffffu;
  float sum;
  memcpy(&sum, &rest, sizeof sum);
  // 2^14 puts the unit in the last place at 2^-9, that of numbers up to 2^-6.
  sum += 0x1p14f;
  memcpy(&near_zero, &sum, sizeof near_zero);
  const uint32_t normal = (rest - (120u << 23) + 0x7ffffu + (rest >> 20 & 1u)) >> 20;
  const uint32_t code = rest < 0x3c800000u ? near_zero - 0x46800000u : normal;
  return (uint8_t)((u >> 24 & 0x80u) | code);
}

}  // namespace
}  // namespace fewstep
