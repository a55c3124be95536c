// SPDX-License-Identifier: Apache-2.0
#include "logits/gumbel_top_k.h"

#include "core/cpu/parallel.h"
#include "logits/cpu/analyse.h"
#include "logits/cpu/perturb.h"

// Requires: V >= 1, 1 <= K <= kMaxCandidates, contiguous rows, valid filters. A row is one
// thread's.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct Scratch {
  Law law;
  double value[kMaxCandidates];
  float x[kMaxCandidates];
  int32_t id[kMaxCandidates];
};

void gumbel_top_k_row(const GumbelTopKProblem& p, int64_t r, Scratch* s) {
  Perturbed best = {s->value, s->x, s->id, p.K, 0};
  const RowStatus status = analyse(row_at(p.rows, r), &s->law);
  double log_mass = 0.0;
  if (status == kRowFine) {
    perturb(s->law, key_at(p.draws, r), p.draws.draw, &best);
    log_mass = log(s->law.mass);
  }
  const float rest = status == kRowFine ? kMinusInfinity : __builtin_nanf("");
  for (int i = 0; i < p.K; ++i) {
    const bool has = i < best.count;
    p.ids[r * p.ids_stride + i] = has ? s->id[i] : -1;
    p.perturbed[r * p.perturbed_stride + i] = has ? (float)(s->value[i] - log_mass) : rest;
    if (!p.logprobs) continue;
    p.logprobs[r * p.logprobs_stride + i] = has ? (float)((double)s->x[i] - log_mass) : rest;
  }
  if (p.status) p.status[r * p.status_stride] = status;
}

}  // namespace

void gumbel_top_k(const GumbelTopKProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t r = begin; r < end; ++r) {
      gumbel_top_k_row(*(const GumbelTopKProblem*)context, r, &scratch);
    }
  };
  parallel_for(p.threads, p.rows.R, grain_of(p.rows), rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
