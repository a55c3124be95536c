// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/adjusted.h"
#include "tree/cpu/walk.h"

// Rules that decide at a node which child is accepted, from the node's law and draws alone: each
// returns the child, or -1 and the next token. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Draft tokens that were chosen have q = 1: each is accepted with its share of what is left of p.
inline int32_t target_only(Walk* w, int32_t depth, int64_t* next) {
  const Draws& draws = w->draws;
  Excess left{&w->target, nullptr, 1.0, 0.0, {draws.token, 0}};
  double rest = 1.0;
  for (int i = 0; i < draws.count; ++i) {
    left.tried.count = i;
    const double chance = left.at(draws.token[i]);
    if (w->uniform(depth, kAccept, i) * rest < chance) return draws.node[i];
    rest -= chance;
  }
  left.tried.count = draws.count;
  *next = w->propose(left, depth);
  if (*next < 0) *next = w->draw_weighed(left, depth);
  return -1;
}

inline int32_t rejection(Walk* w, int32_t node, int32_t depth, int64_t* next) {
  const VerifyProblem& p = w->p;
  const Draws& draws = w->draws;
  const DraftLaw q = w->draft(node);
  Excess left{&w->target, &q, 1.0, 0.0, {draws.token, 0}}, before = left;
  bool is_due = false;  // whether `left` is still to be divided by its mass
  const bool removes = p.law == Law::kWithoutReplacement;
  double removed = 0.0;  // of q, by tokens that were tried
  for (int i = 0; i < draws.count; ++i) {
    const double scale = removes ? 1.0 / (1.0 - removed) : 1.0;
    const double chance = draft_probability(q, draws.token[i]) * scale;
    const double wanted = w->uniform(depth, kAccept, i) * chance;
    // A part of a law has a mass below 1: what is enough undivided is enough, without a pass.
    if (wanted < left.at(draws.token[i])) return draws.node[i];
    if (is_due) {
      const double mass = weigh(left, p.V, &w->masses);
      if (!(mass > 0.0)) {  // p = q but for rounding: what was left before stays
        *next = w->draw_weighed(before, depth);
        return -1;
      }
      left.c /= mass;
      left.d /= mass;
      if (wanted < left.at(draws.token[i])) return draws.node[i];
    }
    before = left;
    // What is left of p, less q: the residual law once it is divided by its mass.
    left.d += scale;
    left.tried.count = i + 1;
    is_due = true;
    removed += draft_probability(q, draws.token[i]);
    if (removes && !(removed < 1.0)) break;
  }
  *next = w->propose(left, depth);
  if (*next >= 0) return -1;
  *next = weigh(left, p.V, &w->masses) > 0.0 ? w->draw_left(left, depth)
                                             : w->draw_weighed(before, depth);
  return -1;
}

inline int32_t k_seq(Walk* w, int32_t node, int32_t depth, int64_t* next) {
  const Draws& draws = w->draws;
  const DraftLaw q = w->draft(node);
  double g;
  const double rho = k_seq_rho(w->target, q, draws.count, &g, &w->masses);
  for (int i = 0; i < draws.count; ++i) {
    const double chance = rho * draft_probability(q, draws.token[i]);
    if (w->uniform(depth, kAccept, i) * chance < probability(w->target, draws.token[i])) {
      return draws.node[i];
    }
  }
  *next = w->draw_weighed(Overlap<true>{&w->target, &q, rho, g}, depth);
  return -1;
}

// One of the draws is picked by its weight, then tested as the one draw of a chain whose law is
// that of what the weights pick.
inline int32_t canonical(Walk* w, int32_t node, int32_t depth, int64_t* next) {
  const Draws& draws = w->draws;
  const DraftLaw q = w->draft(node);
  const auto weight_of = [&](int i) { return (double)at(w->p.draw_weight, draws.place[i]); };
  double total = 0.0, sum = 0.0;
  for (int i = 0; i < draws.count; ++i) total += weight_of(i);
  const double wanted = w->uniform(depth, kAccept) * total;
  int picked = -1;
  for (int i = 0; i < draws.count; ++i) {
    if (!(weight_of(i) > 0.0)) continue;
    picked = i;
    sum += weight_of(i);
    if (sum > wanted) break;
  }
  const int32_t token = draws.token[picked];
  const double chance = draft_probability(q, token);
  if (w->uniform(depth, kAccept, 1) * chance < probability(w->target, token)) {
    return draws.node[picked];
  }
  const Excess left{&w->target, &q, 1.0, 1.0, {draws.token + picked, 1}};
  *next = w->propose(left, depth);
  if (*next < 0) *next = w->draw_residual(left, depth);
  return -1;
}

// The target's law is moved towards the draft's where the draft is sure of itself. Not lossless.
inline int32_t adjusted_target(Walk* w, int32_t node, int32_t depth, int64_t* next) {
  const int32_t token = w->draws.token[0];
  const DraftLaw q = w->draft(node);
  const Adjusted moved = adjust(w->target, q, w->p.params, &w->masses);
  const double chance = draft_probability(q, token);
  if (w->uniform(depth, kAccept) * chance < moved.at(token)) return w->draws.node[0];
  *next = w->draw_residual(AdjustedLeft{moved}, depth);
  return -1;
}

inline int32_t decide(Walk* w, int32_t node, int32_t depth, int64_t* next) {
  const VerifyProblem& p = w->p;
  if (p.rule == Rule::kMatch) {
    *next = draw(w->target, w->uniform(depth, kSample));
    return w->child_with(*next);
  }
  if (w->draws.count == 0) {
    *next = draw(w->target, w->uniform(depth, kBonus));
    return -1;
  }
  switch (p.rule) {
    case Rule::kKSeq:
      return k_seq(w, node, depth, next);
    case Rule::kCanonical:
      return canonical(w, node, depth, next);
    case Rule::kAdjustedTarget:
      return adjusted_target(w, node, depth, next);
    default:
      break;
  }
  const bool is_chosen = p.rule == Rule::kTargetOnly || p.law == Law::kDeterministic;
  return is_chosen ? target_only(w, depth, next) : rejection(w, node, depth, next);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
