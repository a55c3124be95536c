// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cuda/law.h"

// Filters of whole rows and of listed tokens. Included by CUDA kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

// The mass of the law and the mean of its shifted logits.
struct Moments {
  double mass, mean;
};
FEWSTEP_HOST_DEVICE inline Moments moments_of_row(const Block& block, LawShared* s) {
  double sums[2] = {0.0, 0.0};
  FEWSTEP_NO_UNROLL
  for (int mean = 0; mean < 2; ++mean) {
    const double sum =
        sum_row(block, s->law.row, &s->pieces.sums, &s->total, [&](int64_t v, float l, int, int) {
          return (mean ? weighed_logits(s->law.w, vec::set(l), v)
                       : weights_of(s->law.w, vec::set(l), v))
              .v;
        });
    if (mean) {
      sums[1] = sum;
    } else {
      sums[0] = sum;
    }
  }
  return {sums[0], sums[1] / sums[0]};
}

// The largest shifted logit that is kept.
FEWSTEP_HOST_DEVICE inline float largest_kept(const Block& block, LawShared* s) {
  Block::Per<float> most;
  block.each([&](int t) {
    float best = kMinusInfinity;
    for_tokens(block, s->law.row, t, [&](int64_t v, float l, int) {
      const float x = shifted(s->law.w, vec::set(l)).v;
      if (x > best && weights_of(s->law.w, vec::set(l), v).v > 0.0f) best = x;
    });
    most[t] = best;
  });
  return greatest_of(block, most, s->most);
}

FEWSTEP_HOST_DEVICE inline void tighten(const Block& block, Threshold t, LawShared* s) {
  block.each([&](int thread) {
    if (thread == 0) tighten(&s->law.w, t);
  });
}

enum Filter { kTopK, kTopP, kMinP, kTypical, kEta };

FEWSTEP_HOST_DEVICE inline bool is_on(const Row& row, int filter) {
  if (filter == kTopK) return row.top_k > 0 && row.top_k < row.V;
  if (filter == kTopP) return row.top_p < 1.0f;
  if (filter == kMinP) return row.min_p > 0.0f;
  return filter == kTypical ? row.typical < 1.0f : row.eta > 0.0f;
}

FEWSTEP_HOST_DEVICE inline void filter_eta(const Block& block, Moments m, LawShared* s) {
  const Row& row = s->law.row;
  const float best = row.typical < 1.0f ? largest_kept(block, s) : 0.0f;
  const float t = eta_least((double)row.eta, m.mass, m.mean);
  tighten(block, {t < best ? t : best, row.V}, s);
}

FEWSTEP_HOST_DEVICE inline void put_threshold(const Block& block, int filter, Threshold threshold,
                                              LawShared* s) {
  block.each([&](int t) {
    if (t != 0) return;
    if (filter == kTypical) {
      s->law.w.nearest = threshold;
      s->law.w.has_nearest = true;
    } else {
      tighten(&s->law.w, threshold);
    }
  });
}

// Filters of a whole row, one after the other on what the former left, in a loop so that a kernel
// has one search. true: the first left few tokens, which are listed, and the others are to come;
// law.count has how many.
FEWSTEP_HOST_DEVICE inline bool filter(const Block& block, float max,
                                       const Block::Per<uint64_t>& best, LawShared* s) {
  const Row& row = s->law.row;
  const bool few = lists_few(row);
  FEWSTEP_NO_UNROLL
  for (int f = kTopK; f <= kEta; ++f) {
    if (!is_on(row, f)) continue;
    if (f == kMinP) {
      tighten(block, {log_share((double)row.min_p), row.V}, s);
      continue;
    }
    Measure measure = {row, s->law.w, few ? Key::kLogit : Key::kValue, Goal::kMass};
    if (f >= kTypical) {
      const Moments m = moments_of_row(block, s);
      if (f == kEta) {
        filter_eta(block, m, s);
        continue;
      }
      block.each([&](int t) {
        if (t == 0) s->law.w.center = (float)m.mean;
      });
      measure.kind = Key::kNearness;
    }
    if (f == kTopK) measure.goal = Goal::kCount;
    if (few) {
      start_best(block, measure, max, row.top_k, best, &s->work.list, &s->search);
    } else {
      const double amount =
          f == kTopK ? (double)row.top_k : (double)(f == kTopP ? row.top_p : row.typical);
      block.each([&](int t) {
        if (t == 0) start(row, 0.0f, amount, &s->search);
      });
    }
    search(block, measure, &s->work, &s->search);
    if (few) {
      const int count = list_best(block, measure, row.top_k, &s->work.list, &s->search);
      block.each([&](int t) {
        if (t == 0) s->law.count = count;
      });
      return true;
    }
    put_threshold(block, f, threshold_of(block, measure, &s->work.list, &s->search, &s->walk), s);
  }
  return false;
}

// Shifted logits and weights of listed tokens.
FEWSTEP_HOST_DEVICE inline void weigh_listed(const Block& block, int count, LawShared* s) {
  List* const list = &s->work.list;
  block.each([&](int t) {
    for (int i = t; i < count; i += kThreads) {
      const float l = logit_at(s->law.row, id_of(s->law.row, list->keys[i]));
      const vec::F32 x = shifted(s->law.w, vec::set(l));
      list->x[i] = x.v;
      list->weights[i] = vec::exp_below_88(x).v;
    }
  });
}

// Sorts listed tokens by a key of the one at i, the largest first, and weighs them.
template <class F>
FEWSTEP_HOST_DEVICE inline void sort_listed(const Block& block, int count, LawShared* s,
                                            const F& key_at) {
  List* const list = &s->work.list;
  block.each([&](int t) {
    for (int i = t; i < count; i += kThreads) {
      list->keys[i] = key_of(s->law.row, key_at(i), id_of(s->law.row, list->keys[i]));
    }
  });
  gpu::sort_descending(block, list->keys, count);
  weigh_listed(block, count, s);
}

// Sets how many of a list are kept, which one thread finds.
template <class F>
FEWSTEP_HOST_DEVICE inline int cut_list(const Block& block, LawShared* s, const F& kept) {
  block.each([&](int t) {
    if (t == 0) s->walk.count = kept();
  });
  return block.get(s->walk.count);
}

// The filters of listed tokens, in descending order; returns how many are left.
FEWSTEP_HOST_DEVICE inline int filter_few(const Block& block, int n, LawShared* s) {
  const Row& row = s->law.row;
  List* const list = &s->work.list;
  weigh_listed(block, n, s);
  if (row.top_p < 1.0f) {
    n = cut_list(block, s, [&] { return cut_at_mass(list->weights, n, (double)row.top_p); });
  }
  if (row.min_p > 0.0f) {
    n = cut_list(block, s, [&] { return cut_below(list->x, n, log_share((double)row.min_p)); });
  }
  if (row.typical < 1.0f) {
    block.each([&](int t) {
      if (t != 0) return;
      double mass, mean;
      moments(list->weights, list->x, n, &mass, &mean);
      s->law.w.center = (float)mean;
    });
    sort_listed(block, n, s,
                [&](int i) { return ~vec::bits({fabsf(list->x[i] - s->law.w.center)}).v; });
    n = cut_list(block, s, [&] { return cut_at_mass(list->weights, n, (double)row.typical); });
    sort_listed(block, n, s, [&](int i) { return gpu::ordered(list->x[i]); });
  }
  if (row.eta > 0.0f) {
    n = cut_list(block, s, [&] {
      double mass, mean;
      moments(list->weights, list->x, n, &mass, &mean);
      return cut_below(list->x, n, eta_least((double)row.eta, mass, mean));
    });
  }
  return n;
}

// Makes listed tokens the law's, in the order of ids.
FEWSTEP_HOST_DEVICE inline void list_few(const Block& block, int count, LawShared* s) {
  sort_listed(block, count, s, [](int) { return 0u; });
  block.each([&](int t) {
    if (t != 0) return;
    double mass = 0.0;
    for (int i = 0; i < count; ++i) mass += (double)s->work.list.weights[i];
    s->law.mass = mass;
    s->law.count = count;
  });
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
