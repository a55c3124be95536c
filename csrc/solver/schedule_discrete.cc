// SPDX-License-Identifier: Apache-2.0
// Discrete-time VP: nodes at training steps, between them, or at any sigma / alpha.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "solver/schedule_request.h"
#include "solver/spacing.h"

namespace fewstep::solver {
namespace {

constexpr char kSpacings[] =
    "be one of linspace, leading, trailing, simple, ddim_uniform, beta, normal, sgm_uniform, "
    "karras, exponential, log_snr, polyexponential, kl_optimal, beta_sigma, log_linear, sigmas";

std::vector<double> betas_of(const Request& r) {
  const auto& p = r.params;
  require(p.train_steps >= 1, "train_steps", "be at least 1", p.train_steps);
  const int n = p.train_steps;
  std::vector<double> betas(static_cast<size_t>(n));
  if (r.name == "cosine") {
    // Nichol, Dhariwal 2021, eq. 17, with their cap on beta.
    const auto bar = [](double u) {
      const double c = std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2);
      return c * c;
    };
    for (int i = 0; i < n; ++i) {
      const double beta = 1 - bar(double(i + 1) / n) / bar(double(i) / n);
      betas[static_cast<size_t>(i)] = std::min(beta, 0.999);
    }
    return betas;
  }
  for (const auto& [field, beta] :
       {std::pair{"beta_start", p.beta_start}, std::pair{"beta_end", p.beta_end}}) {
    require(std::isfinite(beta) && beta > 0 && beta < 1, field, "be between 0 and 1", beta);
  }
  if (r.name == "vp_linear") return linspace(p.beta_start, p.beta_end, n);
  betas = linspace(std::sqrt(p.beta_start), std::sqrt(p.beta_end), n);
  for (double& beta : betas) beta *= beta;
  return betas;
}

// log of the cumulative product of 1 - beta over the training steps, in float64. log1p and, below,
// expm1 keep the digits of sigma at the first steps, where 1 - product cancels.
std::vector<double> log_alphas_cumprod(const Request& r) {
  std::vector<double> values = betas_of(r);
  double sum = 0;
  for (double& beta : values) beta = sum += std::log1p(-beta);
  if (!r.params.zero_terminal_snr) return values;
  if (values.size() < 2) {
    bad_schedule("train_steps", "be at least 2 with zero_terminal_snr", "1");
  }
  // Lin et al. 2023, algorithm 1: the root of the product, shifted to end at 0 and scaled to begin
  // where it did.
  const double first = std::exp(values.front() / 2), last = std::exp(values.back() / 2);
  for (size_t i = 1; i + 1 < values.size(); ++i) {
    // In the difference to the first step, which is small where the product is close to 1.
    const double fall = first * -std::expm1((values[i] - values.front()) / 2);
    values[i] = values.front() + 2 * std::log1p(-fall / (first - last));
  }
  values.back() = -INFINITY;
  return values;
}

constexpr std::string_view kStepSpacings[] = {"linspace",     "leading", "trailing", "simple",
                                              "ddim_uniform", "beta",    "normal",   "sgm_uniform"};

// Training steps, whole or fractional, noise first; none for a spacing of sigma / alpha. The first
// three are those of diffusers (Lin et al. 2023, table 2).
std::vector<double> training_steps(const Request& r) {
  const int T = r.params.train_steps, n = r.placed();
  const auto spacing = r.spacing();
  if (!contains(kStepSpacings, spacing)) return {};
  if (n > T) {
    bad_schedule("steps", format("place at most train_steps=%d nodes", T), std::to_string(r.steps));
  }
  std::vector<double> t;
  if (spacing == "linspace" || spacing == "normal") {
    t = linspace(T - 1, 0, n);
    if (spacing == "linspace") {
      for (double& v : t) v = std::nearbyint(v);
    }
  } else if (spacing == "leading") {
    const int offset = r.params.steps_offset;
    require(offset >= 0, "steps_offset", "be at least 0", offset);
    for (int i = n - 1; i >= 0; --i) t.push_back(std::min(i * (T / n) + offset, T - 1));
  } else if (spacing == "trailing") {
    for (int i = 0; i < n; ++i) t.push_back(std::nearbyint(T - double(T) * i / n) - 1);
  } else if (spacing == "sgm_uniform") {
    t = linspace(T - 1, 0, n + 1);
    t.pop_back();
  } else if (spacing == "simple") {
    for (int i = 0; i < n; ++i) t.push_back(T - 1 - std::floor(i * (double(T) / n)));
  } else if (spacing == "ddim_uniform") {
    for (int v = 1; v < T; v += T / n) t.push_back(v);
    std::reverse(t.begin(), t.end());
  } else {  // beta
    r.check_beta();
    for (int i = 0; i < n; ++i) {
      const double q = beta_quantile(1 - double(i) / n, r.params.beta_a, r.params.beta_b);
      const double v = std::nearbyint(q * (T - 1));
      if (t.empty() || v < t.back()) t.push_back(v);
    }
  }
  return t;
}

// Ratios sigma / alpha between the training grid's ends, or the caller's.
std::vector<double> ratios(const Request& r, double from, double to) {
  const auto spacing = r.spacing();
  const int n = r.placed();
  if (spacing == "sigmas") return given_sigmas(r);
  if (spacing == "log_linear") return resampled_sigmas(r);
  const auto finite = [&] {
    if (std::isinf(from)) {
      bad_schedule("spacing", "be of training steps with zero_terminal_snr",
                   "\"" + std::string(spacing) + "\"");
    }
  };
  if (spacing == "karras" || spacing == "polyexponential") {
    finite();
    r.check_rho();
    return spacing == "karras" ? power_levels(from, to, r.params.rho, n)
                               : exponential_levels(from, to, r.params.rho, n);
  }
  if (spacing == "exponential" || spacing == "log_snr") {
    finite();
    return exponential_levels(from, to, 1, n);
  }
  if (spacing == "kl_optimal") {
    finite();
    return kl_optimal_levels(from, to, n);
  }
  if (spacing == "beta_sigma") {
    finite();
    r.check_beta();
    return beta_levels(from, to, r.params.beta_a, r.params.beta_b, n);
  }
  bad_schedule("spacing", kSpacings, "\"" + std::string(spacing) + "\"");
}

// A node of VP at the logarithm of the cumulative product alpha^2.
Node vp_node(double t, double log_alpha_squared) {
  const double alpha = std::exp(log_alpha_squared / 2);
  const double sigma = std::sqrt(-std::expm1(log_alpha_squared));
  return {t, alpha, sigma, std::log(alpha / sigma)};
}

}  // namespace

Grid discrete_grid(const Request& r) {
  const std::vector<double> log_bar = log_alphas_cumprod(r);
  std::vector<double> lambda(log_bar.size());
  for (size_t i = 0; i < lambda.size(); ++i) lambda[i] = vp_node(0, log_bar[i]).lambda;
  Grid grid{Clock(lambda), {}, {}};
  const std::vector<double> steps = training_steps(r);
  for (const double t : steps) {
    if (t == std::floor(t)) {
      grid.nodes.push_back(vp_node(t, log_bar[static_cast<size_t>(t)]));
    } else {
      const double rho = std::exp(-grid.clock.lambda(t));
      grid.nodes.push_back(with_time(node_of_process(FEWSTEP_PROCESS_VP, rho), t));
    }
  }
  if (!steps.empty()) return grid;
  for (const double v : ratios(r, std::exp(-lambda.back()), std::exp(-lambda.front()))) {
    const Node node = node_of_process(FEWSTEP_PROCESS_VP, v);
    grid.nodes.push_back(with_time(node, v > 0 ? grid.clock.time(node.lambda) : -1));
  }
  return grid;
}

}  // namespace fewstep::solver
