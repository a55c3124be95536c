// SPDX-License-Identifier: Apache-2.0
#include "solver/spacing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace fewstep::solver {
namespace {

// The ends of an interpolation are the arguments themselves, whatever the formula rounds to.
std::vector<double> with_ends(std::vector<double> values, double from, double to) {
  values.front() = from;
  if (values.size() > 1) values.back() = to;
  return values;
}

// Continued fraction of the incomplete beta function by Lentz's method (Abramowitz, Stegun 26.5.8).
// Converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double x, double a, double b) {
  constexpr double tiny = 1e-300;
  const auto away = [](double v) { return std::abs(v) < tiny ? tiny : v; };
  double c = 1, d = 1 / away(1 - (a + b) * x / (a + 1)), f = d;
  for (int m = 1; m < 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away(1 + even * d);
    c = away(1 + even / c);
    f *= d * c;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + odd * d);
    c = away(1 + odd / c);
    f *= d * c;
    if (std::abs(d * c - 1) < std::numeric_limits<double>::epsilon()) break;
  }
  return f;
}

double log_beta(double a, double b) { return std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b); }

// The fraction is taken on the side of the mean where it converges fast.
double incomplete_beta(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double front = std::exp(a * std::log(x) + b * std::log1p(-x) - log_beta(a, b));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(x, a, b) / a;
  return 1 - front * beta_fraction(1 - x, b, a) / b;
}

}  // namespace

std::vector<double> linspace(double from, double to, int n) {
  std::vector<double> values(static_cast<size_t>(n), from);
  for (int i = 1; i < n; ++i) {
    values[static_cast<size_t>(i)] = from + (to - from) * i / (n - 1);
  }
  return with_ends(std::move(values), from, to);
}

std::vector<double> power_levels(double from, double to, double rho, int n) {
  std::vector<double> values = linspace(0, 1, n);
  const double a = std::pow(from, 1 / rho), b = std::pow(to, 1 / rho);
  for (double& v : values) v = std::pow(a + v * (b - a), rho);
  return with_ends(std::move(values), from, to);
}

std::vector<double> exponential_levels(double from, double to, double rho, int n) {
  std::vector<double> values = linspace(1, 0, n);
  const double a = std::log(to), b = std::log(from);
  for (double& v : values) v = std::exp(a + std::pow(v, rho) * (b - a));
  return with_ends(std::move(values), from, to);
}

std::vector<double> kl_optimal_levels(double from, double to, int n) {
  std::vector<double> values = linspace(std::atan(from), std::atan(to), n);
  for (double& v : values) v = std::tan(v);
  return with_ends(std::move(values), from, to);
}

std::vector<double> beta_levels(double from, double to, double a, double b, int n) {
  std::vector<double> values = linspace(1, 0, n);
  for (double& v : values) v = to + beta_quantile(v, a, b) * (from - to);
  return with_ends(std::move(values), from, to);
}

std::vector<double> log_linear(const double* table, int64_t size, int n) {
  std::vector<double> values = linspace(0, static_cast<double>(size - 1), n);
  for (double& v : values) {
    const int64_t low = std::min(static_cast<int64_t>(v), size - 2);
    const double weight = v - static_cast<double>(low);
    v = weight == 0
            ? table[low]
            : std::exp((1 - weight) * std::log(table[low]) + weight * std::log(table[low + 1]));
  }
  return with_ends(std::move(values), table[0], table[size - 1]);
}

std::vector<double> linear_quadratic(int n, double threshold, int linear) {
  std::vector<double> values(static_cast<size_t>(n));
  const double slope = threshold / linear;
  for (int i = 0; i < n; ++i) {
    const double past = i - linear, rest = n - linear;
    // What is left above the straight line, as a square in the steps past the threshold.
    const double bend = past > 0 ? (1 - slope * n) * (past / rest) * (past / rest) : 0;
    values[static_cast<size_t>(i)] = 1 - (slope * i + bend);
  }
  return values;
}

double beta_quantile(double p, double a, double b) {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  double low = 0, high = 1, x = 0.5;
  const double log_norm = log_beta(a, b);
  for (int i = 0; i < 200; ++i) {
    const double excess = incomplete_beta(x, a, b) - p;
    // Rounding of I itself; so the median of a symmetric distribution is 1/2 exactly.
    if (std::abs(excess) <= 4 * std::numeric_limits<double>::epsilon() * p) break;
    (excess > 0 ? high : low) = x;
    const double slope = std::exp((a - 1) * std::log(x) + (b - 1) * std::log1p(-x) - log_norm);
    double next = x - excess / slope;
    // Newton where it stays inside the bracket, else halve it.
    if (!(next > low && next < high)) next = (low + high) / 2;
    if (std::abs(next - x) <= 1e-16 * x) break;
    x = next;
  }
  return x;
}

}  // namespace fewstep::solver
