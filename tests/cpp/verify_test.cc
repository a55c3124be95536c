// SPDX-License-Identifier: Apache-2.0
// Verification of trees, on memory of exactly the size that the op may touch.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "logits_array.h"

using heap::Array;
using heap::below;
using heap::kVocabularies;
using heap::Logits;
using heap::Random;

namespace {

using Ints = std::vector<int32_t>;

struct Rule {
  int32_t rule, law;
  bool needs_draft, one_child;
};
constexpr Rule kRules[] = {
    {FEWSTEP_RULE_GREEDY, FEWSTEP_LAW_DETERMINISTIC, false, false},
    {FEWSTEP_RULE_MATCH, FEWSTEP_LAW_DETERMINISTIC, false, false},
    {FEWSTEP_RULE_TARGET_ONLY, FEWSTEP_LAW_DETERMINISTIC, false, false},
    {FEWSTEP_RULE_TYPICAL, FEWSTEP_LAW_DETERMINISTIC, false, false},
    {FEWSTEP_RULE_CHAIN, FEWSTEP_LAW_IID, true, true},
    {FEWSTEP_RULE_BLOCK, FEWSTEP_LAW_IID, true, true},
    {FEWSTEP_RULE_ADJUSTED_TARGET, FEWSTEP_LAW_IID, true, true},
    {FEWSTEP_RULE_RRS, FEWSTEP_LAW_IID, true, false},
    {FEWSTEP_RULE_RRS, FEWSTEP_LAW_WITHOUT_REPLACEMENT, true, false},
    {FEWSTEP_RULE_K_SEQ, FEWSTEP_LAW_IID, true, false},
    {FEWSTEP_RULE_CANONICAL, FEWSTEP_LAW_EXTERNAL_WEIGHTS, true, false},
};

// Three requests of 6, 0 and 4 nodes: chains, or trees in which any earlier node is a parent.
struct VerifyProblem {
  static constexpr int64_t N = 10, B = 3, D = 5;

  VerifyProblem(Random& random, int64_t V, bool narrow, const Rule& rule)
      : logits(random, N, V, narrow), draft({N, V}) {
    const int32_t ends[] = {0, 6, 6, N};
    for (size_t b = 0; b < B; ++b) {
      for (int32_t i = 0; i < ends[b + 1] - ends[b]; ++i) {
        const size_t n = size_t(ends[b] + i);
        parent[n] = i == 0 ? -1 : rule.one_child ? i - 1 : below(random, i);
        token[n] = below(random, int(V));
      }
      seeds[b] = random();
      positions[b] = 3;
    }
    // Children in the order of their parents: the list of draws.
    size_t listed = 0;
    for (size_t b = 0; b < B; ++b) {
      for (int32_t i = ends[b]; i < ends[b + 1]; ++i) {
        for (int32_t j = ends[b]; j < ends[b + 1]; ++j) {
          if (parent[size_t(j)] == i - ends[b]) draw_node[listed++] = j - ends[b];
        }
        draw_indptr[size_t(i) + 1] = int32_t(listed);
      }
    }
    for (size_t n = 0; n < size_t(N); ++n) {
      double sum = 0.0;
      std::vector<double> weights;
      for (int64_t v = 0; v < V; ++v) {
        weights.push_back(0.1 + below(random, 9));
        sum += weights.back();
      }
      for (int64_t v = 0; v < V; ++v)
        draft[n * size_t(V) + size_t(v)] = float(weights[size_t(v)] / sum);
    }
    set(rule);
  }
  void set(const Rule& rule) {
    args.rule = rule.rule;
    args.law = rule.law;
    args.parent = parent.tensor();
    args.indptr = indptr.tensor();
    args.token = token.tensor();
    args.logits = logits.tensor();
    args.seeds = seeds.tensor();
    args.positions = positions.tensor();
    if (rule.needs_draft) {
      args.draft = draft.tensor();
      args.draw_indptr = draw_indptr.tensor();
      args.draw_node = draw_node.tensor();
      args.draw_weight = draw_weight.tensor();
    }
    args.path = path.tensor();
    args.accepted = accepted.tensor();
    args.next_token = next_token.tensor();
    args.logprobs = logprobs.tensor();
    args.status = status.tensor();
  }
  std::string run() { return heap::text_of(fewstep_tree_verify(nullptr, &args)); }

  // Follows the path and compares the log-probabilities of what it emits.
  void check(int64_t b) const {
    const int32_t count = accepted[size_t(b)], first = indptr[size_t(b)];
    int32_t node = 0;
    for (int32_t d = 0; d <= count; ++d) {
      const int32_t child = d < count ? path[size_t(b * D + d)] : -1;
      if (d < count) REQUIRE(parent[size_t(first + child)] == node);
      const int32_t emitted = d < count ? token[size_t(first + child)] : next_token[size_t(b)];
      REQUIRE(emitted >= 0);
      REQUIRE(emitted < logits.V);
      REQUIRE(double(logprobs[size_t(b * (D + 1) + d)]) ==
              doctest::Approx(logits.log_probability(first + node, emitted)).epsilon(1e-5));
      node = child;
    }
    for (int32_t d = count; d < D; ++d) REQUIRE(path[size_t(b * D + d)] == -1);
  }
  // The nodes whose tokens are the best of their parents' rows.
  Ints greedy(int64_t b) const {
    Ints found;
    const int32_t first = indptr[size_t(b)], size = indptr[size_t(b + 1)] - first;
    for (int32_t node = 0, i = 1; i < size; ++i) {
      const float* row = logits.row(first + node);
      const auto best = std::max_element(row, row + logits.V) - row;
      if (parent[size_t(first + i)] != node || token[size_t(first + i)] != best) continue;
      found.push_back(node = i);
    }
    return found;
  }

  Logits logits;
  Array<float> draft;
  Array<int32_t> parent{{N}}, indptr{{B + 1}, {0, 6, 6, N}}, token{{N}}, positions{{B}};
  Array<uint64_t> seeds{{B}};
  Array<int32_t> draw_indptr{{N + 1}}, draw_node{{N - 2}};
  Array<float> draw_weight{{N - 2}, 0.5f};
  Array<int32_t> path{{B, D}, -7}, accepted{{B}, -7}, next_token{{B}, -7}, status{{B}, -7};
  Array<float> logprobs{{B, D + 1}};
  fewstep_tree_verify_args args = FEWSTEP_TREE_VERIFY_ARGS_INIT;
};

}  // namespace

TEST_CASE("every rule emits a path of the tree and a token") {
  Random random(4);
  for (const Rule& rule : kRules) {
    int64_t accepted = 0;
    for (const int64_t V : kVocabularies) {
      for (const bool narrow : {false, true}) {
        VerifyProblem problem(random, V, narrow, rule);
        REQUIRE(problem.run() == "");
        for (const int64_t b : {0, 2}) {
          problem.check(b);
          accepted += problem.accepted[size_t(b)];
          if (rule.rule != FEWSTEP_RULE_GREEDY) continue;
          const Ints wanted = problem.greedy(b);
          REQUIRE(problem.accepted[size_t(b)] == int32_t(wanted.size()));
          for (size_t d = 0; d < wanted.size(); ++d)
            REQUIRE(problem.path[size_t(b * VerifyProblem::D) + d] == wanted[d]);
        }
        REQUIRE(problem.accepted[1] == 0);
        REQUIRE(problem.next_token[1] == -1);
      }
    }
    CHECK(accepted > 0);
  }
}

TEST_CASE("a rule that is not lossless for the law is refused") {
  Random random(5);
  VerifyProblem problem(random, 7, false,
                        {FEWSTEP_RULE_K_SEQ, FEWSTEP_LAW_WITHOUT_REPLACEMENT, true, false});
  CHECK(problem.run() ==
        "fewstep_tree_verify: 'rule' must be one of greedy, match, target_only, chain, rrs, block, "
        "typical, adjusted_target for drafts of law without_replacement, got k_seq");
  CHECK(problem.path.values() == Ints(15, -7));
}
