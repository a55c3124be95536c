// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <fewstep/draft.hpp>
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
