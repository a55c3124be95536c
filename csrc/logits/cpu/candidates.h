// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cpu/block.h"

// The k best tokens of a row in one pass: a threshold that rises, and a buffer of what lies above.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct Candidate {
  float value;
  int32_t id;
};

// The order of tokens: the larger value first, then the lower id. Total, so that any sort gives the
// same result.
inline bool is_before(Candidate a, Candidate b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

inline void swap(Candidate* a, Candidate* b) {
  const Candidate t = *a;
  *a = *b;
  *b = t;
}

// Puts the k first of n in front, in any order (Hoare's selection, median of three).
inline void select_first(Candidate* c, int n, int k) {
  int low = 0, high = n - 1;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (is_before(c[middle], c[low])) swap(c + middle, c + low);
    if (is_before(c[high], c[low])) swap(c + high, c + low);
    if (is_before(c[high], c[middle])) swap(c + high, c + middle);
    const Candidate pivot = c[middle];
    int i = low, j = high;
    while (i <= j) {
      while (is_before(c[i], pivot)) ++i;
      while (is_before(pivot, c[j])) --j;
      if (i <= j) swap(c + i++, c + j--);
    }
    if (k - 1 <= j) {
      high = j;
    } else if (k - 1 >= i) {
      low = i;
    } else {
      return;
    }
  }
}

// Sorts by Shell's method with Ciura's gaps.
template <class Before>
inline void sort(Candidate* c, int n, const Before& before) {
  constexpr int kGaps[] = {701, 301, 132, 57, 23, 10, 4, 1};
  for (const int gap : kGaps) {
    for (int i = gap; i < n; ++i) {
      const Candidate moved = c[i];
      int j = i;
      for (; j >= gap && before(moved, c[j - gap]); j -= gap) c[j] = c[j - gap];
      c[j] = moved;
    }
  }
}

struct ByRank {
  bool operator()(Candidate a, Candidate b) const { return is_before(a, b); }
};
struct ById {
  bool operator()(Candidate a, Candidate b) const { return a.id < b.id; }
};

constexpr int kMaxBuffer = 4 * kMaxCandidates;

inline float largest_lane(const vec::F32 top[4], float max) {
  float lanes[vec::kLanes];
  vec::store(lanes, vec::max(vec::max(top[0], top[1]), vec::max(top[2], top[3])));
  for (int i = 0; i < vec::kLanes; ++i) {
    if (lanes[i] > max) max = lanes[i];
  }
  return max;
}

// The largest of `max` and a block; `magnitude` learns of NaN.
inline float largest_of(const float* raw, float max, vec::I32* magnitude) {
  vec::F32 top[4];
  for (vec::F32& t : top) t = vec::set(max);
  for (int i = 0; i < kBlock; i += 4 * vec::kLanes) {
    for (int j = 0; j < 4; ++j) {
      const vec::F32 x = vec::load(raw + i + j * vec::kLanes);
      *magnitude = vec::max_magnitude(*magnitude, x);
      top[j] = vec::max(top[j], x);
    }
  }
  return largest_lane(top, max);
}

inline bool has_nan(vec::I32 magnitude) {
  int32_t bare[vec::kLanes];
  vec::store_i32(bare, magnitude);
  for (int i = 0; i < vec::kLanes; ++i) {
    if (bare[i] > 0x7f800000) return true;
  }
  return false;
}

// Keeps the k best of the tokens that are offered in the order of their ids.
struct Keeper {
  Candidate* best;  // [kMaxBuffer]
  int k;
  float threshold;  // what does not exceed it is passed over
  int count = 0;

  void offer(float value, int32_t id) {
    if (!(value > threshold)) return;
    best[count++] = {value, id};
    if (count < (k > 64 ? 4 * k : 256)) return;
    cut();
    threshold = best[0].value;
    for (int c = 1; c < k; ++c) {
      if (best[c].value < threshold) threshold = best[c].value;
    }
  }
  void cut() {
    if (count <= k) return;
    select_first(best, count, k);
    count = k;
  }
};

// Offers the tokens of a block.
inline void offer_block(const float* raw, int64_t begin, Keeper* keeper) {
  for (int i = 0; i < kBlock; i += vec::kLanes) {
    uint32_t above = vec::greater_bits(vec::load(raw + i), vec::set(keeper->threshold));
    for (; above; above &= above - 1) {
      const int at = i + __builtin_ctz(above);
      keeper->offer(raw[at], (int32_t)(begin + at));
    }
  }
}

// Offers four vectors, of tokens from `id` on; in most of them nothing is above the threshold.
inline void offer_vectors(const vec::F32 x[4], const float* raw, int32_t id, Keeper* keeper) {
  const vec::F32 most = vec::max(vec::max(x[0], x[1]), vec::max(x[2], x[3]));
  if (!vec::greater_bits(most, vec::set(keeper->threshold))) return;
  for (int j = 0; j < 4; ++j) {
    uint32_t above = vec::greater_bits(x[j], vec::set(keeper->threshold));
    for (; above; above &= above - 1) {
      const int at = j * vec::kLanes + __builtin_ctz(above);
      keeper->offer(raw[at], id + at);
    }
  }
}

// What a pass over a row learns.
struct Scan {
  float max = kMinusInfinity;
  RowStatus status = kRowEmpty;
  int count = 0;  // of candidates
};

// A bound for the k best tokens of a row: what lies above it holds them all, as k strands of one of
// its blocks have a token there. -inf where a block has fewer strands.
[[gnu::noinline]] inline float bound_of(const float* raw, int k) {
  constexpr int kStrands = 4 * vec::kLanes;
  if (k > kStrands) return kMinusInfinity;
  vec::F32 top[4];
  for (vec::F32& t : top) t = vec::set(kMinusInfinity);
  for (int i = 0; i < kBlock; i += kStrands) {
    for (int j = 0; j < 4; ++j) top[j] = vec::max(top[j], vec::load(raw + i + j * vec::kLanes));
  }
  float lanes[kStrands];
  for (int j = 0; j < 4; ++j) vec::store(lanes + j * vec::kLanes, top[j]);
  Candidate strands[kStrands];
  for (int i = 0; i < kStrands; ++i) strands[i] = {lanes[i], i};
  select_first(strands, kStrands, k);
  float least = strands[0].value;
  for (int i = 1; i < k; ++i) least = strands[i].value < least ? strands[i].value : least;
  return nextafterf(least, kMinusInfinity);
}

// Scans a row; keeps its k best tokens above -inf, k <= kMaxCandidates (0: none), at the front of
// `best` [kMaxBuffer], in any order.
inline Scan scan_row(const RowSpec& row, int k, Candidate* best) {
  Scan scan;
  float buffer[kBlock];
  vec::F32 top[4];
  vec::I32 magnitude = vec::set_i32(0);
  for (vec::F32& t : top) t = vec::set(kMinusInfinity);
  Keeper keeper{best, k, kMinusInfinity};
  for (int64_t begin = 0; begin < row.V; begin += kBlock) {
    const float* raw = raw_block(row, begin, buffer);
    if (begin == 0 && k > 0) keeper.threshold = bound_of(raw, k);
    for (int i = 0; i < kBlock; i += 4 * vec::kLanes) {
      vec::F32 x[4];
      for (int j = 0; j < 4; ++j) {
        x[j] = vec::load(raw + i + j * vec::kLanes);
        magnitude = vec::max_magnitude(magnitude, x[j]);
        top[j] = vec::max(top[j], x[j]);
      }
      if (k > 0) offer_vectors(x, raw + i, (int32_t)(begin + i), &keeper);
    }
  }
  scan.max = largest_lane(top, scan.max);
  keeper.cut();
  scan.count = keeper.count;
  scan.status = status_of(scan.max, has_nan(magnitude));
  return scan;
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
