// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

// The integers of arithmetic sampling, for kernels of both kinds. Included by kernel files only.
//
// Weights become integers W, whose sums are exact in any order. A code c of 64 bits is the number
// c / 2^64; its token is the one whose cumulative interval [C, C + W) holds c M / 2^64, M the sum
// of all, and the next code is where in that interval it lies.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

__extension__ typedef unsigned __int128 Wide;

// What a weight of 1, the largest, becomes: V of them stay below 2^62.
FEWSTEP_HOST_DEVICE inline float unit_of(int64_t V) {
  int bits = 0;
  while (V >> bits > 0) ++bits;
  return (float)(INT64_C(1) << (62 - bits));
}

// Exact but for the fraction, which is dropped.
FEWSTEP_HOST_DEVICE inline uint64_t units(float w, float unit) {
  return (uint64_t)(int64_t)(w * unit);
}

struct Place {
  int64_t token;
  uint64_t within, width;  // where in the token's interval, and how wide that is
};

// A code times the sum of all weights.
struct Code {
  uint64_t whole, fraction;
};
FEWSTEP_HOST_DEVICE inline Code place_of(uint64_t code, uint64_t sum) {
  const Wide at = (Wide)code * sum;
  return {(uint64_t)(at >> 64), (uint64_t)at};
}
FEWSTEP_HOST_DEVICE inline uint64_t code_within(const Place& place, uint64_t fraction) {
  return (uint64_t)(((Wide)place.within << 64 | fraction) / place.width);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
