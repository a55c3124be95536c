// SPDX-License-Identifier: Apache-2.0
#include "tree/verify.h"

#include <math.h>

#include "core/cpu/parallel.h"
#include "core/draws.h"
#include "tree/cpu/residual.h"

// Requires: trees with parents before children, tokens below V, ids ascending, D levels of room. A
// request is one thread's.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::FEWSTEP_ISA::analyse;
using logits::FEWSTEP_ISA::best_token;

// Streams of fewstep_stream (noise.h).
constexpr uint32_t kAccept = 5, kResidual = 6, kBonus = 7, kSample = 8;
constexpr int kMaxDraws = 256;  // of a node that are looked at

template <class T>
inline T at(const Vector<T>& v, int64_t i) {
  return v.data[i * v.stride];
}
template <class T>
inline void set(const Vector<T>& v, int64_t i, T value) {
  if (v.data) v.data[i * v.stride] = value;
}

// The draws of a node: nodes and their tokens, in order.
struct Draws {
  int32_t node[kMaxDraws], token[kMaxDraws];
  int count = 0;

  void add(int32_t n, int32_t t) {
    if (t < 0 || count == kMaxDraws) return;
    node[count] = n;
    token[count++] = t;
  }
};

// One request on its way down its tree.
struct Walk {
  const VerifyProblem& p;
  int64_t b, first, size;
  TargetLaw target;
  Masses masses;
  Draws draws;

  DrawKey key(int32_t depth, uint32_t stream) const {
    return {at(p.seeds, b), (uint32_t)(at(p.positions, b) + depth), stream};
  }
  logits::RowSpec row(int32_t node) const {
    logits::RowSpec row{};
    row.logits = p.logits + (first + node) * p.logits_pitch;
    row.bitmask = p.bitmask ? p.bitmask + (first + node) * p.bitmask_stride : nullptr;
    row.V = p.V;
    row.dtype = p.dtype;
    put_filters(*p.filters, b, &row);
    return row;
  }
  DraftLaw draft(int32_t node) const {
    const int64_t r = p.draft_row.data ? at(p.draft_row, first + node) : first + node;
    return {p.draft + r * p.draft_stride,
            p.draft_ids ? p.draft_ids + r * p.draft_ids_stride : nullptr, p.S};
  }
  void list_draws(int32_t node) {
    draws.count = 0;
    if (p.draw_indptr.data) {
      const int64_t end = at(p.draw_indptr, first + node + 1);
      for (int64_t d = at(p.draw_indptr, first + node); d < end; ++d) {
        const int32_t child = at(p.draw_node, d);
        draws.add(child, at(p.token, first + child));
      }
      return;
    }
    for (int32_t i = node + 1; i < size; ++i) {
      if (at(p.parent, first + i) == node) draws.add(i, at(p.token, first + i));
    }
  }
  // The child with this token, or -1.
  int32_t child_with(int64_t token) const {
    for (int i = 0; i < draws.count; ++i) {
      if (draws.token[i] == token) return draws.node[i];
    }
    return -1;
  }

  int32_t target_only(int32_t depth, int64_t* next);
  int32_t rejection(int32_t node, int32_t depth, int64_t* next);
  int32_t k_seq(int32_t node, int32_t depth, int64_t* next);
  int32_t decide(int32_t node, int32_t depth, int64_t* next);
};

// Draft tokens that were chosen have q = 1: each is accepted with its share of what is left of p.
int32_t Walk::target_only(int32_t depth, int64_t* next) {
  Excess left{&target, nullptr, 1.0, 0.0, {draws.token, 0}};
  double rest = 1.0;
  for (int i = 0; i < draws.count; ++i) {
    left.tried.count = i;
    const double chance = left.at(draws.token[i]);
    if (draw_uniform(key(depth, kAccept), (uint32_t)i) * rest < chance) return draws.node[i];
    rest -= chance;
  }
  left.tried.count = draws.count;
  weigh(left, p.V, &masses);
  *next = draw_from(left, p.V, masses, draw_uniform(key(depth, kResidual), 0));
  return -1;
}

int32_t Walk::rejection(int32_t node, int32_t depth, int64_t* next) {
  const DraftLaw q = draft(node);
  Excess left{&target, &q, 1.0, 0.0, {draws.token, 0}};
  const bool removes = p.law == Law::kWithoutReplacement;
  double removed = 0.0;  // of q, by tokens that were tried
  for (int i = 0; i < draws.count; ++i) {
    left.tried.count = i;
    const double scale = removes ? 1.0 / (1.0 - removed) : 1.0;
    const double chance = draft_probability(q, draws.token[i]) * scale;
    if (draw_uniform(key(depth, kAccept), (uint32_t)i) * chance < left.at(draws.token[i])) {
      return draws.node[i];
    }
    // What is left of p, less q: the residual law once it is divided by its mass.
    Excess after = left;
    after.d += scale;
    after.tried.count = i + 1;
    const double mass = weigh(after, p.V, &masses);
    if (!(mass > 0.0)) break;  // p = q but for rounding: what was left before stays
    left = after;
    left.c /= mass;
    left.d /= mass;
    removed += draft_probability(q, draws.token[i]);
    if (removes && !(removed < 1.0)) break;
  }
  weigh(left, p.V, &masses);
  *next = draw_from(left, p.V, masses, draw_uniform(key(depth, kResidual), 0));
  return -1;
}

int32_t Walk::k_seq(int32_t node, int32_t depth, int64_t* next) {
  const DraftLaw q = draft(node);
  double g;
  const double rho = k_seq_rho(target, q, draws.count, &g, &masses);
  for (int i = 0; i < draws.count; ++i) {
    const double chance = rho * draft_probability(q, draws.token[i]);
    const double u = draw_uniform(key(depth, kAccept), (uint32_t)i);
    if (u * chance < probability(target, draws.token[i])) return draws.node[i];
  }
  const Overlap<true> left{&target, &q, rho, g};
  weigh(left, p.V, &masses);
  *next = draw_from(left, p.V, masses, draw_uniform(key(depth, kResidual), 0));
  return -1;
}

// The accepted child, or -1 and the next token.
int32_t Walk::decide(int32_t node, int32_t depth, int64_t* next) {
  if (p.rule == Rule::kMatch) {
    *next = draw(target, draw_uniform(key(depth, kSample), 0));
    return child_with(*next);
  }
  if (draws.count == 0) {
    *next = draw(target, draw_uniform(key(depth, kBonus), 0));
    return -1;
  }
  if (p.rule == Rule::kKSeq) return k_seq(node, depth, next);
  const bool is_chosen = p.rule == Rule::kTargetOnly || p.law == Law::kDeterministic;
  return is_chosen ? target_only(depth, next) : rejection(node, depth, next);
}

void verify_request(const VerifyProblem& p, int64_t b, Walk* walk) {
  int32_t* path = p.path + b * p.path_stride;
  float* logprobs = p.logprobs ? p.logprobs + b * p.logprobs_stride : nullptr;
  for (int64_t d = 0; d < p.D; ++d) path[d] = -1;
  for (int64_t d = 0; logprobs && d <= p.D; ++d) logprobs[d] = __builtin_nanf("");
  logits::RowStatus status = logits::kRowFine;
  int32_t node = walk->size > 0 ? 0 : -1, depth = 0;
  int64_t next = -1;
  while (node >= 0) {
    next = -1;
    walk->list_draws(node);
    const bool is_greedy = p.rule == Rule::kGreedy;
    const logits::RowSpec row = walk->row(node);
    if (is_greedy) next = best_token(row, &status);
    if (!is_greedy || (logprobs && status == logits::kRowFine)) {
      status = analyse(row, &walk->target);
    }
    if (status != logits::kRowFine) {
      next = -1;
      break;
    }
    const int32_t child = is_greedy ? walk->child_with(next) : walk->decide(node, depth, &next);
    const int64_t token = child >= 0 ? at(p.token, walk->first + child) : next;
    if (logprobs) logprobs[depth] = (float)log(probability(walk->target, token));
    if (child < 0) break;
    path[depth++] = child;
    node = child;
  }
  set(p.accepted, b, depth);
  set(p.next_token, b, (int32_t)next);
  set(p.status, b, (int32_t)status);
}

}  // namespace

void verify(const VerifyProblem& p) {
  const auto requests = [](void* context, int64_t begin, int64_t end) {
    const VerifyProblem& problem = *(const VerifyProblem*)context;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = at(problem.indptr, b);
      Walk walk{problem, b, first, at(problem.indptr, b + 1) - first, {}, {}, {}};
      verify_request(problem, b, &walk);
    }
  };
  const int64_t grain = p.V >= 16384 ? 1 : 16384 / p.V;
  parallel_for(p.threads, p.B, grain, requests, (void*)&p);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
