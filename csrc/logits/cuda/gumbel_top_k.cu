// SPDX-License-Identifier: Apache-2.0
#include "logits/cuda/perturb.h"
#include "logits/gumbel_top_k.h"

// Mapping: a cluster has a row. Requires: V >= 1, 1 <= K <= kMaxCandidates, contiguous rows.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct GumbelTopKKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Shared = LawShared;

  GumbelTopKProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const RowStatus status = analyse(block, p.rows, &s);
    int count = 0;
    if (status == kRowFine) {
      count = list_perturbed(block, {key_at(p.draws, block.index), p.draws.draw}, p.K, &s);
    }
    put(block, status, count, s);
  }

  FEWSTEP_HOST_DEVICE void put(const Block& block, RowStatus status, int count,
                               const Shared& s) const {
    const int64_t r = block.index;
    const List& list = s.work.list;
    const double log_mass = status == kRowFine ? log(s.law.mass) : 0.0;
    const float rest = status == kRowFine ? kMinusInfinity : __builtin_nanf("");
    block.each_alone([&](int t) {
      for (int i = t; i < p.K; i += kThreads) {
        const bool has = i < count;
        p.ids[r * p.ids_stride + i] = has ? list.ids[i] : -1;
        p.perturbed[r * p.perturbed_stride + i] =
            has ? (float)(gpu::from_ordered(list.keys[i]) - log_mass) : rest;
        if (!p.logprobs) continue;
        p.logprobs[r * p.logprobs_stride + i] =
            has ? (float)((double)shifted(s.law.w, vec::set(logit_at(s.law.row, list.ids[i]))).v -
                          log_mass)
                : rest;
      }
      if (t == 0 && p.status) p.status[r * p.status_stride] = status;
    });
  }
};

}  // namespace

void gumbel_top_k(const GumbelTopKProblem& p) {
  launch_rows("fewstep_logits_gumbel_top_k", GumbelTopKKernel{p}, p.rows.R, p.rows.V,
              p.cuda_stream);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
