// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/draws.h"
#include "tree/cpu/residual.h"

// One request on its way down its tree. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::FEWSTEP_ISA::analyse;
using logits::FEWSTEP_ISA::best_token;

// Streams of fewstep_stream (noise.h).
constexpr uint32_t kAccept = 5, kResidual = 6, kBonus = 7, kSample = 8;
constexpr int kMaxDraws = FEWSTEP_MAX_DRAWS;  // of a node that are looked at
constexpr int kProposals = 8;                 // of a token before what is left is weighed

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
  int64_t place[kMaxDraws];  // in the list of draws, where there is one
  int count = 0;

  void add(int32_t n, int32_t t, int64_t d) {
    if (t < 0 || count == kMaxDraws) return;
    node[count] = n;
    place[count] = d;
    token[count++] = t;
  }
};

struct Walk {
  const VerifyProblem& p;
  int64_t b, first, size;
  TargetLaw target;
  Masses masses;
  Draws draws;

  DrawKey key(int32_t depth, uint32_t stream) const {
    return {at(p.seeds, b), (uint32_t)(at(p.positions, b) + depth), stream};
  }
  double uniform(int32_t depth, uint32_t stream, int draw = 0) const {
    return draw_uniform(key(depth, stream), (uint32_t)draw);
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
  int32_t token(int32_t node) const { return at(p.token, first + node); }
  void list_draws(int32_t node) {
    draws.count = 0;
    if (p.draw_indptr.data) {
      const int64_t end = at(p.draw_indptr, first + node + 1);
      for (int64_t d = at(p.draw_indptr, first + node); d < end; ++d) {
        const int32_t child = at(p.draw_node, d);
        draws.add(child, token(child), d);
      }
      return;
    }
    for (int32_t i = node + 1; i < size; ++i) {
      if (at(p.parent, first + i) == node) draws.add(i, token(i), -1);
    }
  }
  // The child with this token, or -1.
  int32_t child_with(int64_t wanted) const {
    for (int i = 0; i < draws.count; ++i) {
      if (draws.token[i] == wanted) return draws.node[i];
    }
    return -1;
  }
  float log_probability(int64_t v) const { return (float)log(probability(target, v)); }
  // Draws from what `weigh` has weighed.
  template <class Values>
  int64_t draw_left(const Values& left, int32_t depth) const {
    return draw_from(left, p.V, masses, uniform(depth, kResidual));
  }
  template <class Values>
  int64_t draw_weighed(const Values& left, int32_t depth) {
    weigh(left, p.V, &masses);
    return draw_left(left, depth);
  }
  // A token of what is left of the target's law, by rejection from that law: a token of it stands
  // with the share that is left of its probability. It has the very law of what is left, and costs
  // no pass over the vocabulary. -1 where no proposal stood: then that law is weighed, and drawn
  // from, which changes nothing about the law of the result.
  int64_t propose(const Excess& left, int32_t depth) const {
    for (int j = 0; j < kProposals; ++j) {
      const int64_t token = draw(target, uniform(depth, kResidual, 2 * j + 1));
      const double whole = left.c * probability(target, token);
      if (uniform(depth, kResidual, 2 * j + 2) * whole < left.at(token)) return token;
    }
    return -1;
  }
  // What a rejected draft leaves; the target's own law where p = q but for rounding.
  template <class Values>
  int64_t draw_residual(const Values& left, int32_t depth) {
    if (weigh(left, p.V, &masses) > 0.0) return draw_left(left, depth);
    return draw_weighed(Excess{&target, nullptr, 1.0, 0.0, {draws.token, 0}}, depth);
  }
};

// Where a request's results go.
struct Result {
  int32_t* path;
  float* logprobs;  // or null
  int64_t D;

  Result(const VerifyProblem& p, int64_t b)
      : path(p.path + b * p.path_stride),
        logprobs(p.logprobs ? p.logprobs + b * p.logprobs_stride : nullptr),
        D(p.D) {
    for (int64_t d = 0; d < D; ++d) path[d] = -1;
    for (int64_t d = 0; logprobs && d <= D; ++d) logprobs[d] = __builtin_nanf("");
  }
  // Forgets what lies behind the first `depth` nodes and the token after them.
  void cut(int64_t depth) {
    for (int64_t d = depth; d < D; ++d) path[d] = -1;
    for (int64_t d = depth + 1; logprobs && d <= D; ++d) logprobs[d] = __builtin_nanf("");
  }
};

inline void finish(const VerifyProblem& p, int64_t b, int32_t accepted, int64_t next,
                   logits::RowStatus status) {
  set(p.accepted, b, accepted);
  set(p.next_token, b, (int32_t)next);
  set(p.status, b, (int32_t)status);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
