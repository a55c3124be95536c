// SPDX-License-Identifier: Apache-2.0
#include "solver/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "solver/schedule_request.h"

namespace fewstep::solver {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr std::string_view kDiscrete[] = {"vp_linear", "scaled_linear", "cosine"};
constexpr std::string_view kContinuous[] = {"vp_sde",
                                            "karras",
                                            "exponential",
                                            "polyexponential",
                                            "log_snr",
                                            "kl_optimal",
                                            "beta",
                                            "flow",
                                            "log_linear",
                                            "sigmas",
                                            "ornstein_uhlenbeck",
                                            "mean_reverting",
                                            "bridge"};

void check_name(const char* name) {
  const std::string_view view = name ? name : "";
  if (is_discrete(view) || contains(kContinuous, view)) return;
  std::string list;
  for (const auto& known : kDiscrete) list += std::string(known) + ", ";
  for (const auto& known : kContinuous) list += std::string(known) + ", ";
  list.resize(list.size() - 2);
  bad_schedule("name", "be one of " + list, name ? "\"" + std::string(view) + "\"" : "NULL");
}

// Strictly decreasing noise, and finite: a caller's parameters may still round two nodes together.
void check_nodes(const std::vector<Node>& nodes) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    const std::string field = format("steps (node %zu)", i);
    if (!(std::isfinite(n.t) && std::isfinite(n.alpha) && std::isfinite(n.sigma))) {
      bad_schedule(field.c_str(), "give finite nodes", number(n.sigma));
    }
    if (i > 0 && !(n.lambda > nodes[i - 1].lambda)) {
      bad_schedule(field.c_str(),
                   "give a larger log(alpha / sigma) than node " + std::to_string(i - 1),
                   number(n.lambda));
    }
  }
}

}  // namespace

bool is_discrete(std::string_view name) { return contains(kDiscrete, name); }

void Request::check_range() const {
  const double lo = sigma_min(), hi = sigma_max();
  require(std::isfinite(lo) && lo > 0, "sigma_min", "be finite and above 0", lo);
  require(std::isfinite(hi) && hi > 0, "sigma_max", "be finite and above 0", hi);
  if (process == FEWSTEP_PROCESS_FLOW) require(hi <= 1, "sigma_max", "be at most 1", hi);
  if (lo >= hi) bad_schedule("sigma_min", "be below sigma_max=" + number(hi), number(lo));
}

void Request::check_rho() const {
  require(std::isfinite(params.rho) && params.rho > 0, "rho", "be finite and above 0", params.rho);
}

void Request::check_beta() const {
  const double a = params.beta_a, b = params.beta_b;
  require(std::isfinite(a) && a > 0, "beta_a", "be finite and above 0", a);
  require(std::isfinite(b) && b > 0, "beta_b", "be finite and above 0", b);
}

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
  if (w == 0) return lambda_[static_cast<size_t>(low)];  // the next may be -inf
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
  if (path_) return path_(rho);
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
  check_name(name);
  const bool discrete = is_discrete(r.name);
  const bool given = r.name == "sigmas" || (discrete && r.spacing() == "sigmas");
  if (steps < 1 || steps > 100000) bad_schedule("steps", "be 1 to 100000", std::to_string(steps));
  if (has_prior(r.name)) r.process = FEWSTEP_PROCESS_PRIOR;
  if (r.process < FEWSTEP_PROCESS_VP ||
      r.process > (has_prior(r.name) ? FEWSTEP_PROCESS_PRIOR : FEWSTEP_PROCESS_FLOW)) {
    bad_schedule("process", "be 0 (VP), 1 (VE) or 2 (FLOW)", std::to_string(r.process));
  }
  if (discrete || r.name == "vp_sde") r.process = FEWSTEP_PROCESS_VP;
  if (r.name == "flow") r.process = FEWSTEP_PROCESS_FLOW;

  Grid grid = discrete ? discrete_grid(r) : has_prior(r.name) ? prior_grid(r) : continuous_grid(r);
  if (params.final_zero && !given) {
    // Training step -1: where the cumulative product of a discrete-time model is 1.
    grid.nodes.push_back({discrete ? -1.0 : 0.0, 1, 0, kInfinity});
  }
  check_nodes(grid.nodes);
  Schedule schedule;
  schedule.process_ = r.process;
  schedule.nodes_ = std::move(grid.nodes);
  schedule.clock_ = std::move(grid.clock);
  schedule.path_ = std::move(grid.path);
  return schedule;
}

}  // namespace fewstep::solver
