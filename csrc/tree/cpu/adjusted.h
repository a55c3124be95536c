// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/residual.h"

// A target's law moved towards the draft's (RAPID). Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// a(v) = p(v) exp(-strength (p(v) - q(v))) / mass where q(v) >= least, p(v) / mass elsewhere.
struct Adjusted {
  const TargetLaw* p;
  const DraftLaw* q;
  float strength, least;
  double mass;

  // The law itself, p's and q's values to `plain` and `draft`.
  void fill(int64_t begin, float* a, float* plain, float* draft) const {
    fill_weights(*p, begin, plain);
    fill_draft(*q, begin, draft);
    const vec::F32 whole = vec::set((float)(1.0 / p->mass)), part = vec::set((float)(1.0 / mass));
    const vec::F32 rate = vec::set(strength), bound = vec::set(least);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      const vec::F32 w = vec::mul(vec::load(plain + i), whole), d = vec::load(draft + i);
      const vec::F32 factor = vec::exp(vec::mul(rate, vec::sub(d, w)));
      const uint32_t is_moved = vec::greater_bits(d, bound) | vec::equal_bits(d, bound);
      const vec::F32 moved = vec::select_bits(is_moved, vec::set(1.0f), factor);
      vec::store(plain + i, w);
      vec::store(a + i, vec::mul(vec::mul(w, moved), part));
    }
  }
  void block(int64_t begin, float* r) const {
    float plain[kBlock], draft[kBlock];
    fill(begin, r, plain, draft);
  }
  double at(int64_t v) const {
    const double w = probability(*p, v), d = draft_probability(*q, v);
    const double moved = (float)d >= least ? ::exp((double)strength * (d - w)) : 1.0;
    return w * moved / mass;
  }
};

// What a rejected draft leaves: max(p - q, p - a, 0).
struct AdjustedLeft {
  const Adjusted& moved;

  void block(int64_t begin, float* r) const {
    float plain[kBlock], draft[kBlock];
    moved.fill(begin, r, plain, draft);
    const vec::F32 zero = vec::set(0.0f);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      const vec::F32 least = vec::min(vec::load(r + i), vec::load(draft + i));
      vec::store(r + i, vec::max(zero, vec::sub(vec::load(plain + i), least)));
    }
  }
};

inline Adjusted adjust(const TargetLaw& p, const DraftLaw& q, const VerifyParams& params,
                       Masses* scratch) {
  float most = 0.0f;
  for (int64_t s = 0; s < q.S; ++s) {
    if (q.q[s] > most) most = q.q[s];
  }
  Adjusted moved{&p, &q, params.strength, params.share * most, 1.0};
  moved.mass = weigh(moved, p.row.V, scratch);
  return moved;
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
