// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/math.h"
#include "core/cpu/philox_tile.h"
#include "core/cpu/vec.h"
#include "core/host_device.h"

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

// Normals of blocks [block, block + kLanes): element 4 * block + kLanes * i + lane of the sample in
// lane `lane` of z[i]. Requires: block a multiple of kLanes.
FEWSTEP_HOST_DEVICE inline void normal_tile(uint64_t block, uint64_t seed, uint32_t step,
                                            uint32_t stream, F32 z[4]) {
  I32 w[4];
  philox_tile(block, seed, step, stream, w);
  box_muller(w[0], w[1], &z[0], &z[1]);
  box_muller(w[2], w[3], &z[2], &z[3]);
  transpose_quads(z);
}

}  // namespace
}  // namespace fewstep::vec
