// SPDX-License-Identifier: Apache-2.0
// Schedules without a training grid: any range of sigma, rectified flow, arrays.
#include <cmath>

#include "solver/schedule_request.h"
#include "solver/spacing.h"

namespace fewstep::solver {
namespace {

double shifted(double sigma, double shift) { return shift * sigma / (1 + (shift - 1) * sigma); }

// Evenly spaced in the variable that the shift is applied to.
std::vector<double> flow_uniform(const Request& r) {
  const double hi = r.sigma_max();
  const int n = r.placed();
  require(std::isfinite(hi) && hi > 0 && hi <= 1, "sigma_max", "be above 0 and at most 1", hi);
  // Without sigma_min the nodes are evenly spaced down to zero.
  double lo = r.params.sigma_min;
  if (std::isnan(lo)) lo = r.params.final_zero ? hi / r.steps : 0;
  require(std::isfinite(lo) && lo >= 0, "sigma_min", "be finite and at least 0", lo);
  if (r.params.final_zero) require(lo > 0, "sigma_min", "be above 0 with final_zero", lo);
  if (n > 1 && lo >= hi) bad_schedule("sigma_min", "be below sigma_max=" + number(hi), number(lo));
  if (r.spacing() != "beta") return linspace(hi, lo, n);
  r.check_beta();
  // Quantiles down to 0, of which the last is the final zero or is left to the caller's sigma_min.
  if (std::isnan(r.params.sigma_min) && r.params.final_zero) {
    std::vector<double> values = beta_levels(hi, 0, r.params.beta_a, r.params.beta_b, n + 1);
    values.pop_back();
    return values;
  }
  return beta_levels(hi, lo, r.params.beta_a, r.params.beta_b, n);
}

std::vector<double> flow_linear_quadratic(const Request& r) {
  const auto& p = r.params;
  const int linear = p.linear_steps > 0 ? p.linear_steps : r.steps / 2;
  require(p.threshold > 0 && p.threshold < 1, "threshold", "be between 0 and 1", p.threshold);
  if (r.steps == 1) return p.final_zero ? std::vector{1.0} : std::vector{1.0, 0.0};
  if (p.linear_steps < 0 || linear >= r.steps) {
    bad_schedule("linear_steps", format("be 0 to steps - 1 = %d", r.steps - 1),
                 std::to_string(p.linear_steps));
  }
  std::vector<double> sigmas = linear_quadratic(r.steps, p.threshold, linear);
  if (!p.final_zero) sigmas.push_back(0);
  return sigmas;
}

// terminal: 1 - sigma is scaled so that the last node has this sigma (LTX-Video).
void stretch(std::vector<double>* sigmas, double terminal) {
  if (std::isnan(terminal)) return;
  require(terminal > 0 && terminal < 1, "terminal", "be between 0 and 1", terminal);
  const double factor = (1 - terminal) / (1 - sigmas->back());
  if (!std::isfinite(factor)) {
    bad_schedule("steps", "place two nodes or more with terminal", std::to_string(sigmas->size()));
  }
  for (double& sigma : *sigmas) sigma = 1 - (1 - sigma) * factor;
  sigmas->back() = terminal;
}

// Rectified flow: sigma spaced, then shifted (Esser et al. 2024, eq. 23).
std::vector<double> flow_sigmas(const Request& r) {
  const double shift = r.params.shift;
  const auto spacing = r.spacing();
  require(std::isfinite(shift) && shift > 0, "shift", "be finite and above 0", shift);
  std::vector<double> sigmas =
      spacing == "linear_quadratic" ? flow_linear_quadratic(r) : flow_uniform(r);
  for (double& sigma : sigmas) sigma = shifted(sigma, shift);
  stretch(&sigmas, r.params.terminal);
  if (spacing == "linspace" || spacing == "beta" || spacing == "linear_quadratic") return sigmas;
  const double from = sigmas.front(), to = sigmas.back();
  if (spacing != "karras" && spacing != "exponential" && spacing != "beta_sigma") {
    bad_schedule("spacing",
                 "be one of linspace, beta, linear_quadratic, karras, exponential, beta_sigma",
                 "\"" + std::string(spacing) + "\"");
  }
  require(to > 0, "sigma_min", "be above 0 with this spacing", to);
  if (spacing == "karras") {
    r.check_rho();
    return power_levels(from, to, r.params.rho, r.placed());
  }
  if (spacing == "exponential") return exponential_levels(from, to, 1, r.placed());
  r.check_beta();
  return beta_levels(from, to, r.params.beta_a, r.params.beta_b, r.placed());
}

// Uniform in lambda; for FLOW the nodes are exact in sigma = 1 / (1 + e^lambda).
std::vector<double> log_snr_sigmas(const Request& r) {
  if (r.process != FEWSTEP_PROCESS_FLOW) {
    return exponential_levels(r.sigma_max(), r.sigma_min(), 1, r.placed());
  }
  require(r.sigma_max() < 1, "sigma_max", "be below 1", r.sigma_max());
  const auto rho = [](double sigma) { return sigma / (1 - sigma); };
  std::vector<double> sigmas =
      exponential_levels(rho(r.sigma_max()), rho(r.sigma_min()), 1, r.placed());
  for (double& v : sigmas) v = v / (1 + v);
  return sigmas;
}

std::vector<double> ranged_sigmas(const Request& r) {
  r.check_range();
  const double from = r.sigma_max(), to = r.sigma_min();
  const int n = r.placed();
  if (r.name == "log_snr") return log_snr_sigmas(r);
  if (r.name == "exponential") return exponential_levels(from, to, 1, n);
  if (r.name == "kl_optimal") return kl_optimal_levels(from, to, n);
  if (r.name == "beta") {
    r.check_beta();
    return beta_levels(from, to, r.params.beta_a, r.params.beta_b, n);
  }
  r.check_rho();
  if (r.name == "karras") return power_levels(from, to, r.params.rho, n);
  return exponential_levels(from, to, r.params.rho, n);
}

// Song et al. 2021, eq. 33: log(alpha) = -t^2 (beta_end - beta_start) / 4 - t beta_start / 2.
Grid vp_sde_grid(const Request& r) {
  const double b0 = r.params.beta_start, b1 = r.params.beta_end, t_min = r.params.t_min;
  require(std::isfinite(b0) && b0 > 0, "beta_start", "be finite and above 0", b0);
  require(std::isfinite(b1) && b1 >= b0, "beta_end", "be finite and at least beta_start", b1);
  require(t_min > 0 && t_min < 1, "t_min", "be between 0 and 1", t_min);
  r.check_rho();
  Grid grid;
  for (const double t : power_levels(1, t_min, r.params.rho, r.placed())) {
    const double log_square = -t * (t * (b1 - b0) / 2 + b0);
    const double alpha = std::exp(log_square / 2), sigma = std::sqrt(-std::expm1(log_square));
    grid.nodes.push_back({t, alpha, sigma, std::log(alpha / sigma)});
  }
  grid.path = [b0, b1](double rho) {
    // The time with t^2 (b1 - b0) / 2 + t b0 = log(1 + rho^2).
    const double c = std::log1p(rho * rho);
    return with_time(node_of_process(FEWSTEP_PROCESS_VP, rho),
                     2 * c / (b0 + std::sqrt(b0 * b0 + 2 * (b1 - b0) * c)));
  };
  return grid;
}

Node node_of_sigma(int32_t process, double sigma) {
  if (process != FEWSTEP_PROCESS_FLOW) {
    return with_time(node_of_process(process, sigma), sigma);
  }
  const double alpha = 1 - sigma;
  return {sigma, alpha, sigma, std::log(alpha) - std::log(sigma)};
}

void check_sigma(const Request& r, int64_t i, bool positive) {
  const double* sigmas = r.params.sigmas;
  const std::string field = format("sigmas[%zu]", static_cast<size_t>(i));
  const double v = sigmas[i];
  if (!std::isfinite(v)) bad_schedule(field.c_str(), "be finite", number(v));
  if (v < 0) bad_schedule(field.c_str(), "be at least 0", number(v));
  if (positive && v == 0) bad_schedule(field.c_str(), "be above 0", number(v));
  if (r.process == FEWSTEP_PROCESS_FLOW && v > 1) {
    bad_schedule(field.c_str(), "be at most 1", number(v));
  }
  if (i > 0 && !(v < sigmas[i - 1])) {
    bad_schedule(field.c_str(),
                 format("be below sigmas[%zu]=%s", static_cast<size_t>(i - 1),
                        number(sigmas[i - 1]).c_str()),
                 number(v));
  }
}

}  // namespace

std::vector<double> given_sigmas(const Request& r) {
  if (!r.params.sigmas) bad_schedule("sigmas", "be given", "NULL");
  if (r.params.n_sigmas != int64_t{r.steps} + 1) {
    bad_schedule("n_sigmas", format("be steps + 1 = %d", r.steps + 1),
                 std::to_string(r.params.n_sigmas));
  }
  for (int64_t i = 0; i < r.params.n_sigmas; ++i) check_sigma(r, i, false);
  return {r.params.sigmas, r.params.sigmas + r.params.n_sigmas};
}

std::vector<double> resampled_sigmas(const Request& r) {
  if (!r.params.sigmas) bad_schedule("sigmas", "be given", "NULL");
  if (r.params.n_sigmas < 2) {
    bad_schedule("n_sigmas", "be at least 2", std::to_string(r.params.n_sigmas));
  }
  for (int64_t i = 0; i < r.params.n_sigmas; ++i) check_sigma(r, i, true);
  std::vector<double> values = log_linear(r.params.sigmas, r.params.n_sigmas, r.steps + 1);
  if (r.params.final_zero) values.pop_back();
  return values;
}

Grid continuous_grid(const Request& r) {
  if (r.name == "vp_sde") return vp_sde_grid(r);
  std::vector<double> sigmas;
  if (r.name == "flow") {
    sigmas = flow_sigmas(r);
  } else if (r.name == "sigmas") {
    sigmas = given_sigmas(r);
  } else if (r.name == "log_linear") {
    sigmas = resampled_sigmas(r);
  } else {
    sigmas = ranged_sigmas(r);
  }
  Grid grid;
  for (const double sigma : sigmas) grid.nodes.push_back(node_of_sigma(r.process, sigma));
  return grid;
}

}  // namespace fewstep::solver
