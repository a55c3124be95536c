// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/rules.h"

// A request's path as decisions make it longer, for kernels of both kinds. Included by kernel files
// only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct Path {
  int32_t node, depth;  // where the request is; node -1: the path ends before
  int32_t accepted;     // nodes of the path, of which block may have followed more
  int64_t next;         // the token that follows them
  float next_log;
};

FEWSTEP_HOST_DEVICE inline Path start_path(const Request& request) {
  return {request.size > 0 ? 0 : -1, 0, 0, -1, __builtin_nanf("")};
}

// The decision for the target's own token.
FEWSTEP_HOST_DEVICE inline void take_token(const Draws& draws, int64_t token, Decision* d) {
  d->child = child_with(draws, token);
  d->next = token;
  d->ends = d->child < 0;
}

// W: as for rules, and log_probability(v).
template <class W>
FEWSTEP_HOST_DEVICE inline void follow(const W& w, const Decision& d, const Result& result,
                                       Path* path) {
  if (d.ends) {
    path->accepted = path->depth;
    path->next = d.next;
    if (result.logprobs) path->next_log = w.log_probability(d.next);
  }
  path->node = d.child;
  if (d.child < 0) return;
  if (result.logprobs) {
    result.logprobs[path->depth] = w.log_probability(w.request.token(d.child));
  }
  result.path[path->depth++] = d.child;
}

template <class W>
FEWSTEP_HOST_DEVICE inline void end_path(const W& w, logits::RowStatus status, const Result& result,
                                         Path path) {
  const VerifyProblem& p = w.request.p;
  if (status != logits::kRowFine) {
    path.next = -1;
    path.next_log = __builtin_nanf("");
    if (p.rule != Rule::kBlock) path.accepted = path.depth;
  }
  result.cut(path.accepted);
  if (result.logprobs) result.logprobs[path.accepted] = path.next_log;
  finish(p, w.request.b, path.accepted, path.next, status);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
