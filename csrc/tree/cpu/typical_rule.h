// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/standing.h"
#include "tree/cpu/walk.h"

// Typical acceptance (Medusa): a draft stands where the target finds it likely enough for how sure
// it is. Included by CPU kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// The entropy of a law in nats.
inline double entropy(const TargetLaw& law) {
  double mean = 0.0;
  if (law.count < 0) {
    mean = logits::FEWSTEP_ISA::row_sum<true>(law);
  } else {
    for (int i = 0; i < law.count; ++i) {
      // x = log w, up to the rounding of the weights.
      const double w = (double)law.few.weights[i];
      if (w > 0.0) mean += w * log(w);
    }
  }
  return log(law.mass) - mean / law.mass;
}

// The longest path of drafts that all stand; of equally long ones the most likely, then the first.
inline void verify_typical(const VerifyProblem& p, int64_t b, Walk* w) {
  const Result result(p, b);
  result.cut(0);
  Standing standing;
  const int32_t size = (int32_t)w->request.size;
  start_standing(size, &standing);
  for (int32_t node = 0; node < size; ++node) {
    if (standing.depth[node] < 0) continue;
    w->list_draws(node);
    if (w->draws.count == 0) continue;
    // Nothing stands after a row that has no law.
    if (analyse(w->request.row(node), &w->target) != logits::kRowFine) continue;
    const double least = least_standing(p.params, entropy(w->target));
    for (int i = 0; i < w->draws.count; ++i) {
      const double chance = w->probability(w->draws.token[i]);
      if (chance > least) put_standing(node, w->draws.node[i], chance, &standing);
    }
  }
  const int32_t best = best_standing(standing, size);
  logits::RowStatus status = logits::kRowFine;
  int64_t next = -1;
  if (best >= 0) {
    const int32_t depth = put_path(w->request, standing, best, result);
    status = analyse(w->request.row(best), &w->target);
    if (status == logits::kRowFine) {
      next = draw(w->target, w->request.uniform(depth, kBonus));
      if (result.logprobs) result.logprobs[depth] = w->log_probability(next);
    }
  }
  finish(p, b, best >= 0 ? standing.depth[best] : 0, next, status);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
