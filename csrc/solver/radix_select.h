// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>
#include <string.h>

#include "core/host_device.h"

// Selection of the k-th smallest float by the digits of its bits, from the top: a histogram of the
// first digit says which digit the k-th has and how many are below; one of the second digit of
// those elements that share the first, and so on. Counts are integers, so no order matters. Host
// and device code.
namespace fewstep::solver {

constexpr int kLevels = 3;
constexpr int kBins = 2048;

// Digits of 11, 11 and 10 bits.
FEWSTEP_HOST_DEVICE static inline int digit_shift(int level) {
  return level == 0 ? 21 : level == 1 ? 10 : 0;
}
FEWSTEP_HOST_DEVICE static inline int digit_count(int level) { return level == 2 ? 1024 : 2048; }

// What level 0 counts of a key is its digit; later levels count keys whose higher bits are
// `prefix`.
FEWSTEP_HOST_DEVICE static inline uint32_t digit_of(uint32_t key, int level) {
  return key >> digit_shift(level) & (uint32_t)(digit_count(level) - 1);
}
FEWSTEP_HOST_DEVICE static inline uint32_t prefix_of(uint32_t key, int level) {
  return level == 1 ? key >> 21 : key >> 10;
}

// An unsigned integer that orders as the float does, or as its magnitude; a NaN is above all.
constexpr uint32_t kNanKey = 0xffffffffu;
FEWSTEP_HOST_DEVICE static inline uint32_t key_of(uint32_t bits, bool magnitude) {
  const uint32_t doubled = bits << 1;
  const uint32_t flip = (uint32_t)((int32_t)bits >> 31) | 0x80000000u;
  const uint32_t key = magnitude ? doubled : bits ^ flip;
  return doubled > 0xff000000u ? kNanKey : key;
}
FEWSTEP_HOST_DEVICE static inline uint32_t bits_of_key(uint32_t key, bool magnitude) {
  if (magnitude) return key >> 1;
  return key & 0x80000000u ? key ^ 0x80000000u : ~key;
}

// How far a sample's selection has come.
struct Selection {
  uint64_t rank;    // of the wanted key among those that share its prefix
  uint32_t prefix;  // its digits so far
  uint32_t above;   // the least key above all keys that share all but the last digit
  uint32_t has_nan;
  uint32_t found;  // the key, after the last level
  uint32_t next;   // the key of the next rank
  uint32_t unused;
};

FEWSTEP_HOST_DEVICE static inline Selection start_selection(uint64_t rank) {
  return {rank, 0, kNanKey, 0, 0, 0, 0};
}

// Takes digit `digit` of which there are `count` keys, `below` keys having a lower one; `following`
// is the next digit that any key has, or a negative number.
FEWSTEP_HOST_DEVICE static inline void take_digit(int level, uint32_t digit, uint64_t below,
                                                  uint64_t count, int following, Selection* s) {
  s->rank -= below;
  const uint32_t bits = level == 2 ? 10 : 11;
  const uint32_t parent = s->prefix << bits;
  s->prefix = parent | digit;
  if (level < kLevels - 1) return;
  s->found = s->prefix;
  s->next = s->rank + 1 < count ? s->found
            : following >= 0    ? parent | (uint32_t)following
                                : s->above;
}

// The value at `fraction` of the way from the found key to the next.
FEWSTEP_HOST_DEVICE static inline float selected_value(const Selection& s, double fraction,
                                                       bool magnitude) {
  const uint32_t bits[2] = {s.has_nan ? 0x7fc00000u : bits_of_key(s.found, magnitude),
                            bits_of_key(s.next, magnitude)};
  float value[2];
  memcpy(value, bits, sizeof(value));
  if (s.has_nan || fraction == 0.0 || bits[0] == bits[1]) return value[0];
  const double low = (double)value[0], high = (double)value[1];
  return (float)(low + fraction * (high - low));
}

}  // namespace fewstep::solver
