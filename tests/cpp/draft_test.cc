// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <fewstep/draft.hpp>
#include <string>
#include <vector>

using namespace fewstep;

TEST_CASE("a text is looked up") {
  draft::Ngram text(1, 3);
  text.append(std::vector<int32_t>{5, 6, 7, 8, 5, 6});
  CHECK(text.size() == 6);
  const draft::Tree tree = text.propose(3);
  CHECK(tree.token == std::vector<int32_t>{6, 7, 8, 5});
  CHECK(tree.parent == std::vector<int32_t>{-1, 0, 1, 2});
  CHECK(text.propose(std::vector<int32_t>{}, 3, 1, 8).token.empty());
  CHECK_THROWS_WITH_AS(text.append(std::vector<int32_t>{1, -1}),
                       "fewstep_ngram_append: 'tokens' must be 0 or more, got -1 at 1", error);
  CHECK(text.size() == 6);
}

TEST_CASE("tri-grams are counted and searched") {
  draft::Trigram counts;
  counts.observe(std::vector<int32_t>{1, 2, 3, 1, 2, 3, 1, 2, 4});
  CHECK(counts.count(1, 2, 3) == 2);
  CHECK(counts.states() == 3);
  const draft::Tree tree = counts.propose(std::vector<int32_t>{1, 2}, 4);
  CHECK(tree.token == std::vector<int32_t>{2, 3, 1, 2});
  CHECK_THROWS_WITH_AS(counts.observe(std::vector<int32_t>{-7}),
                       "fewstep_trigram_observe: 'tokens' must be 0 or more, got -7 at 0", error);
}

TEST_CASE("a text is read, rows are kept, and a tree grows best first") {
  draft::Recycler table(2, 2);
  table.read(std::vector<int32_t>{5, 6, 7, 8, 5, 6});
  CHECK(table.contexts() == 8);
  draft::ScoredTree tree = table.propose(std::vector<int32_t>{5, 6}, 3);
  CHECK(tree.token == std::vector<int32_t>{6, 7, 8});
  CHECK(tree.parent == std::vector<int32_t>{-1, 0, 1});
  CHECK(tree.score == std::vector<float>{1.0f, 0.7f, 0.7f * 0.7f});
  // Two trees, with one accepted node and none; the paths lie 3 apart.
  const std::vector<int32_t> token{6, 7, 8}, parent{-1, 0, -1}, indptr{0, 2, 3}, context{5, -1};
  const std::vector<int32_t> ids{9, 7, 4, -1, 2, 3}, path{1, 0, 0, 0, 0, 0}, accepted{1, 0};
  const std::vector<int32_t> next_token{4, -1};
  const std::vector<float> logits{1, 0, 1, 0, 0, 0};
  fewstep_recycler_rows rows = FEWSTEP_RECYCLER_ROWS_INIT;
  rows.trees = 2;
  rows.rows = 3;
  rows.depth = 1;
  rows.token = token.data();
  rows.parent = parent.data();
  rows.indptr = indptr.data();
  rows.context = context.data();
  rows.ids = ids.data();
  rows.logits = logits.data();
  rows.path = path.data();
  rows.path_stride = 3;
  rows.accepted = accepted.data();
  rows.next_token = next_token.data();
  table.observe(rows);
  CHECK(table.contexts() == 8);  // all had been read
  tree = table.propose(std::vector<int32_t>{6, 7}, 2);
  CHECK(tree.token == std::vector<int32_t>{7, 4});
  tree =
      table.propose(std::vector<int32_t>{6, 8}, 8, {sizeof(fewstep_recycler_propose_params), 1, 0});
  CHECK(tree.token == std::vector<int32_t>{8, 2, 3});
  CHECK(tree.score == std::vector<float>{1.0f, 0.35f, 0.35f});
  rows.depth = 0;
  CHECK_THROWS_WITH_AS(table.observe(rows),
                       "fewstep_recycler_observe: 'accepted' must lie in [0, 0], got 1 at 0",
                       error);
  CHECK(table.propose(std::vector<int32_t>{}).score.empty());
}

TEST_CASE("a recycler's missing arguments are errors") {
  CHECK(fewstep_recycler_create(1, 1, 1, nullptr) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_recycler_contexts(nullptr) == 0);
  CHECK(fewstep_recycler_read(nullptr, nullptr, 0) == FEWSTEP_INVALID_ARGUMENT);
  fewstep_recycler* made = nullptr;
  REQUIRE(fewstep_recycler_create(2, 1, 1, &made) == FEWSTEP_OK);
  CHECK(fewstep_recycler_read(made, nullptr, 1) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_recycler_observe(made, nullptr) == FEWSTEP_INVALID_ARGUMENT);
  fewstep_recycler_rows rows = FEWSTEP_RECYCLER_ROWS_INIT;
  CHECK(fewstep_recycler_observe(made, &rows) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) == "fewstep_recycler_observe: 'indptr' must not be NULL");
  rows.size = 8;
  CHECK(fewstep_recycler_observe(made, &rows) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) ==
        "fewstep_recycler_observe: 'rows' must have its size set by FEWSTEP_RECYCLER_ROWS_INIT, "
        "got 8");
  const int32_t root = 3;
  int32_t token = 0, parent = 0, nodes = 0;
  fewstep_recycler_propose_params params = FEWSTEP_RECYCLER_PROPOSE_PARAMS_INIT;
  CHECK(fewstep_recycler_propose(made, &root, 1, &params, &token, &parent, nullptr, 1, &nodes) ==
        FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) == "fewstep_recycler_propose: 'score' must not be NULL");
  params.size = 0;
  float score = 0;
  CHECK(fewstep_recycler_propose(made, &root, 1, &params, &token, &parent, &score, 1, &nodes) ==
        FEWSTEP_INVALID_ARGUMENT);
  fewstep_recycler_destroy(made);
  fewstep_recycler_destroy(nullptr);
}

TEST_CASE("a model is asked where a recycler does not know") {
  draft::Recycler table(1, 2);
  table.read(std::vector<int32_t>{5, 6, 7});
  draft::Cascade tree(table, 6);
  tree.begin(std::vector<int32_t>{9, 5});
  fewstep_cascade_question question = tree.ask(1);
  const auto list = [](const int32_t* first, int32_t count) {
    return std::vector<int32_t>(first, first + count);
  };
  // 6 has a chance of 0.7, 7 of 0.49; nothing is known behind 7.
  CHECK(list(question.run, question.runs) == std::vector<int32_t>{0, 1, 2});
  CHECK(list(question.token, question.runs) == std::vector<int32_t>{5, 6, 7});
  CHECK(list(question.parent, question.runs) == std::vector<int32_t>{-1, 0, 1});
  CHECK(list(question.asked, question.asks) == std::vector<int32_t>{2});
  CHECK(question.chance == 0.7f * 0.7f);
  const std::vector<int32_t> ids{5, 8, -1};
  const std::vector<float> logp{std::log(0.5f), std::log(0.25f), 0.0f};
  const float chance = 0.49f;
  // 5 with half of it, and 6 and 7 behind that; 8 with a quarter finds no room.
  CHECK(tree.answer(2, ids, logp) == doctest::Approx(chance * 0.5f * (1 + 0.7f + 0.49f)));
  CHECK(tree.take().token == std::vector<int32_t>{5, 6, 7, 5, 6, 7});
  CHECK(tree.take(4).parent == std::vector<int32_t>{-1, 0, 1, 2});
  CHECK_THROWS_WITH_AS(
      tree.answer(2, ids, logp),
      "fewstep_cascade_answer: 'node' must be one that was asked and not answered, got 2", error);
  question = tree.ask(8);  // 6 and 5 have the rest of what they lost to their children
  CHECK(question.asked[0] == 0);
}

TEST_CASE("a cascade's missing arguments are errors") {
  fewstep_cascade* made = nullptr;
  CHECK(fewstep_cascade_create(nullptr, 1, &made) == FEWSTEP_INVALID_ARGUMENT);
  const draft::Recycler table(1, 1);
  CHECK(fewstep_cascade_create(table.get(), 1, nullptr) == FEWSTEP_INVALID_ARGUMENT);
  REQUIRE(fewstep_cascade_create(table.get(), 1, &made) == FEWSTEP_OK);
  CHECK(fewstep_cascade_begin(made, nullptr, 0, nullptr) == FEWSTEP_INVALID_ARGUMENT);
  fewstep_cascade_question question = FEWSTEP_CASCADE_QUESTION_INIT;
  CHECK(fewstep_cascade_ask(made, 1, 0.0f, nullptr) == FEWSTEP_INVALID_ARGUMENT);
  question.size = 8;
  CHECK(fewstep_cascade_ask(made, 1, 0.0f, &question) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) ==
        "fewstep_cascade_ask: 'out' must have its size set by FEWSTEP_CASCADE_QUESTION_INIT, got "
        "8");
  const int32_t id = 0;
  const float logp = 0.0f;
  float gained = 0.0f;
  CHECK(fewstep_cascade_answer(made, 0, &id, &logp, 1, &gained) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_cascade_answer(made, 0, &id, &logp, 0, &gained) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_cascade_answer(made, 0, nullptr, &logp, 1, &gained) == FEWSTEP_INVALID_ARGUMENT);
  int32_t token = 0, parent = 0, nodes = 0;
  CHECK(fewstep_cascade_take(made, &token, &parent, nullptr, 1, &nodes) ==
        FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_cascade_take(nullptr, &token, &parent, &gained, 1, &nodes) ==
        FEWSTEP_INVALID_ARGUMENT);
  fewstep_cascade_destroy(made);
  fewstep_cascade_destroy(nullptr);
}

TEST_CASE("missing arguments are errors") {
  CHECK(fewstep_ngram_create(1, 1, nullptr) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_ngram_append(nullptr, nullptr, 0) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_ngram_size(nullptr) == 0);
  CHECK(fewstep_trigram_create(nullptr) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_trigram_states(nullptr) == 0);
  CHECK(fewstep_trigram_count(nullptr, 0, 0, 0) == 0);
  draft::Ngram text;
  fewstep_ngram* made = nullptr;
  REQUIRE(fewstep_ngram_create(1, 1, &made) == FEWSTEP_OK);
  CHECK(fewstep_ngram_append(made, nullptr, 1) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_ngram_append(made, nullptr, -1) == FEWSTEP_INVALID_ARGUMENT);
  fewstep_ngram_destroy(made);
  fewstep_ngram_destroy(nullptr);
  fewstep_trigram_destroy(nullptr);
}
