// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/request.h"
#include "tree/cpu/residual.h"
#include "tree/cpu/rules.h"

// One request on its way down its tree. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::FEWSTEP_ISA::analyse;
using logits::FEWSTEP_ISA::best_token;

struct Walk {
  Request request;
  TargetLaw target;
  Masses masses;
  Draws draws;

  void list_draws(int32_t node) {
    draws.count = 0;
    const Request::Places places = request.places(node);
    for (int64_t place = places.begin; place < places.end && draws.count < kMaxDraws; ++place) {
      const int32_t child = request.draw_at(node, place);
      if (child < 0) continue;
      draws.node[draws.count] = child;
      draws.place[draws.count] = place;
      draws.token[draws.count++] = request.token(child);
    }
  }
  double probability(int64_t v) const { return logits::FEWSTEP_ISA::probability(target, v); }
  float log_probability(int64_t v) const { return (float)log(probability(v)); }

  // Makes a rule's decision at a node whose draws and law are there.
  void decide(int32_t node, int32_t depth, Decision* d) {
    Rules<Walk> rules(*this, d);
    const DraftLaw q = request.p.draft ? request.draft(node) : DraftLaw{};
    const Residual residual = {target, q, draws, d->left};
    start(node, depth, d);
    for (;;) {
      rules.go_on();
      switch (d->ask) {
        case Ask::kNothing:
          return;
        case Ask::kMass:
          d->mass = weigh(residual, &masses);
          break;
        case Ask::kMost:
          d->mass = (double)largest(q);
          break;
        case Ask::kToken:
          d->token = draw(target, d->u);
          break;
        default:
          d->token = draw_left(residual, masses, d->u);
      }
    }
  }
  static float largest(const DraftLaw& law) {
    float most = 0.0f;
    for (int64_t s = 0; s < law.S; ++s) {
      if (law.q[s] > most) most = law.q[s];
    }
    return most;
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
