// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/sort.h"
#include "logits/cuda/row.h"

// Lists of a row's tokens in shared memory, as keys: integers whose order is that of the tokens.
// A key is a float in its order and below it the id, the lower ids first; no two are the same, so
// every sort and every search gives the same result. Included by CUDA kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

constexpr int kMaxListed = 2 * kMaxCandidates;
// One more than the banks, so that threads which add up a segment each read from different ones.
constexpr int kSegment = 33;
constexpr int kMaxSegments = (kMaxListed + kSegment - 1) / kSegment;

struct List {
  uint64_t keys[kMaxListed];
  float weights[kMaxListed];
  union {
    float x[kMaxListed];
    int32_t ids[kMaxListed];
  };
  union {
    double segments[kMaxSegments];
    uint64_t units[kMaxSegments];
  };
};

// Of the threads that go through a list.
struct Walk {
  double sum;    // of what lies before
  int32_t at;    // where the goal is met, -1: it is not
  int32_t last;  // the last with a weight, -1: there is none
  int32_t count;
  double mass;
  float center;
};

FEWSTEP_HOST_DEVICE inline uint64_t key_of(const Row& row, uint32_t high, int64_t id) {
  return (uint64_t)high << row.id_bits | (row.ids - (uint32_t)id);
}
FEWSTEP_HOST_DEVICE inline uint64_t key_of(const Row& row, float x, int64_t id) {
  return key_of(row, gpu::ordered(x), id);
}
FEWSTEP_HOST_DEVICE inline int64_t id_of(const Row& row, uint64_t key) {
  return (int64_t)(row.ids - ((uint32_t)key & row.ids));
}
FEWSTEP_HOST_DEVICE inline float float_of(const Row& row, uint64_t key) {
  return gpu::from_ordered((uint32_t)(key >> row.id_bits));
}

// Whether a sum has come to where it ends: above a goal, or up to it.
enum class Meets { kAbove, kReached };
template <Meets kMeets>
FEWSTEP_HOST_DEVICE inline bool meets(double sum, double goal) {
  return kMeets == Meets::kAbove ? sum > goal : sum >= goal;
}

// One thread's part: the segments first, then the one in which the goal is met.
template <Meets kMeets>
FEWSTEP_HOST_DEVICE inline void find(const List& list, int count, double goal, Walk* walk) {
  const int segments = (count + kSegment - 1) / kSegment;
  walk->at = -1;
  for (int s = 0; s < segments; ++s) {
    if (!(list.segments[s] > 0.0)) continue;
    const bool met = meets<kMeets>(walk->sum + list.segments[s], goal);
    const int end = (s + 1) * kSegment < count ? (s + 1) * kSegment : count;
    if (met) {
      double sum = walk->sum;
      for (int i = s * kSegment; i < end; ++i) {
        if (!(list.weights[i] > 0.0f)) continue;
        walk->last = i;
        sum += (double)list.weights[i];
        if (meets<kMeets>(sum, goal)) break;
      }
      walk->at = walk->last;  // a segment's sum may be rounded otherwise: then its last
      return;
    }
    walk->sum += list.segments[s];
    for (int i = end - 1; i >= s * kSegment; --i) {
      if (!(list.weights[i] > 0.0f)) continue;
      walk->last = i;
      break;
    }
  }
}

// The first of `count` listed weights with which walk->sum meets the goal; -1 where none does.
// Sums of segments come first, so it may be another than the CPU's, which adds up one after the
// other, where the goal lies within the rounding of float64.
template <Meets kMeets>
FEWSTEP_HOST_DEVICE inline int find_listed(const Block& block, int count, double goal, List* list,
                                           Walk* walk) {
  block.each([&](int t) {
    const int begin = t * kSegment;
    if (begin >= count) return;
    const int end = begin + kSegment < count ? begin + kSegment : count;
    double sum = 0.0;
    for (int i = begin; i < end; ++i) sum += (double)list->weights[i];
    list->segments[t] = sum;
  });
  block.each([&](int t) {
    if (t == 0) find<kMeets>(*list, count, goal, walk);
  });
  return block.get(walk->at);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
