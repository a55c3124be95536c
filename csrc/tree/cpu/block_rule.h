// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/walk.h"

// Block verification: how much of a chain is accepted is decided by the drafts together. Included
// by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// max(c p - q, 0), the excess over the draft after a prefix whose joint ratio is c. A draft that
// was chosen has q = 1 at its token.
inline Excess excess_of(const Walk& w, const DraftLaw* q, double c) {
  const bool is_chosen = w.p.law == Law::kDeterministic;
  return {&w.target,
          is_chosen ? nullptr : q,
          c,
          is_chosen ? 0.0 : 1.0,
          {w.draws.token, is_chosen ? 1 : 0}};
}

// At each node a token is drawn that would follow if the path ended there, and the longest prefix
// whose test succeeds is accepted (Sun et al. 2024, algorithm 2).
inline void verify_block(const VerifyProblem& p, int64_t b, Walk* w) {
  Result result(p, b);
  int32_t node = w->size > 0 ? 0 : -1, depth = 0, accepted = 0;
  int64_t next = -1;
  logits::RowStatus status = logits::kRowFine;
  double joint = 1.0;  // min(joint p / q, 1) along the path
  float next_log = __builtin_nanf("");
  while (node >= 0) {
    w->list_draws(node);
    status = analyse(w->row(node), &w->target);
    if (status != logits::kRowFine) {
      next = -1;
      break;
    }
    const bool is_last = w->draws.count == 0;
    const DraftLaw q = is_last || p.law == Law::kDeterministic ? DraftLaw{} : w->draft(node);
    const Excess left = excess_of(*w, &q, joint);
    const double mass = is_last ? joint : weigh(left, p.V, &w->masses);
    const double chance = is_last ? joint : mass > 0.0 ? mass / (mass + 1.0 - joint) : 0.0;
    // Tests behind the accepted prefix have looked at their numbers too, and the next call stands
    // amid their positions: so all are numbers of the first position, which no other call has.
    const bool is_accepted = depth == 0 || w->uniform(0, kAccept, depth) < chance;
    if (is_accepted) {
      accepted = depth;
      const bool is_plain = is_last || !(mass > 0.0);  // p = q but for rounding
      next = is_plain ? draw(w->target, w->uniform(depth, is_last ? kBonus : kResidual))
                      : w->draw_left(left, depth);
      next_log = w->log_probability(next);
    }
    if (is_last) break;
    const int32_t token = w->draws.token[0];
    const double probability_of = probability(w->target, token);
    const double ratio =
        joint * probability_of / (p.law == Law::kDeterministic ? 1.0 : draft_probability(q, token));
    joint = ratio < 1.0 ? ratio : 1.0;
    if (!(joint > 0.0)) break;
    if (result.logprobs) result.logprobs[depth] = (float)log(probability_of);
    node = w->draws.node[0];
    result.path[depth++] = node;
  }
  result.cut(accepted);
  if (result.logprobs) result.logprobs[accepted] = next_log;
  finish(p, b, accepted, next, status);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
