// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cuda/analyse.h"

// Tokens of a law perturbed by Gumbel variates, in float64: a search by their float32 finds who can
// be among the k greatest, and these are sorted. Included by CUDA kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

// Where the variates of a row's tokens come from.
struct Gumbels {
  DrawKey key;
  uint32_t draw;
};

// Perturbed tokens with a weight, for a search.
struct Perturbing {
  const Row& row;
  const Weighing& w;
  Gumbels from;
  Goal goal;
  float least;        // what is below need not be known
  uint32_t words[4];  // of a quad

  FEWSTEP_HOST_DEVICE void begin(uint64_t low) { least = float_of(row, low); }

  FEWSTEP_HOST_DEVICE uint64_t key(int64_t v, float l, int i) {
    if (i == 0) draw_words(from.key, from.draw, (uint32_t)(v / 4), words);
    if (!lanes_with_weight(w, vec::set(l), v)) return 0;
    const float x = shifted(w, vec::set(l)).v;
    if (x + most_of(words[i]) < least) return 0;
    return key_of(row, (float)((double)x + gumbel_of(words[i])), v);
  }
  FEWSTEP_HOST_DEVICE float part(int64_t, float) const { return 1.0f; }

  // More than the variate of a word: -log(-log(u)) <= -log(1 - u), and what rounding takes.
  FEWSTEP_HOST_DEVICE static float most_of(uint32_t word) {
    const float rest = ((float)~word + 0.5f) * 0x1p-32f;
    return 0.5f * vec::minus_two_log(vec::set(rest < 1.0f ? rest : 1.0f)).v + 1e-3f;
  }
};

// Lists who can be among the greatest; returns how many.
FEWSTEP_HOST_DEVICE inline int find_greatest(const Block& block, const Gumbels& from, int k,
                                             LawShared* s) {
  const Row& row = s->law.row;
  List* const list = &s->work.list;
  const Perturbing all = {row, s->law.w, from, Goal::kCount, kMinusInfinity, {}};
  Block::Per<uint64_t> best;
  block.each([&](int t) {
    Perturbing own = all;
    uint64_t most = 0;
    for_tokens(block, row, t, [&](int64_t v, float l, int i) {
      const uint64_t key = own.key(v, l, i);
      if (key <= most) return;
      most = key;
      own.begin(key);
    });
    best[t] = most;
  });
  const uint64_t top = greatest_of(block, best, s->best);
  start_best(block, all, float_of(row, top), k, best, list, &s->search);
  block.each([&](int t) {
    if (t == 0) s->search.low &= ~(uint64_t)row.ids;
  });
  search(block, all, &s->work, &s->search);
  // Of those whose float32 is that of the k-th, any may be greater.
  const int count = (int)block.get(s->search.count), above = (int)block.get(s->search.above);
  const int at = k - above < count ? k - above : count;
  const uint64_t low = block.get(list->keys[at - 1]) & ~(uint64_t)row.ids;
  if (above == 0 && low >= block.get(s->search.low)) return count;
  list_range(block, all, low, ~UINT64_C(0), list, &s->search.count);
  const int found = (int)block.get(s->search.count);
  return found < kMaxListed ? found : kMaxListed;  // so many are never that close
}

FEWSTEP_HOST_DEVICE inline double perturbed_at(const Law& law, const Gumbels& from, int64_t id) {
  uint32_t words[4];
  draw_words(from.key, from.draw, (uint32_t)id / 4, words);
  const float x = shifted(law.w, vec::set(logit_at(law.row, id))).v;
  const uint32_t even = (id & 2) ? words[2] : words[0], odd = (id & 2) ? words[3] : words[1];
  return (double)x + gumbel_of((id & 1) ? odd : even);
}

// Perturbs listed tokens, of whom those without a weight are none, and sorts them: keys become
// the perturbed logits, of equal ones the lower id first. Returns how many there are.
FEWSTEP_HOST_DEVICE inline int sort_perturbed(const Block& block, const Gumbels& from, int listed,
                                              LawShared* s) {
  List* const list = &s->work.list;
  block.each([&](int t) {
    if (t == 0) s->search.count = 0;
  });
  block.each([&](int t) {
    for (int i = t; i < listed; i += kThreads) {
      const int64_t id = id_of(s->law.row, list->keys[i]);
      const bool has = s->law.count < 0 || list->weights[i] > 0.0f;
      list->ids[i] = (int32_t)id;
      list->keys[i] = has ? gpu::ordered(perturbed_at(s->law, from, id)) : 0;
      if (has) gpu::atomic_add(&s->search.count, 1);
    }
  });
  const auto is_less = [&](int i, int j) {
    const uint64_t a = list->keys[i], b = list->keys[j];
    return a < b || (a == b && list->ids[i] > list->ids[j]);
  };
  const auto swap = [&](int i, int j) {
    const uint64_t key = list->keys[i];
    const int32_t id = list->ids[i];
    list->keys[i] = list->keys[j];
    list->ids[i] = list->ids[j];
    list->keys[j] = key;
    list->ids[j] = id;
  };
  gpu::sort(block, 1, gpu::pad(block, list->keys, listed), is_less, swap);
  return (int)block.get(s->search.count);
}

// Lists the k greatest of a law, and maybe others behind them, as sort_perturbed() has it.
FEWSTEP_HOST_DEVICE inline int list_perturbed(const Block& block, const Gumbels& from, int k,
                                              LawShared* s) {
  const int listed = s->law.count < 0 ? find_greatest(block, from, k, s) : s->law.count;
  return sort_perturbed(block, from, listed, s);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
