// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cpu/law.h"

// Selection by radix: which tokens of a law have the highest keys that together reach a goal. The
// first pass over the row sorts all of it into bins; what it leaves open concerns few tokens, which
// the later ones find a vector at a time, passing over the rest without weighing it.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

enum class Key { kValue, kNearness };  // x, or -|x - center|: at most 0
enum class Goal { kCount, kMass };     // a number of tokens, or a share of the law's mass

// Order-preserving integers below 2^31 of floats up to 0.
inline uint32_t rank_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return ~u & 0x7fffffffu;
}
inline float from_rank(uint32_t rank) {
  const uint32_t u = ~rank;
  float x;
  memcpy(&x, &u, 4);
  return x;
}

// Digits of a rank, from the top. Neighbours often share the first one, and a sum must wait for the
// one before it in the same bin: so its bins are there four times, for tokens v % 4.
constexpr int kDigits[] = {10, 11, 10};
constexpr int kCopies = 4;
constexpr int kBins = 4096;

// What tokens are measured by, for a key and a goal.
template <Key kKey, Goal kGoal>
struct Measure {
  const Law& law;

  vec::F32 keys(vec::F32 raw) const {
    const vec::F32 x = shifted(law, raw);
    return kKey == Key::kValue ? x : nearness(law, x);
  }
  // What each counts towards the goal.
  vec::F32 amounts(vec::F32 raw, vec::F32 key, int64_t at) const {
    if (kGoal == Goal::kMass) return weights_of(law, raw, at);
    const vec::F32 zero = vec::set(0.0f);
    return vec::select_bits(vec::greater_bits(key, vec::set(kMinusInfinity)), zero, vec::set(1.0f));
  }
};

// The bins of the first digits; returns the sum of all.
template <class M>
inline double bin_all(const M& measure, double* bins) {
  constexpr int kShift = 31 - kDigits[0], kOne = 1 << kDigits[0];
  static_assert(kCopies * kOne <= kBins);
  float buffer[kBlock], amounts[kBlock], keys[kBlock];
  uint32_t digits[kBlock];
  for (int b = 0; b < kCopies * kOne; ++b) bins[b] = 0.0;
  for (int64_t begin = 0; begin < measure.law.row.V; begin += kBlock) {
    const float* raw = raw_block(measure.law.row, begin, buffer);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      const vec::F32 l = vec::load(raw + i), key = measure.keys(l);
      vec::store(keys + i, key);
      vec::store(amounts + i, measure.amounts(l, key, begin + i));
    }
    for (int i = 0; i < kBlock; ++i) digits[i] = rank_of(keys[i]) >> kShift;
    for (int i = 0; i < kBlock; i += kCopies) {
      for (int c = 0; c < kCopies; ++c) bins[c * kOne + digits[i + c]] += (double)amounts[i + c];
    }
  }
  double total = 0.0;
  for (int b = 0; b < kOne; ++b) {
    bins[b] = (bins[b] + bins[kOne + b]) + (bins[2 * kOne + b] + bins[3 * kOne + b]);
    total += bins[b];
  }
  return total;
}

// Calls f(token, key, amount) in the order of ids for tokens whose key is in [low, high], until it
// returns false. A bound that is NaN is none.
template <class M, class F>
inline void for_keys_between(const M& measure, float low, float high, const F& f) {
  float buffer[kBlock], amounts[vec::kLanes], keys[vec::kLanes];
  for (int64_t begin = 0; begin < measure.law.row.V; begin += kBlock) {
    const float* raw = raw_block(measure.law.row, begin, buffer);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      const vec::F32 l = vec::load(raw + i), key = measure.keys(l);
      const uint32_t outside =
          vec::greater_bits(vec::set(low), key) | vec::greater_bits(key, vec::set(high));
      uint32_t inside = ~outside & vec::kAllLanes;
      if (!inside) continue;
      vec::store(keys, key);
      vec::store(amounts, measure.amounts(l, key, begin + i));
      for (; inside; inside &= inside - 1) {
        const int lane = __builtin_ctz(inside);
        if (!f(begin + i + lane, keys[lane], amounts[lane])) return;
      }
    }
  }
}

// The bin, from the highest down, in which the sum reaches the goal; where rounding never gets
// there the lowest that has anything. `above` grows by those before it.
inline int find_bin(const double* bins, int count, double goal, double* above) {
  int found = -1;
  double sum = *above;
  for (int b = count - 1; b >= 0; --b) {
    if (!(bins[b] > 0.0)) continue;
    found = b;
    *above = sum;
    if (sum + bins[b] >= goal) break;
    sum += bins[b];
  }
  return found;
}

// The threshold above which the tokens with the highest keys just reach the goal, ties by id:
// `amount` tokens, or that share of the mass.
template <Key kKey, Goal kGoal>
inline Threshold select_top(const Law& law, double amount) {
  const Measure<kKey, kGoal> measure{law};
  double bins[kBins];
  double above = 0.0;  // of the keys above the prefix
  const double total = bin_all(measure, bins);
  const double goal = kGoal == Goal::kCount ? amount : amount * total;
  int bin = find_bin(bins, 1 << kDigits[0], goal, &above);
  if (bin < 0) return {};  // no token has any weight: cannot be, the largest has 1
  uint32_t prefix = (uint32_t)bin;
  int open = 31 - kDigits[0];  // bits of the key that are not fixed yet
  for (int d = 1; d < 3; ++d) {
    const int shift = open - kDigits[d], count = 1 << kDigits[d];
    for (int b = 0; b < count; ++b) bins[b] = 0.0;
    const float low = from_rank(prefix << open), high = from_rank(((prefix + 1) << open) - 1);
    for_keys_between(measure, low, high, [&](int64_t, float key, float part) {
      const uint32_t rank = rank_of(key);
      if (rank >> open == prefix) bins[rank >> shift & (uint32_t)(count - 1)] += (double)part;
      return true;
    });
    bin = find_bin(bins, count, goal, &above);
    if (bin < 0) return {};
    prefix = prefix << kDigits[d] | (uint32_t)bin;
    open = shift;
  }
  // The last key is known; how many of those that have it, by id?
  Threshold found{from_rank(prefix), law.row.V};
  int64_t last = -1;
  for_keys_between(measure, found.value, found.value, [&](int64_t v, float, float part) {
    if (!(part > 0.0f)) return true;
    if (last >= 0 && above >= goal) {
      found.end = last + 1;
      return false;
    }
    above += (double)part;
    last = v;
    return true;
  });
  return found;
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
