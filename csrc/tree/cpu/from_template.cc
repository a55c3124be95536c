// SPDX-License-Identifier: Apache-2.0
#include "tree/from_template.h"

#include "core/cpu/parallel.h"

// Requires: the template checked, depths within the heads, roots within the table.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int64_t kNodesOfARange = 8192;

// The head of a node is its depth less one: how often a parent is followed up to the root.
int64_t head_of(const FromTemplateProblem& p, int64_t i) {
  int64_t head = -1;
  for (int64_t at = i; at > 0; at = p.parent[at * p.parent_stride]) ++head;
  return head;
}

void from_table(const FromTemplateProblem& p, int32_t* tokens) {
  for (int64_t i = 1; i < p.Q; ++i) {
    const int32_t above = tokens[p.parent[i * p.parent_stride]];
    int32_t token = -1;
    if (above >= 0) token = p.table[above * p.table_stride + p.rank[i * p.rank_stride]];
    tokens[i] = token < 0 || token >= p.V ? -1 : token;
  }
}

void from_heads(const FromTemplateProblem& p, const int32_t* heads, int32_t* tokens) {
  for (int64_t i = 1; i < p.Q; ++i) {
    int32_t token = -1;
    if (tokens[p.parent[i * p.parent_stride]] >= 0) {
      token = heads[head_of(p, i) * p.K + p.rank[i * p.rank_stride]];
    }
    tokens[i] = token < 0 ? -1 : token;
  }
}

void fill_range(void* context, int64_t from, int64_t to) {
  const FromTemplateProblem& p = *static_cast<const FromTemplateProblem*>(context);
  for (int64_t b = from; b < to; ++b) {
    int32_t* tokens = p.tokens + b * p.tokens_stride;
    tokens[0] = p.root[b * p.root_stride];
    if (p.table) from_table(p, tokens);
    if (p.heads) from_heads(p, p.heads + b * p.heads_stride, tokens);
  }
}

}  // namespace

void from_template(const FromTemplateProblem& p) {
  FromTemplateProblem own = p;
  parallel_for(p.threads, p.B, 1 + kNodesOfARange / p.Q, fill_range, &own);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
