// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

namespace fewstep {

// Philox4x32-10, one block of four words, on host and device.
// Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
constexpr uint32_t kPhiloxMul0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMul1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// ctr is the counter on entry and the four random words on return.
FEWSTEP_HOST_DEVICE static inline void philox4x32(uint32_t ctr[4], uint32_t key0, uint32_t key1) {
  uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = (uint64_t)kPhiloxMul0 * c0;
    const uint64_t p1 = (uint64_t)kPhiloxMul1 * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ key0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ key1;
    c3 = (uint32_t)p0;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  ctr[0] = c0;
  ctr[1] = c1;
  ctr[2] = c2;
  ctr[3] = c3;
}

}  // namespace fewstep
