// SPDX-License-Identifier: Apache-2.0
// Tokens from logits, on memory of exactly the size that the op may touch.
#include <doctest/doctest.h>

#include "logits_array.h"

using heap::Array;
using heap::below;
using heap::kVocabularies;
using heap::Logits;
using heap::Random;

namespace {

using Ints = std::vector<int32_t>;

bool is_allowed(const Array<uint32_t>& words, int64_t row_words, int64_t r, int32_t v) {
  return words[size_t(r * row_words + v / 32)] >> (v % 32) & 1u;
}

constexpr int64_t kRows = 3;

struct SampleProblem {
  SampleProblem(Random& random, int64_t V, bool narrow)
      : logits(random, kRows, V, narrow), words({kRows, (V + 31) / 32}) {
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t v = 0; v < V; ++v) {
        if (below(random, 2) || v == V - 1)
          words[size_t(r * ((V + 31) / 32) + v / 32)] |= 1u << (v % 32);
      }
      seeds[size_t(r)] = int64_t(random());
      positions[size_t(r)] = int32_t(r);
    }
    args.logits = logits.tensor();
    args.seeds = seeds.tensor();
    args.positions = positions.tensor();
    args.out = out.tensor();
    args.logprobs = logprobs.tensor();
    args.status = status.tensor();
  }
  std::string run() { return heap::text_of(fewstep_logits_sample(nullptr, &args)); }

  Logits logits;
  Array<uint32_t> words;
  Array<int64_t> seeds{{kRows}};
  Array<int32_t> positions{{kRows}}, out{{kRows}, -7}, status{{kRows}, -7};
  Array<float> logprobs{{kRows}};
  fewstep_logits_sample_args args = FEWSTEP_LOGITS_SAMPLE_ARGS_INIT;
};

}  // namespace

TEST_CASE("a sampled token has the log-probability of its law") {
  Random random(1);
  for (const int64_t V : kVocabularies) {
    for (const bool narrow : {false, true}) {
      SampleProblem problem(random, V, narrow);
      // Which of equal logits are among the k largest does not matter to the sum.
      for (const int32_t top_k : {0, 1, 5}) {
        problem.args.filters.top_k = top_k;
        for (uint32_t draw = 0; draw < 20; ++draw) {
          problem.args.draw = draw;
          REQUIRE(problem.run() == "");
          for (int64_t r = 0; r < kRows; ++r) {
            const int32_t token = problem.out[size_t(r)];
            REQUIRE(problem.status[size_t(r)] == FEWSTEP_LOGITS_FINE);
            REQUIRE(token >= 0);
            REQUIRE(token < V);
            const double wanted = problem.logits.log_probability(r, token, top_k);
            REQUIRE(double(problem.logprobs[size_t(r)]) == doctest::Approx(wanted).epsilon(1e-5));
          }
        }
      }
    }
  }
}

TEST_CASE("every filter and a mask keep to the vocabulary") {
  Random random(2);
  for (const int64_t V : kVocabularies) {
    for (const bool narrow : {false, true}) {
      for (int filter = 0; filter < 5; ++filter) {
        SampleProblem problem(random, V, narrow);
        problem.args.bitmask = problem.words.tensor();
        fewstep_logits_filters& filters = problem.args.filters;
        filters.temperature = filter == 0 ? 0.0f : 0.7f;
        if (filter == 1) filters.top_p = 0.8f;
        if (filter == 2) filters.min_p = 0.2f;
        if (filter == 3) filters.typical = 0.6f;
        if (filter == 4) filters.eta = 0.01f;
        REQUIRE(problem.run() == "");
        for (int64_t r = 0; r < kRows; ++r) {
          const int32_t token = problem.out[size_t(r)];
          REQUIRE(token >= 0);
          REQUIRE(token < V);
          REQUIRE(is_allowed(problem.words, (V + 31) / 32, r, token));
          REQUIRE(problem.logprobs[size_t(r)] <= 1e-6f);
        }
      }
    }
  }
}

TEST_CASE("a mask of too few words is refused") {
  Random random(3);
  SampleProblem problem(random, 33, false);
  const Array<uint32_t> words({kRows, 1}, ~0u);
  problem.args.bitmask = words.tensor();
  CHECK(
      problem.run() ==
      "fewstep_logits_sample: 'bitmask' must have 2 words in a row, one bit for each token, got 1");
  CHECK(problem.out.values() == Ints(kRows, -7));
}
