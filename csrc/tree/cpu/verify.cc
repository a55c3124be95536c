// SPDX-License-Identifier: Apache-2.0
#include "tree/verify.h"

#include <math.h>

#include "core/cpu/parallel.h"
#include "tree/cpu/block_rule.h"
#include "tree/cpu/rules.h"
#include "tree/cpu/typical_rule.h"

// Requires: trees with parents before children, tokens below V, ids ascending, D levels of room. A
// request is one thread's.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// The target's own token after a node, where the rule accepts that alone and it is no draw from a
// law: given, or the best.
logits::RowStatus find_token(const Walk& w, int32_t node, int64_t* token) {
  logits::RowStatus status = logits::kRowFine;
  if (w.p.target_token.data) {
    *token = at(w.p.target_token, w.first + node);
    if (*token < 0) status = logits::kRowEmpty;
  } else {
    *token = best_token(w.row(node), &status);
  }
  return status;
}

// Node after node from the root on.
void verify_nodes(const VerifyProblem& p, int64_t b, Walk* w) {
  Result result(p, b);
  logits::RowStatus status = logits::kRowFine;
  int32_t node = w->size > 0 ? 0 : -1, depth = 0;
  int64_t next = -1;
  const bool is_known = p.rule == Rule::kGreedy || p.target_token.data;
  while (node >= 0) {
    next = -1;
    w->list_draws(node);
    if (is_known) status = find_token(*w, node, &next);
    if (!is_known || (result.logprobs && status == logits::kRowFine)) {
      status = analyse(w->row(node), &w->target);
    }
    if (status != logits::kRowFine) {
      next = -1;
      break;
    }
    const int32_t child = is_known ? w->child_with(next) : decide(w, node, depth, &next);
    const int64_t token = child >= 0 ? w->token(child) : next;
    if (result.logprobs) result.logprobs[depth] = w->log_probability(token);
    if (child < 0) break;
    result.path[depth++] = child;
    node = child;
  }
  finish(p, b, depth, next, status);
}

}  // namespace

void verify(const VerifyProblem& p) {
  const auto requests = [](void* context, int64_t begin, int64_t end) {
    const VerifyProblem& problem = *(const VerifyProblem*)context;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = at(problem.indptr, b);
      Walk walk{problem, b, first, at(problem.indptr, b + 1) - first, {}, {}, {}};
      if (problem.rule == Rule::kBlock) {
        verify_block(problem, b, &walk);
      } else if (problem.rule == Rule::kTypical) {
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
