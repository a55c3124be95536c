// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/request.h"

// Rules that decide at a node which child is accepted, from the node's law and draws alone, and how
// the next token is drawn where none is; for kernels of both kinds. Included by kernel files only.
//
// What needs a whole vocabulary a rule asks the kernel for, and goes on once it has the answer: so
// a kernel that is one block of threads has every pass over a row once. W, the kernel's view of a
// request at a node, has `request`, `draws` and probability(v), the target's.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int kProposals = 8;  // of a token before what is left is weighed

enum class Ask : int32_t {
  kNothing,    // the decision is made
  kMass,       // the sum of the values of `left`
  kMost,       // the largest probability of the draft at the node
  kToken,      // a token of the target's law, at u
  kTokenLeft,  // one of the values whose sum was asked for last, at u
};

struct Decision {
  // What is asked for.
  Ask ask;
  double u;
  Left left;
  // The answer, but for the last: the child that is accepted, or -1. Where the path may end here,
  // the token that would follow.
  double mass;
  int64_t token;
  int32_t child;
  bool ends;
  int64_t next;
  // Where the rule is.
  enum class State : int32_t { kStart, kRule, kProposing, kWeighing, kDrawing } state;
  int32_t node, depth;
  int32_t i;       // draws that were looked at; proposals
  Left otherwise;  // where nothing is left for rounding
  bool has_otherwise;
  double wanted, removed;  // of q: what the draw is accepted below; what tokens that were tried had
  RhoSearch rho;
  double joint;  // min(joint p / q, 1) along a path
};

FEWSTEP_HOST_DEVICE inline void start_path(Decision* d) { d->joint = 1.0; }
FEWSTEP_HOST_DEVICE inline void start(int32_t node, int32_t depth, Decision* d) {
  d->node = node;
  d->depth = depth;
  d->state = Decision::State::kStart;
}

// A rule at a node, one step after the other.
template <class W>
struct Rules {
  using State = Decision::State;

  const W& w;
  const VerifyProblem& p;
  const Draws& draws;
  Decision* const d;

  FEWSTEP_HOST_DEVICE Rules(const W& walk, Decision* decision)
      : w(walk), p(walk.request.p), draws(walk.draws), d(decision) {}

  FEWSTEP_HOST_DEVICE double uniform(uint32_t stream, int draw = 0) const {
    return w.request.uniform(d->depth, stream, draw);
  }
  FEWSTEP_HOST_DEVICE double draft_of(int64_t v) const {
    return draft_probability(w.request.draft(d->node), v);
  }
  FEWSTEP_HOST_DEVICE double left_at(int64_t v) const {
    if (is_tried(d->left, draws, v)) return 0.0;
    return value_at(d->left, w.probability(v), needs_draft(d->left) ? draft_of(v) : 0.0);
  }

  FEWSTEP_HOST_DEVICE void accept(int32_t child) {
    d->ask = Ask::kNothing;
    d->child = child;
  }
  FEWSTEP_HOST_DEVICE void ask_mass(State state) {
    d->ask = Ask::kMass;
    d->state = state;
  }
  FEWSTEP_HOST_DEVICE void ask_token(Ask ask, uint32_t stream, int draw, State state) {
    d->ask = ask;
    d->u = uniform(stream, draw);
    d->state = state;
  }

  FEWSTEP_HOST_DEVICE void go_on() {
    switch (d->state) {
      case State::kStart:
        return begin();
      case State::kProposing:
        return test_proposal();
      case State::kWeighing:
        return draw_left();
      case State::kDrawing:
        return end(d->token);
      default:
        break;
    }
    switch (p.rule) {
      case Rule::kKSeq:
        return k_seq();
      case Rule::kAdjustedTarget:
        return adjusted_target();
      case Rule::kBlock:
        return test_prefix(d->mass);
      default:
        return rejection();
    }
  }

  FEWSTEP_HOST_DEVICE void begin() {
    d->i = 0;
    d->child = -1;
    d->ends = false;
    d->next = -1;
    d->left = d->otherwise = excess(1.0, 0.0);
    d->has_otherwise = false;
    if (p.rule == Rule::kMatch) return ask_token(Ask::kToken, kSample, 0, State::kDrawing);
    if (p.rule == Rule::kBlock) return begin_block();
    if (draws.count == 0) return ask_token(Ask::kToken, kBonus, 0, State::kDrawing);
    switch (p.rule) {
      case Rule::kKSeq:
        d->rho = start_rho(draws.count);
        return ask_overlap();
      case Rule::kCanonical:
        return canonical();
      case Rule::kAdjustedTarget:
        d->ask = Ask::kMost;
        d->state = State::kRule;
        return;
      default:
        break;
    }
    if (p.rule == Rule::kTargetOnly || p.law == Law::kDeterministic) return target_only();
    d->removed = 0.0;
    test_draws(false);
  }

  // The token after the path, where it ends here.
  FEWSTEP_HOST_DEVICE void end(int64_t token) {
    d->ends = true;
    d->next = token;
    if (p.rule == Rule::kBlock) return lengthen();
    accept(p.rule == Rule::kMatch ? child_with(draws, token) : -1);
  }

  // A token of what is left of the target's law is proposed by that law, and stands with the share
  // that is left of its probability: it has the very law of what is left, and costs no pass over
  // the vocabulary. Where no proposal stands, what is left is weighed and drawn from, which changes
  // nothing about the law of the result.
  FEWSTEP_HOST_DEVICE void propose() {
    d->i = 0;
    ask_token(Ask::kToken, kResidual, 1, State::kProposing);
  }
  FEWSTEP_HOST_DEVICE void test_proposal() {
    const int j = d->i++;
    const double whole = d->left.c * w.probability(d->token);
    if (uniform(kResidual, 2 * j + 2) * whole < left_at(d->token)) return end(d->token);
    if (d->i == kProposals) return ask_mass(State::kWeighing);
    ask_token(Ask::kToken, kResidual, 2 * d->i + 1, State::kProposing);
  }
  FEWSTEP_HOST_DEVICE void draw_left() {
    if (!(d->mass > 0.0) && d->has_otherwise) {
      d->left = d->otherwise;
      d->has_otherwise = false;
      return ask_mass(State::kWeighing);
    }
    ask_token(Ask::kTokenLeft, kResidual, 0, State::kDrawing);
  }

  // Draft tokens that were chosen have q = 1: each is accepted with its share of what is left of p.
  FEWSTEP_HOST_DEVICE void target_only() {
    double rest = 1.0;
    for (int i = 0; i < draws.count; ++i) {
      const double chance = left_at(draws.token[i]);
      if (uniform(kAccept, i) * rest < chance) return accept(draws.node[i]);
      rest -= chance;
      d->left.tried = i + 1;
    }
    propose();
  }

  FEWSTEP_HOST_DEVICE bool removes() const { return p.law == Law::kWithoutReplacement; }
  // What q is multiplied by once tokens that were tried are out of it.
  FEWSTEP_HOST_DEVICE double draft_scale() const {
    return removes() ? 1.0 / (1.0 - d->removed) : 1.0;
  }

  // Draw after draw. is_whole: the mass of what is left is 1; a part of a law has less, so what is
  // enough of it undivided is enough, without a pass.
  FEWSTEP_HOST_DEVICE void test_draws(bool is_whole) {
    for (;; is_whole = false) {
      const bool is_all = removes() && d->i > 0 && !(d->removed < 1.0);
      if (d->i == draws.count || (is_all && !is_whole)) break;
      const int32_t token = draws.token[d->i];
      const double chance = draft_of(token);
      if (!is_whole) d->wanted = uniform(kAccept, d->i) * (chance * draft_scale());
      if (d->wanted < left_at(token)) return accept(draws.node[d->i]);
      if (!is_whole && d->i > 0) return ask_mass(State::kRule);
      // What is left of p, less q: the residual law once it is divided by its mass.
      d->otherwise = d->left;
      d->left.d += draft_scale();
      d->left.tried = ++d->i;
      d->removed += chance;
    }
    d->has_otherwise = true;
    propose();
  }
  FEWSTEP_HOST_DEVICE void rejection() {
    if (!(d->mass > 0.0)) {  // p = q but for rounding: what was left before stays
      d->left = d->otherwise;
      d->has_otherwise = false;
      return ask_mass(State::kWeighing);
    }
    d->left.c /= d->mass;
    d->left.d /= d->mass;
    test_draws(true);
  }

  FEWSTEP_HOST_DEVICE void ask_overlap() {
    d->left = overlap(Kind::kOverlap, next_rho(d->rho));
    ask_mass(State::kRule);
  }
  FEWSTEP_HOST_DEVICE void k_seq() {
    if (is_open(d->rho)) {
      put_beta(d->mass, &d->rho);
      return ask_overlap();
    }
    const double rho = d->rho.high;
    for (int i = 0; i < draws.count; ++i) {
      const double chance = rho * draft_of(draws.token[i]);
      if (uniform(kAccept, i) * chance < w.probability(draws.token[i])) {
        return accept(draws.node[i]);
      }
    }
    d->left = overlap(Kind::kOverlapLeft, rho, ratio_of(d->rho.k, d->mass));
    ask_mass(State::kWeighing);
  }

  FEWSTEP_HOST_DEVICE double weight_of(int i) const {
    return (double)at(p.draw_weight, draws.place[i]);
  }
  // A draw, picked by its weight; -1: none has any.
  FEWSTEP_HOST_DEVICE int pick() const {
    double total = 0.0, sum = 0.0;
    for (int i = 0; i < draws.count; ++i) total += weight_of(i);
    const double wanted = uniform(kAccept) * total;
    int picked = -1;
    for (int i = 0; i < draws.count; ++i) {
      if (!(weight_of(i) > 0.0)) continue;
      picked = i;
      sum += weight_of(i);
      if (sum > wanted) break;
    }
    return picked;
  }
  // One of the draws is picked by its weight, then tested as the one draw of a chain whose law is
  // that of what the weights pick.
  FEWSTEP_HOST_DEVICE void canonical() {
    const int picked = pick();
    if (picked < 0) return ask_token(Ask::kToken, kBonus, 0, State::kDrawing);
    const int32_t token = draws.token[picked];
    if (uniform(kAccept, 1) * draft_of(token) < w.probability(token)) {
      return accept(draws.node[picked]);
    }
    d->left = excess(1.0, 1.0, picked, 1);
    d->has_otherwise = true;
    propose();
  }

  // The target's law is moved towards the draft's where the draft is sure of itself (RAPID). Not
  // lossless.
  FEWSTEP_HOST_DEVICE void adjusted_target() {
    if (d->ask == Ask::kMost) {
      d->left = adjusted(p.params, (float)d->mass);
      return ask_mass(State::kRule);
    }
    d->left.mass = d->mass;
    const int32_t token = draws.token[0];
    if (uniform(kAccept) * draft_of(token) < left_at(token)) return accept(draws.node[0]);
    d->left.kind = Kind::kAdjustedLeft;
    d->has_otherwise = true;
    ask_mass(State::kWeighing);
  }

  // Block verification: how much of a chain is accepted is decided by the drafts together. At each
  // node a token is drawn that would follow if the path ended there, and the longest prefix whose
  // test succeeds is accepted (Sun et al. 2024, algorithm 2). A draft that was chosen has q = 1 at
  // its token.
  FEWSTEP_HOST_DEVICE void begin_block() {
    if (draws.count == 0) return test_prefix(d->joint);
    // max(c p - q, 0), the excess over the draft after a prefix whose joint ratio is c.
    d->left = p.law == Law::kDeterministic ? excess(d->joint, 0.0, 0, 1) : excess(d->joint, 1.0);
    ask_mass(State::kRule);
  }
  FEWSTEP_HOST_DEVICE void test_prefix(double mass) {
    const bool is_last = draws.count == 0;
    const double joint = d->joint;
    const double chance = is_last ? joint : mass > 0.0 ? mass / (mass + 1.0 - joint) : 0.0;
    // Tests behind the accepted prefix have looked at their numbers too, and the next call stands
    // amid their positions: so all are numbers of the first position, which no other call has.
    if (d->depth > 0 && !(w.request.uniform(0, kAccept, d->depth) < chance)) return lengthen();
    const bool is_plain = is_last || !(mass > 0.0);  // p = q but for rounding
    ask_token(is_plain ? Ask::kToken : Ask::kTokenLeft, is_last ? kBonus : kResidual, 0,
              State::kDrawing);
  }
  FEWSTEP_HOST_DEVICE void lengthen() {
    if (draws.count == 0) return accept(-1);
    const int32_t token = draws.token[0];
    const double q = p.law == Law::kDeterministic ? 1.0 : draft_of(token);
    const double ratio = d->joint * w.probability(token) / q;
    d->joint = ratio < 1.0 ? ratio : 1.0;
    accept(d->joint > 0.0 ? draws.node[0] : -1);
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
