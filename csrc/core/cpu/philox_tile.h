// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"
#include "core/host_device.h"
#include "core/philox.h"

// Philox4x32-10, one block per lane.
namespace fewstep::vec {
namespace {

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

// Word i of blocks [block, block + kLanes) in w[i], in an order of lanes in which transpose_quads
// makes word 4 * block + kLanes * i + lane of all that of lane `lane` of w[i]. Counter words 0 and
// 1 are the block's. Requires: block a multiple of kLanes.
inline void philox_tile(uint64_t block, uint64_t seed, uint32_t word2, uint32_t word3, I32 w[4]) {
  I64 even[4], odd[4];
  const I64 first = set_i64((int64_t)block);
  even[0] = add(first, even_lane_blocks());
  odd[0] = add(first, odd_lane_blocks());
  // Lanes of one tile share the high word: block is a multiple of kLanes.
  even[1] = odd[1] = high_half(first);
  even[2] = odd[2] = set_i64(word2);
  even[3] = odd[3] = set_i64(word3);
  uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const I64 k0 = set_i64(key0), k1 = set_i64(key1);
    philox_round(even, k0, k1);
    philox_round(odd, k0, k1);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  for (int i = 0; i < 4; ++i) w[i] = interleave_low_halves(even[i], odd[i]);
}

#else

FEWSTEP_HOST_DEVICE inline void philox_tile(uint64_t block, uint64_t seed, uint32_t word2,
                                            uint32_t word3, I32 w[4]) {
  uint32_t words[4] = {(uint32_t)block, (uint32_t)(block >> 32), word2, word3};
  philox4x32(words, (uint32_t)seed, (uint32_t)(seed >> 32));
  w[0] = {words[0]};
  w[1] = {words[1]};
  w[2] = {words[2]};
  w[3] = {words[3]};
}

#endif

}  // namespace
}  // namespace fewstep::vec
