// SPDX-License-Identifier: Apache-2.0
#include "logits/cuda/law.h"
#include "logits/top_k.h"

// Mapping: a cluster has a row. Requires: V >= 1, 1 <= K <= kMaxCandidates, contiguous rows.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct TopKKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Shared = LawShared;

  TopKProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index;
    block.each([&](int t) {
      if (t == 0) put_row(p.rows, r, &s.law.row);
    });
    Block::Per<uint64_t> best;
    const float max = max_of(s.law.row, best_of(block, &s, &best));
    const RowStatus status = status_of(max, block.get(s.nan) != 0);
    double total = (double)__builtin_nanf("");
    int count = 0;
    if (status == kRowFine) {
      begin_law(block, max, 1.0f, &s);
      if (p.normalise || p.log_normaliser) total = (double)max + log(mass_of_row(block, &s));
      const Measure measure = {s.law.row, s.law.w, Key::kLogit, Goal::kCount};
      start_best(block, measure, max, p.K, best, &s.work.list, &s.search);
      search(block, measure, &s.work, &s.search);
      count = list_best(block, measure, p.K, &s.work.list, &s.search);
    }
    const double shift = p.normalise ? total : 0.0;
    const float rest = status == kRowFine ? kMinusInfinity : __builtin_nanf("");
    block.each_alone([&](int t) {
      for (int i = t; i < p.K; i += kThreads) {
        const int64_t id = i < count ? id_of(s.law.row, s.work.list.keys[i]) : -1;
        p.ids[r * p.ids_stride + i] = (int32_t)id;
        p.values[r * p.values_stride + i] =
            id < 0 ? rest : (float)((double)logit_at(s.law.row, id) - shift);
      }
      if (t != 0) return;
      if (p.log_normaliser) p.log_normaliser[r * p.log_normaliser_stride] = (float)total;
      if (p.status) p.status[r * p.status_stride] = status;
    });
  }
};

}  // namespace

void top_k(const TopKProblem& p) {
  launch_rows("fewstep_logits_top_k", TopKKernel{p}, p.rows.R, p.rows.V, p.cuda_stream);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
