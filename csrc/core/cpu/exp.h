// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"
#include "core/host_device.h"

namespace fewstep::vec {
namespace {

// exp(x) for x <= 88.37; the same bits on every ISA. Error below 1 unit in the last place down
// to 2^-126, the nearest subnormal below; +0 from -87.68 down, so that a masked logit, -inf, has no
// weight at all. NaN stays NaN.
// x = n ln 2 + r, |r| <= ln(2) / 2; exp(r) - 1 - r by a minimax polynomial times r^2 whose own
// error is 0.05 * 2^-24. n = -127 makes the factor 2^n zero.
FEWSTEP_HOST_DEVICE inline F32 exp_below_88(F32 x) {
  x = max(set(-88.0f), x);
  const F32 shift = set(0x1.8p23f);  // its last place is 1: adding it rounds to an integer
  const F32 t = fma(x, set(0x1.715476p+0f), shift);
  const F32 n = sub(t, shift);
  const F32 r = fma(n, set(0x1.05c610p-29f), fma(n, set(-0x1.62e430p-1f), x));
  F32 q = fma(set(0x1.6a23cep-10f), r, set(0x1.123a20p-7f));
  q = fma(q, r, set(0x1.5558f2p-5f));
  q = fma(q, r, set(0x1.555492p-3f));
  q = fma(q, r, set(0x1.fffffcp-2f));
  const F32 y = add(fma(mul(r, r), q, r), set(1.0f));
  return mul(y, float_of_bits(shift_left<23>(add(bits(t), set_i32(127)))));
}

// 2^x for x < 127.5; the same bits on every ISA. Error below 0.8 units in the last place down to
// 2^-126, the nearest subnormal below; +0 from -126.5 down. NaN stays NaN.
// x = n + r, |r| <= 1/2; (2^r - 1) / r by a minimax polynomial whose own error is 0.05 * 2^-24 of
// 2^r.
FEWSTEP_HOST_DEVICE inline F32 exp2_below_127(F32 x) {
  x = max(set(-127.0f), x);
  // Its last place is 1, so that adding it rounds to an integer; the 127 is the exponent's bias.
  const F32 shift = set(0x1.8p23f + 127.0f);
  const F32 t = add(x, shift);
  const F32 r = sub(x, sub(t, shift));
  F32 q = fma(set(0x1.416b5ep-13f), r, set(0x1.5f082ep-10f));
  q = fma(q, r, set(0x1.3b2de0p-7f));
  q = fma(q, r, set(0x1.c6af7cp-5f));
  q = fma(q, r, set(0x1.ebfbdcp-3f));
  q = fma(q, r, set(0x1.62e430p-1f));
  return mul(fma(q, r, set(1.0f)), float_of_bits(shift_left<23>(bits(t))));
}

// exp(x) for every x: infinity from 88.38 up, 0.4 before float32 has to.
FEWSTEP_HOST_DEVICE inline F32 exp(F32 x) { return exp_below_88(min(set(89.0f), x)); }

// exp_below_88 of one number: the bits of a lane.
inline float exp_of(float x) {
  float lanes[kLanes];
  store(lanes, exp_below_88(set(x)));
  return lanes[0];
}

}  // namespace
}  // namespace fewstep::vec
