// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <fewstep/budget.hpp>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace fewstep;

namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;
using Seconds = std::vector<double>;
using Kept = std::vector<std::vector<uint8_t>>;

// A call takes 7/8 of a second, and 1/8 for each row.
draft::CallCost eighths() {
  draft::CallCost cost;
  cost.add(1, 1.0);
  cost.add(9, 2.0);
  return cost;
}

// Drafts a node that is counted by its number 1, which is accepted or not, and verifies it.
draft::Budget::Best call(draft::Budget& budget, draft::CallCost& cost, bool accepted) {
  const Ints parent{-1, 0}, index{0, 1}, path(accepted ? 1 : 0, 1);
  const std::vector<draft::Nodes> drafts{{parent, {}, index, path}};
  budget.cut(cost, drafts);
  return budget.learn(drafts, 1);
}

}  // namespace

TEST_CASE("a curve is straight between the better calls of each size, and on beyond them") {
  draft::CallCost cost;
  CHECK(cost.curve(3).empty());
  cost.add(1, 2.0);
  CHECK(cost.curve(3).empty());
  cost.add(3, 3.0);
  CHECK(cost.curve(5) == Seconds{1.5, 2.0, 2.5, 3.0, 3.5, 4.0});
  CHECK(cost.curve(0) == Seconds{1.5});
  cost.add(1, 1.0);
  CHECK(cost.curve(4) == Seconds{0.0, 1.0, 2.0, 3.0, 4.0});
  CHECK(cost.count(1) == 2);
  CHECK(cost.count(3) == 1);
  CHECK(cost.count(2) == 0);
  // Five rows took less than three, which were slow for some other reason.
  cost.add(5, 2.5);
  CHECK(cost.curve(6) == Seconds{0.625, 1.0, 1.75, 2.5, 2.5, 2.5, 2.875});
  // Between sizes with two calls the only call of three rows counts no more.
  cost.add(5, 2.5);
  CHECK(cost.curve(5) == Seconds{0.625, 1.0, 1.375, 1.75, 2.125, 2.5});
  // A row of the only call of nine takes no longer than one of five.
  cost.add(9, 9.0);
  CHECK(cost.curve(9) == Seconds{0.5625, 1.0, 1.375, 1.75, 2.125, 2.5, 3.0, 3.5, 4.0, 4.5});
  // Rows that cost nothing do not go on for ever.
  draft::CallCost flat;
  flat.add(4, 4.0);
  flat.add(8, 4.0);
  CHECK(flat.curve(8) == Seconds(9, 4.0));
  CHECK(flat.curve(12).back() == doctest::Approx(4.0 + 0.1 * 4.0 / 8 * 4).epsilon(1e-12));
}

TEST_CASE("of a size eight calls count") {
  draft::CallCost cost;
  for (int i = 1; i <= 20; ++i) cost.add(1, i);
  CHECK(cost.count(1) == 8);
  cost.add(2, 19.0);
  CHECK(cost.curve(2) == Seconds{11.0, 15.0, 19.0});  // of 13, 14, .. 20 the third
}

TEST_CASE("nodes are kept as long as they pay, a child no more likely than its parent") {
  draft::CallCost cost = eighths();
  draft::Budget budget;
  // Chances of 1/2, 1/4, 1/2, 1/4 and 1/16: rates of 1 / 1, 1.5 / 1.125, 2 / 1.25, 2.25 / 1.375 and
  // 2.5 / 1.5 grow, and 2.5625 / 1.625 is less.
  const Ints parent{-1, 0, 0, 1, 2, 1}, accepted{1, 3};
  const Floats score{1.0f, 0.5f, 0.25f, 0.5f, 0.75f, 0.0625f};
  const std::vector<draft::Nodes> drafts{{parent, score, {}, accepted}};
  const draft::Budget::Cut cut = budget.cut(cost, drafts);
  CHECK(cut.kept == Kept{{1, 1, 1, 1, 1, 0}});
  CHECK(cut.wanted == 4);
  const draft::Budget::Best best = budget.learn(drafts, 1);
  CHECK(best.tokens == 2.5);
  CHECK(best.seconds == 1.5);
  // No chance is above 1.
  const Ints pair{-1, 0};
  const Floats sure{1.0f, 1.5f};
  const std::vector<draft::Nodes> one{{pair, sure}};
  CHECK(budget.cut(cost, one).wanted == 1);
  CHECK(budget.learn(one, 1).tokens == 2.0);
}

TEST_CASE("drafting is a part of what a call takes, and so are rows that run in any case") {
  draft::CallCost cost = eighths();
  draft::Budget budget;
  const Ints parent{-1, 0, 1};
  const Floats score{1.0f, 0.25f, 0.125f};
  const std::vector<draft::Nodes> drafts{{parent, score}};
  fewstep_budget_cut_params params = draft::cut_params();
  params.batch = 4;
  params.rows = 6;  // 4 tokens in 1.625 seconds: 1/4 of one for 1/8 of one does not pay
  draft::Budget::Cut cut = budget.cut(cost, drafts, params);
  CHECK(cut.kept == Kept{{1, 0, 0}});
  CHECK(cut.wanted == 0);
  draft::Budget::Best best = budget.learn(drafts, 4);
  CHECK(best.tokens == 4.0);
  CHECK(best.seconds == 1.625);
  params.batch = 1;
  params.drafting = 1.0;  // of two drafts the shorter counts, which took no time
  CHECK(budget.cut(cost, drafts, params).wanted == 2);
  best = budget.learn(drafts, 1);
  CHECK(best.seconds == 1.875);
  CHECK(budget.cut(cost, drafts, params).wanted == 2);
  best = budget.learn(drafts, 1);
  CHECK(best.seconds == 2.875);
}

TEST_CASE("of equally likely nodes the first stay, and nothing is expected without drafts") {
  draft::CallCost cost;
  cost.add(2, 1.0);
  cost.add(5, 1.0);
  cost.add(6, 9.0);  // up to three nodes are for nothing
  draft::Budget budget;
  const Ints parent{-1, 0, 0};
  const Floats score{1.0f, 0.5f, 0.5f};
  fewstep_budget_cut_params params = draft::cut_params();
  params.batch = params.rows = 2;
  const std::vector<draft::Nodes> drafts{{parent, score}, {parent, score}};
  const draft::Budget::Cut cut = budget.cut(cost, drafts, params);
  CHECK(cut.kept == Kept{{1, 1, 1}, {1, 1, 0}});
  CHECK(cut.wanted == 3);
  const draft::Budget::Cut none = budget.cut(cost, {}, params);
  CHECK(none.kept.empty());
  CHECK(none.wanted == 0);
  const draft::Budget::Best best = budget.learn({}, 2);
  CHECK(best.tokens == 0.0);
  CHECK(best.seconds == 0.0);
}

TEST_CASE("chances are what was counted, and doubt makes it count an eighth") {
  draft::CallCost cost = eighths();
  draft::Budget budget;
  // Half a hit in one trial at first; a call fades what was counted to 0.99 of it.
  CHECK(call(budget, cost, true).tokens == 1.5);
  CHECK(call(budget, cost, false).tokens == doctest::Approx(1.75).epsilon(1e-12));
  const double before = call(budget, cost, false).tokens;
  CHECK(before == doctest::Approx(1 + (0.5 + 0.99) / (1 + 1 + 0.99)).epsilon(1e-12));
  budget.doubt();
  const double hits = 0.99 * 0.99 / 8, trials = (1 + 0.99 + 0.99 * 0.99) / 8;
  const double after = call(budget, cost, false).tokens;
  CHECK(after == doctest::Approx(1 + (0.5 + hits) / (1 + trials)).epsilon(1e-12));
  for (int i = 0; i < 5; ++i) call(budget, cost, false);
  // A chance below 1/8 does not pay: none is verified, and the best call is one without.
  const draft::Budget::Best best = call(budget, cost, false);
  CHECK(best.tokens == 1.0);
  CHECK(best.seconds == 1.0);
}

TEST_CASE("scores are trusted less where they promised too much, and again after doubt") {
  draft::CallCost cost = eighths();
  draft::Budget budget;
  const Ints parent{-1, 0};
  const Floats score{1.0f, 0.13f};  // pays by a little
  const std::vector<draft::Nodes> drafts{{parent, score}};
  CHECK(budget.cut(cost, drafts).wanted == 1);
  budget.learn(drafts, 1);
  CHECK(budget.cut(cost, drafts).wanted == 0);
  budget.doubt();
  CHECK(budget.cut(cost, drafts).wanted == 1);
}

TEST_CASE("a trial verifies what does not pay, until calls of the size were measured") {
  draft::CallCost cost = eighths();
  draft::Budget budget;
  const Ints parent{-1, 0, 1, 2, 3};
  const Floats score(5, 0.0625f);
  const std::vector<draft::Nodes> drafts{{parent, score}};
  fewstep_budget_cut_params params = draft::cut_params();
  CHECK(budget.cut(cost, drafts, params).wanted == 0);
  params.trial = 1;
  CHECK(budget.cut(cost, drafts, params).wanted == 3);
  for (int i = 0; i < 3; ++i) cost.add(4, 2.0);         // more than half as much again as without
  CHECK(budget.cut(cost, drafts, params).wanted == 1);  // 4/3 seconds, and 2 would take 5/3
}

TEST_CASE("wrong drafts are errors of C++") {
  draft::CallCost cost;
  draft::Budget budget;
  const Ints parent{-1, 0, 2}, chain{-1, 0, 1}, two{0, 1}, path{1, 3};
  const Floats score{1.0f, 0.5f};
  const auto cut = [&](const draft::Nodes& nodes) {
    budget.cut(cost, std::vector<draft::Nodes>{nodes});
  };
  CHECK_THROWS_WITH_AS(cut({parent}), "fewstep_budget_cut: 'parent' must lie in [0, 1], got 2",
                       error);
  CHECK_THROWS_WITH_AS(cut({}), "fewstep_budget_cut: 'nodes' must be 1 or more, got 0", error);
  CHECK_THROWS_WITH_AS(
      cut({chain, score}),
      "fewstep::draft::Nodes: 'score' must have a number of each of 3 nodes, got 2", error);
  CHECK_THROWS_WITH_AS(
      cut({chain, {}, two}),
      "fewstep::draft::Nodes: 'index' must have a number of each of 3 nodes, got 2", error);
  CHECK_THROWS_WITH_AS(budget.learn(std::vector<draft::Nodes>{{chain, {}, {}, path}}, 1),
                       "fewstep_budget_learn: 'path' must lie in [0, 2], got 3", error);
  CHECK_THROWS_WITH_AS(budget.learn({}, 0),
                       "fewstep_budget_learn: 'batch' must be 1 or more, got 0", error);
  fewstep_budget_cut_params params = draft::cut_params();
  params.batch = 0;
  CHECK_THROWS_WITH_AS(budget.cut(cost, {}, params),
                       "fewstep_budget_cut: 'batch' must be 1 or more, got 0", error);
  params.batch = 1;
  params.rows = (1 << 24) - 2;
  CHECK_THROWS_WITH_AS(budget.cut(cost, std::vector<draft::Nodes>{{chain}}, params),
                       "fewstep_budget_cut: 'rows' must lie in [1, 16777213], got 16777214", error);
  CHECK_THROWS_WITH_AS(cost.add(0, 1.0),
                       "fewstep_call_cost_add: 'rows' must lie in [1, 16777216], got 0", error);
  CHECK_THROWS_WITH_AS(cost.add(1, std::numeric_limits<double>::infinity()),
                       "fewstep_call_cost_add: 'seconds' must be finite, got inf", error);
  CHECK(cost.count(1) == 0);
  CHECK_THROWS_WITH_AS(cost.curve(-1),
                       "fewstep_call_cost_curve: 'most' must lie in [0, 16777216], got -1", error);
}

namespace {

// A failed call's message.
std::string message_of(fewstep_status status) {
  CHECK(status == FEWSTEP_INVALID_ARGUMENT);
  return fewstep_last_error();
}

}  // namespace

TEST_CASE("a budget's missing arguments are errors") {
  draft::CallCost cost;
  draft::Budget owner;
  fewstep_budget* const budget = owner.get();
  const int32_t parent = -1;
  uint8_t kept = 7;
  int32_t wanted = 7, known = 7;
  double tokens = 7.0, seconds = 7.0;
  fewstep_budget_draft draft = FEWSTEP_BUDGET_DRAFT_INIT;
  fewstep_budget_cut_params params = FEWSTEP_BUDGET_CUT_PARAMS_INIT;
  const auto cut = [&] {
    return message_of(fewstep_budget_cut(budget, cost.get(), &draft, 1, &params, &wanted));
  };
  const auto learn = [&] {
    return message_of(fewstep_budget_learn(budget, &draft, 1, 1, &tokens, &seconds));
  };
  draft.size = 8;
  CHECK(cut() ==
        "fewstep_budget_cut: 'drafts' must have its size set by FEWSTEP_BUDGET_DRAFT_INIT, got 8");
  CHECK(learn() ==
        "fewstep_budget_learn: 'drafts' must have its size set by FEWSTEP_BUDGET_DRAFT_INIT, "
        "got 8");
  draft.size = sizeof draft;
  draft.nodes = 1;
  CHECK(cut() == "fewstep_budget_cut: 'parent' must not be NULL");
  draft.parent = &parent;
  CHECK(cut() == "fewstep_budget_cut: 'kept' must not be NULL");
  draft.kept = &kept;
  params.size = 4;
  CHECK(cut() ==
        "fewstep_budget_cut: 'params' must have its size set by FEWSTEP_BUDGET_CUT_PARAMS_INIT, "
        "got 4");
  params.size = sizeof params;
  params.rows = 0;
  CHECK(cut() == "fewstep_budget_cut: 'rows' must lie in [1, 16777215], got 0");
  draft.accepted = -1;
  CHECK(learn() == "fewstep_budget_learn: 'accepted' must be 0 or more, got -1");
  draft.accepted = 1;
  CHECK(learn() == "fewstep_budget_learn: 'path' must not be NULL");
  CHECK(message_of(fewstep_budget_cut(nullptr, cost.get(), &draft, 1, &params, &wanted)) ==
        "fewstep_budget_cut: 'budget' must not be NULL");
  CHECK(message_of(fewstep_budget_cut(budget, nullptr, &draft, 1, &params, &wanted)) ==
        "fewstep_budget_cut: 'cost' must not be NULL");
  CHECK(message_of(fewstep_budget_cut(budget, cost.get(), nullptr, 1, &params, &wanted)) ==
        "fewstep_budget_cut: 'drafts' must not be NULL");
  CHECK(message_of(fewstep_budget_cut(budget, cost.get(), &draft, -1, &params, &wanted)) ==
        "fewstep_budget_cut: 'count' must be 0 or more, got -1");
  CHECK(message_of(fewstep_budget_cut(budget, cost.get(), &draft, 1, nullptr, &wanted)) ==
        "fewstep_budget_cut: 'params' must not be NULL");
  params.rows = 1;
  CHECK(message_of(fewstep_budget_cut(budget, cost.get(), &draft, 1, &params, nullptr)) ==
        "fewstep_budget_cut: 'wanted' must not be NULL");
  CHECK(message_of(fewstep_budget_learn(nullptr, nullptr, 0, 1, &tokens, &seconds)) ==
        "fewstep_budget_learn: 'budget' must not be NULL");
  CHECK(message_of(fewstep_budget_learn(budget, nullptr, 0, 1, nullptr, &seconds)) ==
        "fewstep_budget_learn: 'tokens' must not be NULL");
  CHECK(message_of(fewstep_budget_learn(budget, nullptr, 0, 1, &tokens, nullptr)) ==
        "fewstep_budget_learn: 'seconds' must not be NULL");
  CHECK(message_of(fewstep_budget_doubt(nullptr)) ==
        "fewstep_budget_doubt: 'budget' must not be NULL");
  CHECK(message_of(fewstep_budget_create(nullptr)) ==
        "fewstep_budget_create: 'out' must not be NULL");
  CHECK(message_of(fewstep_call_cost_create(nullptr)) ==
        "fewstep_call_cost_create: 'out' must not be NULL");
  CHECK(message_of(fewstep_call_cost_add(nullptr, 1, 1.0)) ==
        "fewstep_call_cost_add: 'cost' must not be NULL");
  CHECK(message_of(fewstep_call_cost_curve(nullptr, 0, &seconds, &known)) ==
        "fewstep_call_cost_curve: 'cost' must not be NULL");
  CHECK(message_of(fewstep_call_cost_curve(cost.get(), 0, nullptr, &known)) ==
        "fewstep_call_cost_curve: 'seconds' must not be NULL");
  CHECK(message_of(fewstep_call_cost_curve(cost.get(), 0, &seconds, nullptr)) ==
        "fewstep_call_cost_curve: 'known' must not be NULL");
  CHECK(fewstep_call_cost_count(nullptr, 1) == 0);
  // Nothing was written.
  CHECK(int(kept) == 7);
  CHECK(wanted == 7);
  CHECK(known == 7);
  CHECK(tokens == 7.0);
  CHECK(seconds == 7.0);
  fewstep_budget_destroy(nullptr);
  fewstep_call_cost_destroy(nullptr);
}
