// SPDX-License-Identifier: Apache-2.0
#include "logits/gumbel_top_k.h"

#include "core/cpu/gumbel.h"
#include "core/cpu/parallel.h"
#include "logits/cpu/analyse.h"

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

// The law's tokens where they are few and listed.
void perturb_few(const Law& law, const DrawKey& key, uint32_t draw, Perturbed* best) {
  for (int i = 0; i < law.count; ++i) {
    if (!(law.few.weights[i] > 0.0f)) continue;
    const int32_t id = law.few.ids[i];
    float lanes[vec::kLanes];
    vec::store(lanes, shifted(law, vec::set(logit_at(law.row, id))));
    uint32_t words[4];
    draw_words(key, draw, (uint32_t)id / 4, words);
    best->offer((double)lanes[0] + gumbel_of(words[id % 4]), lanes[0], id);
  }
}

void perturb_all(const Law& law, const DrawKey& key, uint32_t draw, Perturbed* best) {
  float buffer[kBlock], kept[kBlock];
  const vec::F32 none = vec::set(kMinusInfinity);
  for (int64_t begin = 0; begin < law.row.V; begin += kBlock) {
    const float* raw = raw_block(law.row, begin, buffer);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      const vec::F32 l = vec::load(raw + i);
      const uint32_t has = vec::greater_bits(weights_of(law, l, begin + i), vec::set(0.0f));
      vec::store(kept + i, vec::select_bits(has, none, shifted(law, l)));
    }
    for (int g = 0; g < kBlock; g += kGumbelGroup) {
      perturb_group(kept + g, begin + g, key, draw, best);
    }
  }
}

void gumbel_top_k_row(const GumbelTopKProblem& p, int64_t r, Scratch* s) {
  Perturbed best = {s->value, s->x, s->id, p.K, 0};
  const RowStatus status = analyse(row_at(p.rows, r), &s->law);
  double log_mass = 0.0;
  if (status == kRowFine) {
    const DrawKey key = key_at(p.draws, r);
    s->law.count >= 0 ? perturb_few(s->law, key, p.draws.draw, &best)
                      : perturb_all(s->law, key, p.draws.draw, &best);
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
