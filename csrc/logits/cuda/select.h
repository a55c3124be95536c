// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cuda/list.h"

// Which tokens of a row have the highest keys that together reach a goal, ties by id: a search that
// splits the open range of keys in eight, in each pass over the row, until what is left can be
// listed. A thread has bins of its own, so sums need no atomics and have a fixed order. Included by
// CUDA kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

constexpr int kBins = 8;

// The state of a search, which one thread keeps up.
struct Search {
  uint64_t low, high;  // keys that are open
  uint64_t edges[kBins - 1];
  double above;  // the sum of those above
  double goal;
  uint32_t count;  // of tokens that were open before the last split, or of listed ones
  double totals[kBins];
  uint64_t least;  // of a block
};

struct Sum {
  template <class T>
  FEWSTEP_HOST_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};

struct Bins {
  double sums[kBins][kThreads];
  double own[kBins];  // of a block's tile
  double tiles[gpu::kMostOfCluster * kBins];
};

union Workspace {
  List list;
  Bins bins;
};

// What tokens are measured by: a key whose order counts, and what each adds towards the goal. Which
// ones is decided as it runs, so that a kernel has one search.
enum class Key { kLogit, kValue, kNearness, kWeight };  // kValue: x, kNearness: -|x - center|
enum class Goal { kCount, kMass };  // a number of tokens, or a share of the law's mass

struct Measure {
  const Row& row;
  const Weighing& w;
  Key kind;
  Goal goal;

  FEWSTEP_HOST_DEVICE void begin(uint64_t) {}  // keys below that are not asked for
  FEWSTEP_HOST_DEVICE uint64_t key(int64_t v, float l, int) const {
    float value = l;
    if (kind == Key::kWeight) value = weights_of(w, vec::set(l), v).v;
    if (kind == Key::kValue) value = shifted(w, vec::set(l)).v;
    if (kind == Key::kNearness) value = nearness(w, shifted(w, vec::set(l))).v;
    return key_of(row, value, v);
  }
  // 0 where the token is none.
  FEWSTEP_HOST_DEVICE float part(int64_t v, float l) const {
    if (goal == Goal::kMass) return weights_of(w, vec::set(l), v).v;
    if (kind == Key::kWeight) return weights_of(w, vec::set(l), v).v > 0.0f ? 1.0f : 0.0f;
    return l > kMinusInfinity ? 1.0f : 0.0f;
  }
};

// Splits the open range in equal parts.
FEWSTEP_HOST_DEVICE inline void split_evenly(Search* s) {
  const uint64_t width = ((s->high - s->low) >> 3) + 1;
  FEWSTEP_UNROLL
  for (int j = 1; j < kBins; ++j) s->edges[j - 1] = s->low + (uint64_t)j * width;
}

// Starts a search of all keys up to that of `top`, the largest; bins are as far below it as powers
// of two say, because most of a law lies there.
FEWSTEP_HOST_DEVICE inline void start(const Row& row, float top, double goal, Search* s) {
  s->low = key_of(row, kMinusInfinity, 0) + 1;
  s->high = key_of(row, top, 0);
  FEWSTEP_UNROLL
  for (int j = 1; j < kBins; ++j) {
    const float below = top - (float)(1 << (kBins - 1 - j)) * 0.5f;
    s->edges[j - 1] = (uint64_t)gpu::ordered(below) << row.id_bits;
  }
  s->above = 0.0;
  s->goal = goal;
  s->count = row.V > kMaxListed ? ~0u : 0u;
}

// One that begins at a key which few reach.
FEWSTEP_HOST_DEVICE inline void start_at(uint64_t low, Search* s) {
  s->low = low;
  s->count = 0;
  split_evenly(s);
}

FEWSTEP_HOST_DEVICE inline int bin_of(const Search& s, uint64_t key) {
  int bin = 0;
  FEWSTEP_UNROLL
  for (int j = 0; j < kBins - 1; ++j) bin += key >= s.edges[j] ? 1 : 0;
  return bin;
}

// Makes the bin in which the goal is reached the open range; where rounding never gets there, the
// lowest with anything. share: the goal is that part of all.
FEWSTEP_HOST_DEVICE inline void narrow(bool share, Search* s) {
  if (share) {
    double total = 0.0;
    for (int b = 0; b < kBins; ++b) total += s->totals[b];
    s->goal *= total;
  }
  int found = -1;
  double sum = s->above;
  for (int b = kBins - 1; b >= 0; --b) {
    const double part = s->totals[b];
    if (!(part > 0.0)) continue;
    found = b;
    s->above = sum;
    if (sum + part >= s->goal) break;
    sum += part;
  }
  if (found < 0) return;  // cannot be: something is open
  if (found < kBins - 1 && s->edges[found] - 1 < s->high) s->high = s->edges[found] - 1;
  if (found > 0) s->low = s->edges[found - 1];
  split_evenly(s);
}

// Adds up a tile's tokens in bins, and counts those in the open range.
template <class M>
FEWSTEP_HOST_DEVICE inline void fill_bins(const Block& block, const M& measure, int64_t tile,
                                          Bins* bins, Search* s) {
  block.each([&](int t) {
    FEWSTEP_UNROLL
    for (int b = 0; b < kBins; ++b) bins->sums[b][t] = 0.0;
    const uint64_t low = s->low, high = s->high;
    uint32_t open = 0;
    M own = measure;
    own.begin(low);
    for_tokens_of_tile(measure.row, t, tile, [&](int64_t v, float l, int i) {
      const uint64_t key = own.key(v, l, i);
      if (key < low || key > high) return;
      const float part = own.part(v, l);
      if (!(part > 0.0f)) return;
      bins->sums[bin_of(*s, key)][t] += (double)part;
      ++open;
    });
    if (open > 0) gpu::atomic_add(&s->count, open);
  });
  FEWSTEP_NO_UNROLL
  for (int half = kThreads / 2; half > 0; half /= 2) {
    block.each([&](int t) {
      if (t >= half) return;
      FEWSTEP_UNROLL
      for (int b = 0; b < kBins; ++b) bins->sums[b][t] += bins->sums[b][t + half];
    });
  }
}

// A pass over the row; leaves in `count` how many tokens were open before. Tile after tile, so that
// sums do not depend on who had which.
template <class M>
FEWSTEP_HOST_DEVICE inline void split(const Block& block, const M& measure, bool share, Bins* bins,
                                      Search* s) {
  block.each([&](int t) {
    if (t == 0) s->count = 0;
    if (t < kBins) s->totals[t] = 0.0;
  });
  FEWSTEP_NO_UNROLL
  for (int32_t round = 0; has_round(block, measure.row, round); ++round) {
    fill_bins(block, measure, tile_of(block, round), bins, s);
    block.each([&](int t) {
      if (t < kBins) bins->own[t] = bins->sums[t][0];
    });
    block.gather(bins->own, kBins, bins->tiles);
    block.each([&](int t) {
      if (t >= kBins) return;
      FEWSTEP_NO_UNROLL
      for (int i = 0; i < block.cluster.size(); ++i) s->totals[t] += bins->tiles[i * kBins + t];
    });
  }
  block.share(&s->count, Sum{});
  block.each([&](int t) {
    if (t == 0) narrow(share, s);
  });
}

// Adds what the other blocks of a cluster have listed to a block's own list; returns how many there
// are, who may be too many.
FEWSTEP_HOST_DEVICE inline uint32_t join_lists(const Block& block, List* list, uint32_t* count) {
  uint32_t found = block.get(*count);
  if (block.cluster.size() == 1) return found;
  block.cluster.barrier();
  FEWSTEP_NO_UNROLL
  for (int32_t i = 1; i < block.cluster.size(); ++i) {
    const int32_t rank = (block.cluster.rank() + i) % block.cluster.size();
    const uint32_t more = block.cluster.of(rank, count), all = found + more;
    if (all <= kMaxListed) {
      block.each_alone([&](int t) {
        for (uint32_t j = t; j < more; j += kThreads) {
          list->keys[found + j] = block.cluster.of(rank, &list->keys[j]);
        }
      });
    }
    found = all;
  }
  block.cluster.barrier();
  block.each([&](int t) {
    if (t == 0) *count = found;
  });
  return found;
}

// Lists the tokens with keys in [low, high], in descending order; false where they are too many.
// count: of them.
template <class M>
FEWSTEP_HOST_DEVICE inline bool list_range(const Block& block, const M& measure, uint64_t low,
                                           uint64_t high, List* list, uint32_t* count) {
  block.each([&](int t) {
    if (t == 0) *count = 0;
  });
  block.each([&](int t) {
    M own = measure;
    own.begin(low);
    for_tokens(block, measure.row, t, [&](int64_t v, float l, int i) {
      const uint64_t key = own.key(v, l, i);
      if (key < low || key > high || !(own.part(v, l) > 0.0f)) return;
      const uint32_t at = gpu::atomic_add(count, 1);
      if (at < kMaxListed) list->keys[at] = key;
    });
  });
  const uint32_t found = join_lists(block, list, count);
  if (found > kMaxListed) return false;
  gpu::sort_descending(block, list->keys, (int)found);
  return true;
}

// Goes on with a search that was started until what is open is listed. A share of the mass needs a
// pass over all of it first.
template <class M>
FEWSTEP_HOST_DEVICE inline void search(const Block& block, const M& measure, Workspace* work,
                                       Search* s) {
  bool share = measure.goal == Goal::kMass;
  for (;;) {
    if (!share && block.get(s->count) <= kBins * kMaxListed) {
      const uint64_t low = block.get(s->low), high = block.get(s->high);
      if (list_range(block, measure, low, high, &work->list, &s->count)) return;
    }
    split(block, measure, share, &work->bins, s);
    share = false;
  }
}

// The threshold above which the tokens with the highest keys just reach the goal of a search.
FEWSTEP_HOST_DEVICE inline Threshold threshold_of(const Block& block, const Measure& measure,
                                                  List* list, Search* s, Walk* walk) {
  const int count = (int)block.get(s->count);
  block.each([&](int t) {
    for (int i = t; i < count; i += kThreads) {
      const int64_t v = id_of(measure.row, list->keys[i]);
      list->weights[i] = measure.part(v, logit_at(measure.row, v));
    }
    if (t != 0) return;
    walk->sum = s->above;
    walk->last = -1;
  });
  const double goal = block.get(s->goal);
  find_listed<Meets::kReached>(block, count, goal, list, walk);
  const int last = block.get(walk->last);
  if (last < 0) return {};  // no token has any weight: cannot be, the largest has 1
  const uint64_t key = block.get(list->keys[last]);
  return {float_of(measure.row, key), id_of(measure.row, key) + 1};
}

// Starts a search for the k best. best: each thread's best key, 0 for none; the k-th of these is a
// bound which few tokens reach, the highest of several blocks'.
template <class M>
FEWSTEP_HOST_DEVICE inline void start_best(const Block& block, const M& measure, float top, int k,
                                           const Block::Per<uint64_t>& best, List* list,
                                           Search* s) {
  block.each([&](int t) {
    list->keys[t] = best[t];
    if (t == 0) start(measure.row, top, (double)k, s);
  });
  if (k > kThreads) return;
  gpu::sort_descending(block, list->keys, kThreads);
  const uint64_t least = block.reduce_blocks(block.get(list->keys[k - 1]), &s->least, Greater{});
  block.each([&](int t) {
    if (t == 0 && least > 0) start_at(least, s);
  });
}

// Lists the k best, for which a search is over, in descending order; returns how many there are.
FEWSTEP_HOST_DEVICE inline int list_best(const Block& block, const Measure& measure, int k,
                                         List* list, Search* s) {
  int count = (int)block.get(s->count);
  const int above = (int)block.get(s->above);
  if (above > 0) {
    const int at = k - above < count ? k - above : count;
    const uint64_t low = block.get(list->keys[at - 1]);
    list_range(block, measure, low, ~UINT64_C(0), list, &s->count);
    count = (int)block.get(s->count);
  }
  return count < k ? count : k;
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
