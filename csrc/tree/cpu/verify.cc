// SPDX-License-Identifier: Apache-2.0
#include "tree/verify.h"

#include <math.h>

#include "core/cpu/parallel.h"
#include "tree/cpu/path.h"
#include "tree/cpu/typical_rule.h"

// Requires: trees with parents before children, tokens below V, ids ascending, D levels of room. A
// request is one thread's.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// The target's own token after a node, where the rule accepts that alone and it is no draw from a
// law: given, or the best.
logits::RowStatus find_token(const Walk& w, int32_t node, int64_t* token) {
  const VerifyProblem& p = w.request.p;
  logits::RowStatus status = logits::kRowFine;
  if (p.target_token.data) {
    *token = at(p.target_token, w.request.first + node);
    if (*token < 0) status = logits::kRowEmpty;
  } else {
    *token = best_token(w.request.row(node), &status);
  }
  return status;
}

// Node after node from the root on.
void verify_nodes(const VerifyProblem& p, int64_t b, Walk* w) {
  const Result result(p, b);
  result.cut(0);
  logits::RowStatus status = logits::kRowFine;
  Decision decision{};
  start_path(&decision);
  Path path = start_path(w->request);
  const bool is_known = p.rule == Rule::kGreedy || p.target_token.data;
  while (path.node >= 0) {
    int64_t token = -1;
    w->list_draws(path.node);
    if (is_known) status = find_token(*w, path.node, &token);
    if (!is_known || (result.logprobs && status == logits::kRowFine)) {
      status = analyse(w->request.row(path.node), &w->target);
    }
    if (status != logits::kRowFine) break;
    if (is_known) {
      take_token(w->draws, token, &decision);
    } else {
      w->decide(path.node, path.depth, &decision);
    }
    follow(*w, decision, result, &path);
  }
  end_path(*w, status, result, path);
}

}  // namespace

void verify(const VerifyProblem& p) {
  const auto requests = [](void* context, int64_t begin, int64_t end) {
    const VerifyProblem& problem = *(const VerifyProblem*)context;
    for (int64_t b = begin; b < end; ++b) {
      Walk walk{request_of(problem, b), {}, {}, {}};
      if (problem.rule == Rule::kTypical) {
        verify_typical(problem, b, &walk);
      } else {
        verify_nodes(problem, b, &walk);
      }
    }
  };
  const int64_t grain = p.V >= 16384 ? 1 : 16384 / p.V;
  parallel_for(p.threads, p.B, grain, requests, (void*)&p);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
