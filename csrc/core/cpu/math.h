// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"
#include "core/host_device.h"

namespace fewstep::vec {
namespace {

// -2 ln(u) for u in (0, 1]; relative error below 1.5e-7.
// u = 2^e m, m in [sqrt(1/2), sqrt(2)); ln(m) by a minimax polynomial of m - 1 whose own error is
// 0.5 * 2^-24. e times the rounded constant is good to 3e-9: a second constant buys nothing.
FEWSTEP_HOST_DEVICE inline F32 minus_two_log(F32 u) {
  const I32 b = sub(bits(u), set_i32(0x3f3504f3));  // sqrt(1/2)
  const I32 e = shift_right_signed<23>(b);
  const F32 f = sub(float_of_bits(sub(bits(u), shift_left<23>(e))), set(1.0f));
  F32 q = set(-0x1.65c778p-3f);
  q = fma(q, f, set(0x1.25049ep-2f));
  q = fma(q, f, set(-0x1.318526p-2f));
  q = fma(q, f, set(0x1.535d30p-2f));
  q = fma(q, f, set(-0x1.98d2c0p-2f));
  q = fma(q, f, set(0x1.00049ap-1f));
  q = fma(q, f, set(-0x1.5556f4p-1f));
  q = fma(q, f, set(0x1.fffffap-1f));
  const F32 y = fma(mul(f, f), q, mul(f, set(-2.0f)));
  return fma(to_float(e), set(-0x1.62e430p+0f), y);
}

// sin and cos of 2 pi w / 2^32, error below 1.5 units in the last place of the larger one.
// The angle is reduced to the nearest quarter turn in integers, which is exact.
FEWSTEP_HOST_DEVICE inline void sincos_turn(I32 w, F32* s, F32* c) {
  // The low 30 bits as a signed fraction of a quarter turn, times 4: 2 pi / 2^34 per unit.
  const F32 x = mul(to_float(shift_left<2>(w)), set(0x1.921fb6p-32f));
  const F32 z = mul(x, x);
  F32 p = fma(set(-0x1.9943e0p-13f), z, set(0x1.11073ap-7f));
  p = fma(p, z, set(-0x1.555546p-3f));
  const F32 sin_x = fma(mul(p, z), x, x);
  F32 q = fma(set(0x1.99eb9cp-16f), z, set(-0x1.6c0c34p-10f));
  q = fma(q, z, set(0x1.55554ap-5f));
  const F32 cos_x = fma(mul(q, z), z, fma(set(-0.5f), z, set(1.0f)));
  // The top two bits of w + 1/8 turn number the quarter: bit 30 swaps sin and cos, bit 31 is the
  // sine's sign, and one quarter later it is the cosine's.
  const I32 quarter = add(w, set_i32(0x20000000));
  const I32 odd = shift_left<1>(quarter);
  *s = flip_sign(select(odd, sin_x, cos_x), quarter);
  *c = flip_sign(select(odd, cos_x, sin_x), add(quarter, set_i32(0x40000000)));
}

}  // namespace
}  // namespace fewstep::vec
