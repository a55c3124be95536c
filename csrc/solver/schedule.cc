// SPDX-License-Identifier: Apache-2.0
#include "solver/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string_view>

#include "core/status.h"

namespace fewstep::solver {
namespace {

constexpr char kFunction[] = "fewstep_schedule_create";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

[[noreturn]] void fail(const char* field, const std::string& must, const std::string& got) {
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("%s: '%s' must %s, got %s", kFunction, field, must.c_str(), got.c_str()));
}

void require(bool ok, const char* field, const char* must, double got) {
  if (!ok) fail(field, must, number(got));
}

// n values from a to b, both included; a alone when n is 1.
std::vector<double> linspace(double a, double b, int n) {
  std::vector<double> values(static_cast<size_t>(n), a);
  for (int i = 1; i < n; ++i) values[static_cast<size_t>(i)] = a + (b - a) * i / (n - 1);
  if (n > 1) values.back() = b;
  return values;
}

// EDM (Karras et al. 2022), eq. 5.
std::vector<double> karras(double from, double to, double rho, int n) {
  std::vector<double> values = linspace(0, 1, n);
  const double a = std::pow(from, 1 / rho), b = std::pow(to, 1 / rho);
  for (double& v : values) v = std::pow(a + v * (b - a), rho);
  values.front() = from;
  if (n > 1) values.back() = to;
  return values;
}

std::vector<double> log_uniform(double from, double to, int n) {
  std::vector<double> values = linspace(std::log(from), std::log(to), n);
  for (double& v : values) v = std::exp(v);
  values.front() = from;
  if (n > 1) values.back() = to;
  return values;
}

// The request, with defaults filled in.
struct Request {
  const fewstep_schedule_params& params;
  std::string_view name;
  int32_t steps;
  int32_t process;

  // Number of nodes that a spacing places; a final zero is appended to them.
  int placed() const { return params.final_zero ? steps : steps + 1; }

  std::string_view spacing() const { return params.spacing ? params.spacing : "linspace"; }

  // The range in the process's sigma (FLOW) or sigma / alpha (VP, VE).
  double sigma_min() const { return std::isnan(params.sigma_min) ? 0.002 : params.sigma_min; }
  double sigma_max() const {
    if (!std::isnan(params.sigma_max)) return params.sigma_max;
    return process == FEWSTEP_PROCESS_FLOW ? 1.0 : 80.0;
  }

  void check_range() const {
    const double lo = sigma_min(), hi = sigma_max();
    require(std::isfinite(lo) && lo > 0, "sigma_min", "be finite and above 0", lo);
    require(std::isfinite(hi) && hi > 0, "sigma_max", "be finite and above 0", hi);
    if (process == FEWSTEP_PROCESS_FLOW) require(hi <= 1, "sigma_max", "be at most 1", hi);
    if (lo >= hi) fail("sigma_min", "be below sigma_max=" + number(hi), number(lo));
  }

  void check_rho() const {
    require(std::isfinite(params.rho) && params.rho > 0, "rho", "be finite and above 0",
            params.rho);
  }
};

// The array of the caller, strictly decreasing.
std::vector<double> given_sigmas(const Request& r) {
  if (!r.params.sigmas) fail("sigmas", "be given", "NULL");
  if (r.params.n_sigmas != int64_t{r.steps} + 1) {
    fail("n_sigmas", format("be steps + 1 = %d", r.steps + 1), std::to_string(r.params.n_sigmas));
  }
  std::vector<double> sigmas(r.params.sigmas, r.params.sigmas + r.params.n_sigmas);
  for (size_t i = 0; i < sigmas.size(); ++i) {
    const std::string field = format("sigmas[%zu]", i);
    if (!std::isfinite(sigmas[i])) fail(field.c_str(), "be finite", number(sigmas[i]));
    if (sigmas[i] < 0) fail(field.c_str(), "be at least 0", number(sigmas[i]));
    if (r.process == FEWSTEP_PROCESS_FLOW && sigmas[i] > 1) {
      fail(field.c_str(), "be at most 1", number(sigmas[i]));
    }
    if (i > 0 && !(sigmas[i] < sigmas[i - 1])) {
      fail(field.c_str(), format("be below sigmas[%zu]=%s", i - 1, number(sigmas[i - 1]).c_str()),
           number(sigmas[i]));
    }
  }
  return sigmas;
}

// log of the cumulative product of 1 - beta over the training steps, in float64. log1p and, below,
// expm1 keep the digits of sigma at the first steps, where 1 - product cancels.
std::vector<double> log_alphas_cumprod(const Request& r) {
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
  } else {
    for (const auto& [field, beta] :
         {std::pair{"beta_start", p.beta_start}, std::pair{"beta_end", p.beta_end}}) {
      require(std::isfinite(beta) && beta > 0 && beta < 1, field, "be between 0 and 1", beta);
    }
    if (r.name == "vp_linear") {
      betas = linspace(p.beta_start, p.beta_end, n);
    } else {
      betas = linspace(std::sqrt(p.beta_start), std::sqrt(p.beta_end), n);
      for (double& beta : betas) beta *= beta;
    }
  }
  double sum = 0;
  for (double& beta : betas) beta = sum += std::log1p(-beta);
  return betas;
}

// Training steps of the spacings of diffusers (Lin et al. 2023, table 2), newest first.
std::vector<double> training_steps(const Request& r) {
  const int T = r.params.train_steps, n = r.placed();
  if (n > T) {
    fail("steps", format("place at most train_steps=%d nodes", T), std::to_string(r.steps));
  }
  std::vector<double> t;
  if (r.spacing() == "linspace") {
    t = linspace(T - 1, 0, n);
    for (double& v : t) v = std::nearbyint(v);
  } else if (r.spacing() == "leading") {
    const int offset = r.params.steps_offset;
    require(offset >= 0, "steps_offset", "be at least 0", offset);
    for (int i = n - 1; i >= 0; --i) t.push_back(std::min(i * (T / n) + offset, T - 1));
  } else {
    for (int i = 0; i < n; ++i) t.push_back(std::nearbyint(T - double(T) * i / n) - 1);
  }
  return t;
}

struct Grid {
  Clock clock;
  std::vector<Node> nodes;
};

// A node of VP at the logarithm of the cumulative product alpha^2.
Node vp_node(double t, double log_alpha_squared) {
  const double alpha = std::exp(log_alpha_squared / 2);
  const double sigma = std::sqrt(-std::expm1(log_alpha_squared));
  return {t, alpha, sigma, std::log(alpha / sigma)};
}

Node with_time(Node node, double t) {
  node.t = t;
  return node;
}

// Discrete-time VP: nodes at training steps, or at any sigma / alpha with the time interpolated.
Grid discrete(const Request& r) {
  const std::vector<double> log_bar = log_alphas_cumprod(r);
  std::vector<double> lambda(log_bar.size());
  for (size_t i = 0; i < lambda.size(); ++i) lambda[i] = vp_node(0, log_bar[i]).lambda;
  Grid grid{Clock(lambda), {}};
  const auto spacing = r.spacing();
  if (spacing == "linspace" || spacing == "leading" || spacing == "trailing") {
    for (const double t : training_steps(r)) {
      grid.nodes.push_back(vp_node(t, log_bar[static_cast<size_t>(t)]));
    }
    return grid;
  }
  std::vector<double> rho;
  const double from = std::exp(-lambda.back()), to = std::exp(-lambda.front());
  if (spacing == "karras") {
    r.check_rho();
    rho = karras(from, to, r.params.rho, r.placed());
  } else if (spacing == "exponential" || spacing == "log_snr") {
    rho = log_uniform(from, to, r.placed());
  } else if (spacing == "sigmas") {
    rho = given_sigmas(r);
  } else {
    fail("spacing", "be one of linspace, leading, trailing, karras, exponential, log_snr, sigmas",
         "\"" + std::string(spacing) + "\"");
  }
  for (const double v : rho) {
    Node node = node_of_process(FEWSTEP_PROCESS_VP, v);
    grid.nodes.push_back(with_time(node, v > 0 ? grid.clock.time(node.lambda) : -1));
  }
  return grid;
}

double shifted(double sigma, double shift) { return shift * sigma / (1 + (shift - 1) * sigma); }

// Rectified flow: sigma uniform, then shifted (Esser et al. 2024, eq. 23).
std::vector<double> flow_sigmas(const Request& r) {
  const double shift = r.params.shift;
  require(std::isfinite(shift) && shift > 0, "shift", "be finite and above 0", shift);
  const double hi = r.sigma_max();
  require(std::isfinite(hi) && hi > 0 && hi <= 1, "sigma_max", "be above 0 and at most 1", hi);
  // Without sigma_min the nodes are evenly spaced down to zero.
  double lo = r.params.sigma_min;
  if (std::isnan(lo)) lo = r.params.final_zero ? hi / r.steps : 0;
  require(std::isfinite(lo) && lo >= 0, "sigma_min", "be finite and at least 0", lo);
  if (r.params.final_zero) require(lo > 0, "sigma_min", "be above 0 with final_zero", lo);
  if (r.placed() > 1 && lo >= hi) {
    fail("sigma_min", "be below sigma_max=" + number(hi), number(lo));
  }
  std::vector<double> sigmas = linspace(hi, lo, r.placed());
  for (double& sigma : sigmas) sigma = shifted(sigma, shift);
  return sigmas;
}

Node node_of_sigma(int32_t process, double sigma) {
  if (process != FEWSTEP_PROCESS_FLOW) {
    return with_time(node_of_process(process, sigma), sigma);
  }
  const double alpha = 1 - sigma;
  return {sigma, alpha, sigma, std::log(alpha) - std::log(sigma)};
}

Grid continuous(const Request& r) {
  std::vector<double> sigmas;
  if (r.name == "karras") {
    r.check_range();
    r.check_rho();
    sigmas = karras(r.sigma_max(), r.sigma_min(), r.params.rho, r.placed());
  } else if (r.name == "exponential") {
    r.check_range();
    sigmas = log_uniform(r.sigma_max(), r.sigma_min(), r.placed());
  } else if (r.name == "log_snr") {
    r.check_range();
    if (r.process == FEWSTEP_PROCESS_FLOW) {
      // Uniform in lambda; the nodes are exact in sigma = 1 / (1 + e^lambda).
      require(r.sigma_max() < 1, "sigma_max", "be below 1", r.sigma_max());
      const auto rho = [](double sigma) { return sigma / (1 - sigma); };
      for (const double v : log_uniform(rho(r.sigma_max()), rho(r.sigma_min()), r.placed())) {
        sigmas.push_back(v / (1 + v));
      }
    } else {
      sigmas = log_uniform(r.sigma_max(), r.sigma_min(), r.placed());
    }
  } else if (r.name == "flow") {
    sigmas = flow_sigmas(r);
  } else {
    sigmas = given_sigmas(r);
  }
  Grid grid;
  for (const double sigma : sigmas) grid.nodes.push_back(node_of_sigma(r.process, sigma));
  return grid;
}

// Strictly decreasing noise, and finite: a caller's parameters may still round two nodes together.
void check_nodes(const std::vector<Node>& nodes) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    const std::string field = format("steps (node %zu)", i);
    if (!(std::isfinite(n.t) && std::isfinite(n.alpha) && std::isfinite(n.sigma))) {
      fail(field.c_str(), "give finite nodes", number(n.sigma));
    }
    if (i > 0 && !(n.lambda > nodes[i - 1].lambda)) {
      fail(field.c_str(), "give a larger log(alpha / sigma) than node " + std::to_string(i - 1),
           number(n.lambda));
    }
  }
}

}  // namespace

Node node_of_process(int32_t process, double rho) {
  Node node;
  node.lambda = -std::log(rho);
  switch (process) {
    case FEWSTEP_PROCESS_VP:
      node.alpha = std::isinf(rho) ? 0 : 1 / std::hypot(1.0, rho);
      node.sigma = std::isinf(rho) ? 1 : rho / std::hypot(1.0, rho);
      break;
    case FEWSTEP_PROCESS_FLOW:
      node.alpha = 1 / (1 + rho);
      node.sigma = std::isinf(rho) ? 1 : rho / (1 + rho);
      break;
    default:
      node.alpha = 1;
      node.sigma = rho;
  }
  return node;
}

double Clock::lambda(double t) const {
  const int last = steps() - 1;
  const int low = std::clamp(static_cast<int>(std::floor(t)), 0, std::max(last - 1, 0));
  if (last == 0) return lambda_[0];
  const double w = t - low;
  const auto at = [&](int i) { return lambda_[static_cast<size_t>(i)]; };
  return at(low) + w * (at(low + 1) - at(low));
}

double Clock::time(double lambda) const {
  if (lambda >= lambda_.front()) return 0;
  if (lambda <= lambda_.back()) return steps() - 1;
  const auto above = std::upper_bound(lambda_.begin(), lambda_.end(), lambda,
                                      [](double value, double element) { return value > element; });
  const auto high = static_cast<size_t>(above - lambda_.begin());
  const double a = lambda_[high - 1], b = lambda_[high];
  return double(high - 1) + (lambda - a) / (b - a);
}

std::vector<double> Clock::knots(double lambda_from, double lambda_to) const {
  std::vector<double> inside;
  for (auto i = lambda_.rbegin(); i != lambda_.rend(); ++i) {
    if (*i > lambda_from && *i < lambda_to) inside.push_back(*i);
  }
  return inside;
}

Node Schedule::at_rho(double rho) const {
  Node node = node_of_process(process_, rho);
  if (!clock_.empty()) {
    node.t = clock_.time(node.lambda);
  } else {
    node.t = process_ == FEWSTEP_PROCESS_FLOW ? node.sigma : rho;
  }
  return node;
}

Schedule Schedule::create(const char* name, int32_t steps, const fewstep_schedule_params& params) {
  Request r{params, name ? name : "", steps, params.process};
  const bool is_discrete = r.name == "vp_linear" || r.name == "scaled_linear" || r.name == "cosine";
  const bool given = r.name == "sigmas" || (is_discrete && r.spacing() == "sigmas");
  if (!is_discrete && !given && r.name != "karras" && r.name != "exponential" &&
      r.name != "log_snr" && r.name != "flow") {
    fail("name",
         "be one of vp_linear, scaled_linear, cosine, karras, exponential, log_snr, flow, sigmas",
         name ? "\"" + std::string(r.name) + "\"" : "NULL");
  }
  if (steps < 1 || steps > 100000) fail("steps", "be 1 to 100000", std::to_string(steps));
  if (r.process < FEWSTEP_PROCESS_VP || r.process > FEWSTEP_PROCESS_FLOW) {
    fail("process", "be 0 (VP), 1 (VE) or 2 (FLOW)", std::to_string(r.process));
  }
  if (is_discrete) r.process = FEWSTEP_PROCESS_VP;
  if (r.name == "flow") r.process = FEWSTEP_PROCESS_FLOW;

  Grid grid = is_discrete ? discrete(r) : continuous(r);
  if (params.final_zero && !given) {
    // Training step -1: where the cumulative product of a discrete-time model is 1.
    grid.nodes.push_back({is_discrete ? -1.0 : 0.0, 1, 0, kInfinity});
  }
  check_nodes(grid.nodes);
  Schedule schedule;
  schedule.process_ = r.process;
  schedule.nodes_ = std::move(grid.nodes);
  schedule.clock_ = std::move(grid.clock);
  return schedule;
}

}  // namespace fewstep::solver
