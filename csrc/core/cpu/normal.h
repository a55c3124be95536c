// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/math.h"
#include "core/cpu/vec.h"
#include "core/host_device.h"
#include "core/philox.h"

// The normals of fewstep_noise_normal: Philox4x32-10 and Box-Muller (Box, Muller 1958).
namespace fewstep::vec {
namespace {

// One block of Philox per lane, four normals per block.
constexpr int kNormalTile = 4 * kLanes;

// Radius from w0, angle from w1: u = (w0 + 1/2) / 2^32 lies in (0, 1], so the logarithm is finite
// and the largest normal is 6.7.
FEWSTEP_HOST_DEVICE inline void box_muller(I32 w0, I32 w1, F32* z0, F32* z1) {
  const F32 u = fma(unsigned_to_float(w0), set(0x1p-32f), set(0x1p-33f));
  const F32 radius = sqrt(minus_two_log(u));
  F32 s, c;
  sincos_turn(w1, &s, &c);
  *z0 = mul(radius, c);
  *z1 = mul(radius, s);
}

#if defined(__AVX2__)

// The 64-bit lanes of c hold one 32-bit word each in their low half; the high half is what earlier
// products left there, which the multiplication ignores. So a round needs no shuffle.
inline void philox_round(I64 c[4], I64 key0, I64 key1) {
  const I64 p0 = mul_low_halves(c[0], set_i64(kPhiloxMul0));
  const I64 p1 = mul_low_halves(c[2], set_i64(kPhiloxMul1));
  c[0] = exclusive_or(high_half(p1), c[1], key0);
  c[1] = p1;
  c[2] = exclusive_or(high_half(p0), c[3], key1);
  c[3] = p0;
}

// Normals of blocks [block, block + kLanes): element 4 * block + kLanes * i + lane of the sample in
// lane `lane` of z[i]. Requires: block a multiple of kLanes.
inline void normal_tile(uint64_t block, uint64_t seed, uint32_t step, uint32_t stream, F32 z[4]) {
  I64 even[4], odd[4];
  const I64 first = set_i64((int64_t)block);
  even[0] = add(first, even_lane_blocks());
  odd[0] = add(first, odd_lane_blocks());
  // Lanes of one tile share the high word: block is a multiple of kLanes.
  even[1] = odd[1] = high_half(first);
  even[2] = odd[2] = set_i64(step);
  even[3] = odd[3] = set_i64(stream);
  uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const I64 k0 = set_i64(key0), k1 = set_i64(key1);
    philox_round(even, k0, k1);
    philox_round(odd, k0, k1);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  for (int i = 0; i < 4; i += 2) {
    box_muller(interleave_low_halves(even[i], odd[i]),
               interleave_low_halves(even[i + 1], odd[i + 1]), &z[i], &z[i + 1]);
  }
  transpose_quads(z);
}

#else

FEWSTEP_HOST_DEVICE inline void normal_tile(uint64_t block, uint64_t seed, uint32_t step,
                                            uint32_t stream, F32 z[4]) {
  uint32_t w[4] = {(uint32_t)block, (uint32_t)(block >> 32), step, stream};
  philox4x32(w, (uint32_t)seed, (uint32_t)(seed >> 32));
  box_muller({w[0]}, {w[1]}, &z[0], &z[1]);
  box_muller({w[2]}, {w[3]}, &z[2], &z[3]);
}

#endif

}  // namespace
}  // namespace fewstep::vec
