// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/walk.h"

// Typical acceptance (Medusa): a draft stands where the target finds it likely enough for how sure
// it is. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int32_t kMaxTypical = FEWSTEP_MAX_TYPICAL_NODES;

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
  Result result(p, b);
  double likely[kMaxTypical];  // log-probability of the path to a node that stands
  int32_t depth[kMaxTypical];  // its depth, -1 for others
  const int32_t size = (int32_t)w->size;
  for (int32_t i = 0; i < size; ++i) depth[i] = -1;
  logits::RowStatus status = logits::kRowFine;
  int32_t best = size > 0 ? 0 : -1;
  if (size > 0) {
    depth[0] = 0;
    likely[0] = 0.0;
  }
  for (int32_t node = 0; node < size; ++node) {
    if (depth[node] < 0) continue;
    w->list_draws(node);
    if (w->draws.count == 0) continue;
    if (analyse(w->row(node), &w->target) != logits::kRowFine) continue;  // nothing stands after it
    const double sure = p.params.delta * ::exp(-entropy(w->target));
    const double least = sure < p.params.epsilon ? sure : p.params.epsilon;
    for (int i = 0; i < w->draws.count; ++i) {
      const int32_t child = w->draws.node[i];
      const double chance = probability(w->target, w->draws.token[i]);
      if (!(chance > least) || depth[child] >= 0) continue;
      depth[child] = depth[node] + 1;
      likely[child] = likely[node] + log(chance);
    }
  }
  for (int32_t node = 1; node < size; ++node) {
    if (depth[node] < depth[best] || depth[node] < 0) continue;
    if (depth[node] > depth[best] || likely[node] > likely[best]) best = node;
  }
  int64_t next = -1;
  if (best >= 0) {
    for (int32_t node = best; node > 0; node = at(p.parent, w->first + node)) {
      const int32_t parent = at(p.parent, w->first + node);
      result.path[depth[node] - 1] = node;
      if (result.logprobs) {
        result.logprobs[depth[node] - 1] = (float)(likely[node] - likely[parent]);
      }
    }
    status = analyse(w->row(best), &w->target);
    if (status == logits::kRowFine) {
      next = draw(w->target, w->uniform(depth[best], kBonus));
      if (result.logprobs) result.logprobs[depth[best]] = w->log_probability(next);
    }
  }
  finish(p, b, best >= 0 ? depth[best] : 0, next, status);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
