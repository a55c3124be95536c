// SPDX-License-Identifier: Apache-2.0
// What CUDA kernels of logits make of numbers and ids that nobody could check before: they lie on
// the device. Here their code runs on the CPU, past the checks of the C functions.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#define FEWSTEP_ISA cuda_on_host
#include "logits/cuda/penalise.cu"
#include "logits/cuda/sample.cu"

namespace logits = fewstep::logits;

namespace {

constexpr int32_t kFar = std::numeric_limits<int32_t>::max();

// Tokens of 64 rows with the same logits and filters.
std::vector<int32_t> drawn(const logits::Filters& filters) {
  constexpr int64_t kRows = 64, kTokens = 50;
  std::vector<float> row(kTokens);
  std::vector<uint64_t> seeds(kRows);
  std::vector<int32_t> positions(kRows), out(kRows);
  for (int64_t v = 0; v < kTokens; ++v) row[v] = static_cast<float>(v * 7 % kTokens) * 0.1f;
  std::iota(seeds.begin(), seeds.end(), 1);
  logits::SampleProblem p{};
  p.rows = {
      kRows, kTokens, reinterpret_cast<const char*>(row.data()), 0, fewstep::DType::kF32, nullptr,
      0,     filters};
  p.draws = {seeds.data(), 1, positions.data(), 1, 8, 0};
  p.out = out.data();
  p.out_stride = 1;
  logits::cuda_on_host::sample(p);
  return out;
}

template <class T>
std::vector<int32_t> drawn_with(logits::PerRow<T> logits::Filters::* filter, T value) {
  logits::Filters filters;
  filters.*filter = {&value, 0, T(0)};
  return drawn(filters);
}

}  // namespace

TEST_CASE("filters are cut to their ranges, and NaN turns them off") {
  using logits::Filters;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> all = drawn({}), best = drawn_with(&Filters::temperature, 0.0f);
  CHECK(all != best);
  CHECK(drawn_with(&Filters::temperature, -3.0f) == best);
  CHECK(drawn_with(&Filters::temperature, std::numeric_limits<float>::infinity()) ==
        drawn_with(&Filters::temperature, std::numeric_limits<float>::max()));
  CHECK(drawn_with(&Filters::top_k, -5) == all);
  CHECK(drawn_with(&Filters::top_k, kFar) == all);
  CHECK(drawn_with(&Filters::top_p, -1.0f) == best);
  CHECK(drawn_with(&Filters::top_p, 2.0f) == all);
  CHECK(drawn_with(&Filters::min_p, -1.0f) == all);
  CHECK(drawn_with(&Filters::min_p, 7.0f) == best);
  CHECK(drawn_with(&Filters::typical, 1.5f) == all);
  CHECK(drawn_with(&Filters::eta, -1.0f) == all);
  for (const auto filter :
       {&Filters::temperature, &Filters::top_p, &Filters::min_p, &Filters::typical, &Filters::eta})
    CHECK(drawn_with(filter, kNaN) == all);
}

TEST_CASE("penalise passes over ids that are no tokens, and rows that are not in the list") {
  const std::vector<float> row(8, 1.0f);
  const std::vector<int32_t> tokens{1, 8, kFar, -1, 2, 2}, counts{1, 1, 1, 1, -4, 3};
  std::vector<float> out(8);
  const auto penalise = [&](std::vector<int32_t> indptr) {
    logits::PenaliseProblem p{};
    p.R = 1;
    p.V = 8;
    p.logits = reinterpret_cast<const char*>(row.data());
    p.out = reinterpret_cast<char*>(out.data());
    p.history = {6, tokens.data(), 1, indptr.data(), 1};
    p.counts = counts.data();
    p.counts_stride = 1;
    p.repetition = {nullptr, 0, 1.0f};
    p.frequency = {nullptr, 0, 1.0f};
    logits::cuda_on_host::penalise(p);
    return out;
  };
  CHECK(penalise({0, 6}) == std::vector<float>{1, 0, -2, 1, 1, 1, 1, 1});
  CHECK(penalise({0, 9}) == std::vector<float>{1, 0, -2, 1, 1, 1, 1, 1});
  CHECK(penalise({4, kFar}) == std::vector<float>{1, 1, -2, 1, 1, 1, 1, 1});
  CHECK(penalise({-1, 6}) == row);
  CHECK(penalise({6, 2}) == row);
}
