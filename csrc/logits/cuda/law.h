// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cuda/select.h"

// The law of a filtered row, by a block of threads: the weights of the CPU's law and the order of
// its sums, so that its tokens are drawn. What differs is how filters are found that see the whole
// row: by a search (select.h), whose sums are rounded in another order. Included by CUDA kernel
// files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct Law {
  Row row;
  Weighing w;
  double mass;
  int32_t count;  // of tokens in the list, in ascending order, where they are few; else -1
};

// Masses of runs of tokens, where a law has no list.
struct Pieces {
  Sums sums;
  double mass[kMaxPieces];
  float max[kMaxPieces];  // the largest logit up to the end of each
  float of_thread[kThreads], own[kGroups];
  float runs[gpu::kMostOfCluster * kGroups];   // of kBlock tokens each, of a round
  float of_tile[gpu::kMostOfCluster];          // of a round
  float up_to[gpu::kMostOfCluster * kGroups];  // up to the end of each run
};

struct LawShared {
  Law law;
  union {
    Workspace work;
    Pieces pieces;
    uint64_t best[kThreads];
    float most[kThreads];
  };
  Search search;
  Walk walk;
  Target target;
  uint32_t nan;
  float max;
  double total;
};

FEWSTEP_HOST_DEVICE inline bool is_nan(float x) { return !(x == x); }

// The best token of each thread, as a key, and of all; 0: there is none.
FEWSTEP_HOST_DEVICE inline uint64_t best_of(const Block& block, LawShared* s,
                                            Block::Per<uint64_t>* best) {
  block.each([&](int t) {
    if (t == 0) s->nan = 0;
  });
  block.each([&](int t) {
    float most = kMinusInfinity;
    int64_t at = -1;
    bool nan = false;
    for_tokens(block, s->law.row, t, [&](int64_t v, float l, int) {
      nan = nan || is_nan(l);
      if (!(l > most)) return;
      most = l;
      at = v;
    });
    if (nan) gpu::atomic_max(&s->nan, 1);
    (*best)[t] = at < 0 ? 0 : key_of(s->law.row, most, at);
  });
  block.share(&s->nan, Greater{});
  return greatest_of(block, *best, s->best);
}

FEWSTEP_HOST_DEVICE inline float max_of(const Row& row, uint64_t best) {
  return best > 0 ? float_of(row, best) : kMinusInfinity;
}

FEWSTEP_HOST_DEVICE inline void begin_law(const Block& block, float max, float scale,
                                          LawShared* s) {
  block.each([&](int t) {
    if (t != 0) return;
    s->law.w = weigh_all(max, scale);
    s->law.count = -1;
  });
}

FEWSTEP_HOST_DEVICE inline double mass_of_row(const Block& block, LawShared* s) {
  return sum_row(block, s->law.row, &s->pieces.sums, &s->total, [&](int64_t v, float l, int, int) {
    return weights_of(s->law.w, vec::set(l), v).v;
  });
}

// Adds the runs of a round to the pieces; with kDecays each was weighed against the largest logit
// up to its end, and what came before is scaled down to it. One thread's part.
template <bool kDecays>
FEWSTEP_HOST_DEVICE inline void add_runs(const Runs& runs, LawShared* s) {
  const int64_t of_piece = piece_of(s->law.row.V) / kBlock;
  for (int g = 0; g < runs.count; ++g) {
    const int64_t b = runs.before + g, p = b / of_piece;
    double sum = b % of_piece == 0 ? 0.0 : s->pieces.mass[p];
    if (kDecays) {
      const float max = s->pieces.up_to[g];
      if (max > s->max) sum *= (double)decays(s->law.w, s->max, max).v;
      s->max = max;
      s->pieces.max[p] = max;
    }
    s->pieces.mass[p] = sum + s->pieces.sums.blocks[g];
  }
}

FEWSTEP_HOST_DEVICE inline int pieces_of(const Row& row) {
  return (int)((row.V + piece_of(row.V) - 1) / piece_of(row.V));
}

// The mass of all pieces.
FEWSTEP_HOST_DEVICE inline void add_pieces(const Block& block, LawShared* s, double* total) {
  block.each([&](int t) {
    if (t != 0) return;
    double mass = 0.0;
    const int pieces = pieces_of(s->law.row);
    for (int p = 0; p < pieces; ++p) mass += s->pieces.mass[p];
    *total = mass;
  });
}

// Sets the masses of the pieces and the whole. sum: sets the sums of a round.
template <class F>
FEWSTEP_HOST_DEVICE inline void sum_pieces(const Block& block, LawShared* s, double* total,
                                           const F& sum) {
  FEWSTEP_NO_UNROLL
  for (int32_t round = 0; has_round(block, s->law.row, round); ++round) {
    sum(round);
    block.each([&](int t) {
      if (t == 0) add_runs<false>(runs_of(block, s->law.row, round), s);
    });
  }
  add_pieces(block, s, total);
}

// From the largest logits of a round's runs to those up to the end of each.
FEWSTEP_HOST_DEVICE inline void accumulate(const Block& block, LawShared* s) {
  const int count = block.cluster.size() * kGroups;
  block.each([&](int t) {
    if (t >= count) return;
    float most = kMinusInfinity;
    for (int g = t - t % kGroups; g <= t; ++g) most = Greater{}(s->pieces.runs[g], most);
    s->pieces.up_to[t] = most;
    if (t % kGroups == kGroups - 1) s->pieces.of_tile[t / kGroups] = most;
  });
  block.each([&](int t) {
    if (t >= count) return;
    float most = Greater{}(s->pieces.up_to[t], s->max);
    for (int i = 0; i < t / kGroups; ++i) most = Greater{}(s->pieces.of_tile[i], most);
    s->pieces.up_to[t] = most;
  });
}

// The largest logit up to the end of each run of a round; best: as best_of() has it, or null.
FEWSTEP_HOST_DEVICE inline void find_maxima(const Block& block, int32_t round, LawShared* s,
                                            Block::Per<uint64_t>* best) {
  block.each([&](int t) {
    float most = kMinusInfinity;
    int64_t at = -1;
    bool nan = false;
    for_tokens_of_tile(s->law.row, t, tile_of(block, round), [&](int64_t v, float l, int) {
      nan = nan || is_nan(l);
      if (!(l > most)) return;
      most = l;
      at = v;
    });
    if (nan) gpu::atomic_max(&s->nan, 1);
    s->pieces.of_thread[t] = most;
    if (!best) return;
    const uint64_t key = at < 0 ? 0 : key_of(s->law.row, most, at);
    if (round == 0 || key > (*best)[t]) (*best)[t] = key;
  });
  block.each([&](int t) {
    if (t >= kGroups) return;
    float most = kMinusInfinity;
    for (int i = 0; i < kGroup; ++i) {
      const float other = s->pieces.of_thread[t * kGroup + i];
      most = other > most ? other : most;
    }
    s->pieces.own[t] = most;
  });
  block.gather(s->pieces.own, kGroups, s->pieces.runs);
  accumulate(block, s);
}

// A law of all tokens; its row is read once from memory, and again while it is near. On the way the
// best token of each thread is found where that is asked for.
FEWSTEP_HOST_DEVICE inline RowStatus analyse_all(const Block& block, LawShared* s,
                                                 Block::Per<uint64_t>* best = nullptr) {
  block.each([&](int t) {
    if (t != 0) return;
    s->nan = 0;
    s->max = kMinusInfinity;
  });
  const int first = block.cluster.rank() * kGroups;  // of its own runs
  FEWSTEP_NO_UNROLL
  for (int32_t round = 0; has_round(block, s->law.row, round); ++round) {
    find_maxima(block, round, s, best);
    sum_blocks(block, s->law.row, round, &s->pieces.sums, [&](int64_t, float l, int, int t) {
      Weighing w = s->law.w;
      w.max = s->pieces.up_to[first + t / kGroup];
      return l > kMinusInfinity ? weights(w, vec::set(l)).v : 0.0f;
    });
    block.each([&](int t) {
      if (t == 0) add_runs<true>(runs_of(block, s->law.row, round), s);
    });
  }
  const float max = block.get(s->max);
  const RowStatus status = status_of(max, block.share(&s->nan, Greater{}) != 0);
  if (status != kRowFine) return status;
  block.each([&](int t) {
    if (t == 0) s->law.w.max = max;
    const int pieces = pieces_of(s->law.row);
    for (int p = t; p < pieces; p += kThreads) {
      double mass = s->pieces.mass[p];
      if (s->pieces.max[p] < max) mass *= (double)decays(s->law.w, s->pieces.max[p], max).v;
      // Scaled down so far, weights may all be 0 where they are drawn from.
      if (mass < (double)piece_of(s->law.row.V) * 0x1p-125) mass = 0.0;
      s->pieces.mass[p] = mass;
    }
  });
  add_pieces(block, s, &s->law.mass);
  return kRowFine;
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
