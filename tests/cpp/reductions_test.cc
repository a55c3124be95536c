// SPDX-License-Identifier: Apache-2.0
// The solver family's reductions against plain loops in float64, on memory of exactly their size.
// Their elements are quarters, so that sums of products are exact in any order.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "heap_array.h"

using heap::Array;
using heap::Brain;
using heap::Random;

namespace {

constexpr int64_t kBatch = 3;
constexpr int64_t kSizes[] = {1, 5, 16, 100, 4096, 4097, 9001};

Array<int64_t> workspace(int64_t bytes) { return Array<int64_t>({bytes / 8}); }

std::vector<Brain> narrowed(const std::vector<float>& values) {
  std::vector<Brain> narrow;
  for (const float value : values) narrow.push_back(Brain::of(value));
  return narrow;
}

}  // namespace

TEST_CASE("gram is exact where its sums are") {
  Random random(1);
  for (const int64_t N : kSizes) {
    for (int K = 1; K <= 4; ++K) {
      // The first array alone, in 16 bits; the others in one tensor.
      const std::vector<float> values = heap::quarters(random, size_t(K * kBatch * N), 8);
      const std::vector<float> head(values.begin(), values.begin() + kBatch * N);
      const Array<Brain> first({kBatch, N}, narrowed(head));
      const Array<float> rest({(K - 1) * kBatch, N}, {values.begin() + kBatch * N, values.end()});
      Array<double> out({kBatch, K + 1, K + 1});
      const Array<int64_t> scratch = workspace(fewstep_solver_gram_workspace_bytes(kBatch, N, K));
      fewstep_solver_gram_args args = FEWSTEP_SOLVER_GRAM_ARGS_INIT;
      args.n_arrays = K > 1 ? 2 : 1;
      args.arrays[0] = first.tensor();
      if (K > 1) args.arrays[1] = rest.tensor();
      args.out = out.tensor();
      args.workspace = scratch.tensor();
      REQUIRE(heap::text_of(fewstep_solver_gram(nullptr, &args)) == "");
      const auto u = [&](int j, int64_t b, int64_t n) {
        return j == 0 ? 1.0 : double(values[size_t(((j - 1) * kBatch + b) * N + n)]);
      };
      for (int64_t b = 0; b < kBatch; ++b) {
        for (int j = 0; j <= K; ++j) {
          for (int k = 0; k <= K; ++k) {
            double sum = 0.0;
            for (int64_t n = 0; n < N; ++n) sum += u(j, b, n) * u(k, b, n);
            REQUIRE(out[size_t((b * (K + 1) + j) * (K + 1) + k)] == sum);
          }
        }
      }
    }
  }
}

TEST_CASE("a quantile is that of the sorted sample") {
  Random random(2);
  for (const int64_t N : kSizes) {
    for (const double q : {0.0, 0.25, 0.5, 0.995, 1.0}) {
      for (const int magnitude : {0, 1}) {
        const std::vector<float> values = heap::quarters(random, size_t(kBatch * N), 4000);
        const Array<float> x({kBatch, N}, values);
        Array<float> out({kBatch});
        const Array<int64_t> scratch =
            workspace(fewstep_solver_quantile_workspace_bytes(kBatch, N));
        fewstep_solver_quantile_args args = FEWSTEP_SOLVER_QUANTILE_ARGS_INIT;
        args.magnitude = magnitude;
        args.q = q;
        args.x = x.tensor();
        args.out = out.tensor();
        args.workspace = scratch.tensor();
        REQUIRE(heap::text_of(fewstep_solver_quantile(nullptr, &args)) == "");
        for (int64_t b = 0; b < kBatch; ++b) {
          std::vector<double> y(values.begin() + b * N, values.begin() + (b + 1) * N);
          if (magnitude)
            for (double& value : y) value = std::abs(value);
          std::sort(y.begin(), y.end());
          const double place = q * double(N - 1), k = std::floor(place);
          const double low = y[size_t(k)], high = y[std::min(size_t(k) + 1, y.size() - 1)];
          REQUIRE(out[size_t(b)] == float(low + (place - k) * (high - low)));
        }
      }
    }
  }
}

TEST_CASE("an error norm is the root mean square over the tolerance") {
  Random random(3);
  for (const int64_t N : kSizes) {
    for (const int32_t tolerance : {FEWSTEP_TOLERANCE_SUM, FEWSTEP_TOLERANCE_MAX}) {
      for (const bool has_minus : {false, true}) {
        const size_t count = size_t(kBatch * N);
        const std::vector<float> e = heap::quarters(random, count, 8),
                                 m = heap::quarters(random, count, 8),
                                 x = heap::quarters(random, count, 40),
                                 y = heap::quarters(random, count, 40);
        const Array<float> error({kBatch, N}, e), before({kBatch, N}, x);
        const Array<Brain> minus({kBatch, N}, narrowed(m)), after({kBatch, N}, narrowed(y));
        Array<double> out({kBatch});
        const Array<int64_t> scratch =
            workspace(fewstep_solver_error_norm_workspace_bytes(kBatch, N));
        fewstep_solver_error_norm_args args = FEWSTEP_SOLVER_ERROR_NORM_ARGS_INIT;
        args.tolerance = tolerance;
        args.atol = 0.5;
        args.rtol = 0.125;
        args.error = error.tensor();
        if (has_minus) args.minus = minus.tensor();
        args.before = before.tensor();
        args.after = after.tensor();
        args.out = out.tensor();
        args.workspace = scratch.tensor();
        REQUIRE(heap::text_of(fewstep_solver_error_norm(nullptr, &args)) == "");
        for (int64_t b = 0; b < kBatch; ++b) {
          double sum = 0.0;
          for (size_t i = size_t(b * N); i < size_t((b + 1) * N); ++i) {
            const double size = 0.125 * std::max(std::abs(double(x[i])), std::abs(double(y[i])));
            const double scale =
                tolerance == FEWSTEP_TOLERANCE_SUM ? 0.5 + size : std::max(0.5, size);
            const double scaled = (double(e[i]) - (has_minus ? double(m[i]) : 0.0)) / scale;
            sum += scaled * scaled;
          }
          REQUIRE(out[size_t(b)] == doctest::Approx(std::sqrt(sum / double(N))).epsilon(1e-13));
        }
      }
    }
  }
}

TEST_CASE("what is wrong is named, and nothing is written") {
  const Array<float> x({2, 4});
  Array<float> out({2}, 7.0f);
  const Array<int64_t> scratch = workspace(fewstep_solver_quantile_workspace_bytes(2, 4));
  fewstep_solver_quantile_args args = FEWSTEP_SOLVER_QUANTILE_ARGS_INIT;
  args.q = 1.5;
  args.x = x.tensor();
  args.out = out.tensor();
  args.workspace = scratch.tensor();
  CHECK(heap::text_of(fewstep_solver_quantile(nullptr, &args)) ==
        "fewstep_solver_quantile: 'q' must lie in [0, 1], got 1.5");
  CHECK(out.values() == std::vector<float>(2, 7.0f));
}
