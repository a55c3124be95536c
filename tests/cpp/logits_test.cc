// SPDX-License-Identifier: Apache-2.0
// Penalties, lists and laws of logits, on memory of exactly the size that the ops may touch.
#include <doctest/doctest.h>

#include <cmath>

#include "logits_array.h"

using heap::Array;
using heap::Brain;
using heap::kVocabularies;
using heap::Logits;
using heap::Random;
using heap::text_of;

namespace {

constexpr int64_t kRows = 3, kListed = 5;

// Calls test(logits) with vocabularies around all widths, in 32 and in 16 bits.
template <class Test>
void for_logits(uint32_t seed, const Test& test) {
  Random random(seed);
  for (const int64_t V : kVocabularies) {
    for (const bool narrow : {false, true}) test(Logits(random, kRows, V, narrow));
  }
}

// Each filter in turn; 0 is none.
fewstep_logits_filters filters_of(int which) {
  fewstep_logits_filters filters = FEWSTEP_LOGITS_FILTERS_INIT;
  if (which == 1) filters.top_k = 3;
  if (which == 2) filters.top_p = 0.8f;
  if (which == 3) filters.typical = 0.6f;
  if (which == 4) filters.temperature = 0.0f;
  return filters;
}

}  // namespace

TEST_CASE("penalties touch the named logits alone") {
  for_logits(1, [](const Logits& logits) {
    const auto last = int32_t(logits.V - 1);
    const Array<int32_t> tokens({4}, {last, 0, last, -1}), indptr({kRows + 1}, {0, 0, 4, 4});
    const Array<int32_t> ids({1}, std::vector<int32_t>{last});
    const Array<float> values({1}, 0.5f);
    Array<float> wide({kRows, logits.V});
    Array<Brain> narrow({kRows, logits.V});
    fewstep_logits_penalise_args args = FEWSTEP_LOGITS_PENALISE_ARGS_INIT;
    args.penalties.frequency = 1.0f;
    args.logits = logits.tensor();
    args.tokens = tokens.tensor();
    args.indptr = indptr.tensor();
    args.bias_ids = ids.tensor();
    args.bias_values = values.tensor();
    args.out = logits.single ? wide.tensor() : narrow.tensor();
    REQUIRE(text_of(fewstep_logits_penalise(nullptr, &args)) == "");
    if (!logits.single) return;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t v = 0; v < logits.V; ++v) {
        float wanted = logits.row(r)[v] + (v == last ? 0.5f : 0.0f);
        if (r == 1) wanted -= float((v == last ? 2 : 0) + (v == 0 ? 1 : 0));
        REQUIRE(wide[size_t(r * logits.V + v)] == wanted);
      }
    }
  });
}

TEST_CASE("the best tokens descend from the largest logit") {
  for_logits(2, [](const Logits& logits) {
    Array<int32_t> ids({kRows, kListed});
    Array<float> values({kRows, kListed}), total({kRows});
    fewstep_logits_top_k_args args = FEWSTEP_LOGITS_TOP_K_ARGS_INIT;
    args.logits = logits.tensor();
    args.ids = ids.tensor();
    args.values = values.tensor();
    args.log_normaliser = total.tensor();
    REQUIRE(text_of(fewstep_logits_top_k(nullptr, &args)) == "");
    for (int64_t r = 0; r < kRows; ++r) {
      std::vector<float> sorted(logits.row(r), logits.row(r) + logits.V);
      std::sort(sorted.rbegin(), sorted.rend());
      for (int64_t i = 0; i < std::min(kListed, logits.V); ++i) {
        const int32_t id = ids[size_t(r * kListed + i)];
        REQUIRE(values[size_t(r * kListed + i)] == sorted[size_t(i)]);
        REQUIRE(logits.row(r)[id] == sorted[size_t(i)]);
      }
      const double wanted = double(sorted[0]) - logits.log_probability(r, ids[size_t(r * kListed)]);
      REQUIRE(double(total[size_t(r)]) == doctest::Approx(wanted).epsilon(1e-5));
    }
  });
}

TEST_CASE("draws without replacement differ and keep to the vocabulary") {
  for_logits(3, [](const Logits& logits) {
    const Array<int64_t> seeds({kRows}, std::vector<int64_t>{1, 2, 3});
    const Array<int32_t> positions({kRows});
    Array<int32_t> ids({kRows, kListed});
    Array<float> perturbed({kRows, kListed}), logprobs({kRows, kListed});
    for (int which = 0; which < 5; ++which) {
      fewstep_logits_gumbel_top_k_args args = FEWSTEP_LOGITS_GUMBEL_TOP_K_ARGS_INIT;
      args.filters = filters_of(which);
      args.logits = logits.tensor();
      args.seeds = seeds.tensor();
      args.positions = positions.tensor();
      args.ids = ids.tensor();
      args.perturbed = perturbed.tensor();
      args.logprobs = logprobs.tensor();
      REQUIRE(text_of(fewstep_logits_gumbel_top_k(nullptr, &args)) == "");
      for (int64_t r = 0; r < kRows; ++r) {
        const int32_t* row = &ids[size_t(r * kListed)];
        REQUIRE(row[0] >= 0);
        for (int64_t i = 0; i < kListed; ++i) {
          REQUIRE(row[i] < logits.V);
          for (int64_t j = 0; row[i] >= 0 && j < i; ++j) REQUIRE(row[j] != row[i]);
        }
      }
    }
  });
}

TEST_CASE("a dense law and its list agree, and a code finds a token of it") {
  for_logits(4, [](const Logits& logits) {
    Array<float> dense({kRows, logits.V}), listed({kRows, kListed});
    Array<int32_t> ids({kRows, kListed}), count({kRows}), token({kRows});
    const Array<uint64_t> codes({kRows}, {0u, uint64_t(1) << 63, ~uint64_t(0)});
    Array<uint64_t> next({kRows});
    for (int which = 0; which < 5; ++which) {
      fewstep_logits_renorm_args law = FEWSTEP_LOGITS_RENORM_ARGS_INIT;
      law.filters = filters_of(which);
      law.logits = logits.tensor();
      law.out = dense.tensor();
      law.ids = ids.tensor();
      law.probabilities = listed.tensor();
      law.count = count.tensor();
      REQUIRE(text_of(fewstep_logits_renorm(nullptr, &law)) == "");
      fewstep_logits_sample_arithmetic_args args = FEWSTEP_LOGITS_SAMPLE_ARITHMETIC_ARGS_INIT;
      args.filters = law.filters;
      args.logits = logits.tensor();
      args.codes = codes.tensor();
      args.out = token.tensor();
      args.next_codes = next.tensor();
      REQUIRE(text_of(fewstep_logits_sample_arithmetic(nullptr, &args)) == "");
      for (int64_t r = 0; r < kRows; ++r) {
        double sum = 0.0;
        for (int64_t v = 0; v < logits.V; ++v) sum += double(dense[size_t(r * logits.V + v)]);
        REQUIRE(sum == doctest::Approx(1.0).epsilon(1e-5));
        for (int64_t i = 0; i < std::min<int64_t>(kListed, count[size_t(r)]); ++i) {
          const auto at = size_t(r * kListed + i);
          REQUIRE(listed[at] == dense[size_t(r * logits.V + ids[at])]);
        }
        REQUIRE(dense[size_t(r * logits.V + token[size_t(r)])] > 0.0f);
      }
    }
  });
}
