// SPDX-License-Identifier: Apache-2.0
// Where nodes lie between two noise levels: pure functions, float64.
#pragma once

#include <cstdint>
#include <vector>

namespace fewstep::solver {

// Each returns n values from `from` down to `to`, both included and exact; `from` alone for n = 1.
std::vector<double> linspace(double from, double to, int n);
// Uniform in level^(1 / rho): EDM (Karras et al. 2022), eq. 5.
std::vector<double> power_levels(double from, double to, double rho, int n);
// log(level) = log(to) + (1 - i / (n - 1))^rho (log(from) - log(to)); rho = 1 is uniform.
std::vector<double> exponential_levels(double from, double to, double rho, int n);
// Uniform in atan(level): Sabour et al. 2024 (Align Your Steps), theorem 3.1.
std::vector<double> kl_optimal_levels(double from, double to, int n);
// level = to + q (from - to) at the quantiles q of Beta(a, b), p = 1 - i / (n - 1).
std::vector<double> beta_levels(double from, double to, double a, double b, int n);

// A table of decreasing positive values resampled to n: log(value) linear in the index.
std::vector<double> log_linear(const double* table, int64_t size, int n);

// 1 - f(i), i < n: f rises linearly to `threshold` over `linear` steps, then as the parabola that
// continues it with the same slope and reaches 1 at n (the schedule of Movie Gen and Mochi).
std::vector<double> linear_quadratic(int n, double threshold, int linear);

// x with I_x(a, b) = p, the regularised incomplete beta function; 0 <= p <= 1, a and b above 0.
double beta_quantile(double p, double a, double b);

}  // namespace fewstep::solver
