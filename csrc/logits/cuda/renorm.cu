// SPDX-License-Identifier: Apache-2.0
#include "logits/cuda/analyse.h"
#include "logits/renorm.h"

// Mapping: a cluster has a row. Requires: V >= 1, 1 <= K <= kMaxCandidates where ids are asked for,
// contiguous rows.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct RenormKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Shared = LawShared;

  RenormProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index;
    const RowStatus status = analyse(block, p.rows, &s);
    if (p.status) {
      block.each([&](int t) {
        if (t == 0) p.status[r * p.status_stride] = status;
      });
    }
    if (status != kRowFine) {
      put_lawless(block);
      return;
    }
    const int32_t tokens = s.law.count < 0 ? put_all(block, &s) : put_few(block, &s);
    if (!p.ids) return;
    const int listed = list_likeliest(block, &s);
    put_list(block, tokens, listed, s);
  }

  FEWSTEP_HOST_DEVICE void put_lawless(const Block& block) const {
    const int64_t r = block.index;
    const float nan = __builtin_nanf("");
    block.each([&](int t) {
      for (int64_t v = block.place_of(t); p.out && v < p.rows.V; v += block.places()) {
        p.out[r * p.out_stride + v] = nan;
      }
      if (t == 0 && p.count) p.count[r * p.count_stride] = 0;
      for (int i = t; i < p.K; i += kThreads) {
        p.ids[r * p.ids_stride + i] = -1;
        p.probabilities[r * p.probabilities_stride + i] = nan;
      }
    });
  }

  // The dense law; returns how many tokens have a weight.
  FEWSTEP_HOST_DEVICE int32_t put_all(const Block& block, Shared* s) const {
    const Row& row = s->law.row;
    const double scale = 1.0 / s->law.mass;
    block.each([&](int t) {
      if (t == 0) s->search.count = 0;
    });
    block.each([&](int t) {
      uint32_t count = 0;
      for (int64_t v = block.place_of(t); v < row.V; v += block.places()) {
        const float w = is_allowed(row, v) ? weight_at(s->law, v) : 0.0f;
        count += w > 0.0f ? 1 : 0;
        if (p.out) p.out[block.index * p.out_stride + v] = (float)((double)w * scale);
      }
      gpu::atomic_add(&s->search.count, count);
    });
    return (int32_t)block.share(&s->search.count, Sum{});
  }

  FEWSTEP_HOST_DEVICE int32_t put_few(const Block& block, Shared* s) const {
    const List& list = s->work.list;
    const double scale = 1.0 / s->law.mass;
    float* const out = p.out ? p.out + block.index * p.out_stride : nullptr;
    block.each([&](int t) {
      if (t == 0) s->search.count = 0;
      if (!out) return;
      // Of each zero a block writes the token, too, behind it.
      for (int64_t v = block.place_of(t); v < p.rows.V; v += block.places()) out[v] = 0.0f;
    });
    block.each([&](int t) {
      for (int i = t; i < s->law.count; i += kThreads) {
        if (!(list.weights[i] > 0.0f)) continue;
        gpu::atomic_add(&s->search.count, 1);
        if (out) out[id_of(s->law.row, list.keys[i])] = (float)((double)list.weights[i] * scale);
      }
    });
    return (int32_t)block.get(s->search.count);
  }

  // Lists the likeliest tokens in descending order; returns how many there are.
  FEWSTEP_HOST_DEVICE int list_likeliest(const Block& block, Shared* s) const {
    List* const list = &s->work.list;
    if (s->law.count >= 0) {
      const int count = (int)block.get(s->search.count), all = s->law.count;
      sort_listed(block, all, s, [&](int i) { return gpu::ordered(list->weights[i]); });
      return count < p.K ? count : p.K;
    }
    const Measure measure = {s->law.row, s->law.w, Key::kWeight, Goal::kCount};
    block.each([&](int t) {
      if (t != 0) return;
      start(s->law.row, 1.0f, (double)p.K, &s->search);
      s->search.low = key_of(s->law.row, 0.0f, 0) + 1;
      split_evenly(&s->search);
    });
    search(block, measure, &s->work, &s->search);
    const int count = list_best(block, measure, p.K, list, &s->search);
    block.each([&](int t) {
      for (int i = t; i < count; i += kThreads) {
        list->weights[i] = weight_at(s->law, id_of(s->law.row, list->keys[i]));
      }
    });
    return count;
  }

  FEWSTEP_HOST_DEVICE void put_list(const Block& block, int32_t tokens, int listed,
                                    const Shared& s) const {
    const int64_t r = block.index;
    const List& list = s.work.list;
    const double scale = 1.0 / s.law.mass;
    block.each_alone([&](int t) {
      if (t == 0) p.count[r * p.count_stride] = tokens;
      for (int i = t; i < p.K; i += kThreads) {
        const bool has = i < listed;
        p.ids[r * p.ids_stride + i] = has ? (int32_t)id_of(s.law.row, list.keys[i]) : -1;
        p.probabilities[r * p.probabilities_stride + i] =
            has ? (float)((double)list.weights[i] * scale) : 0.0f;
      }
    });
  }
};

}  // namespace

void renorm(const RenormProblem& p) {
  launch_rows("fewstep_logits_renorm", RenormKernel{p}, p.rows.R, p.rows.V, p.cuda_stream);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
