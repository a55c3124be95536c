// SPDX-License-Identifier: Apache-2.0
// Processes x = alpha x0 + prior y + sigma noise. Without prior y each is a process of x0 and noise
// like the others, so every solver runs on it; all three weights are known from rho = sigma /
// alpha.
#include <cmath>

#include "solver/schedule_request.h"
#include "solver/spacing.h"

namespace fewstep::solver {
namespace {

struct Times {
  double from, to;
};

Times times(const Request& r, double limit) {
  const double from = std::isnan(r.params.t_max) ? limit : r.params.t_max, to = r.params.t_min;
  require(from > 0 && from <= limit, "t_max", format("be above 0 and at most %g", limit).c_str(),
          from);
  require(to > 0 && to < from, "t_min", "be above 0 and below t_max", to);
  return {from, to};
}

Grid on_path(const Request& r, Times range, std::function<Node(double)> path,
             const std::function<double(double)>& rho_of_time) {
  Grid grid;
  for (const double t : linspace(range.from, range.to, r.placed())) {
    Node node = path(rho_of_time(t));
    node.t = t;
    grid.nodes.push_back(node);
  }
  grid.path = std::move(path);
  return grid;
}

Node make_node(double t, double alpha, double prior, double rho) {
  return {t, alpha, rho * alpha, -std::log(rho), prior};
}

// SGMSE+ (Richter et al. 2022, arXiv 2208.05830): dx = stiffness (y - x) dt + g dw,
// g = sigma_min k^t sqrt(2 log k), k = sigma_max / sigma_min. With x0 at t = 0,
// (sigma / alpha)^2 = sigma_min^2 log k / (stiffness + log k) (e^{2 (stiffness + log k) t} - 1).
Grid ornstein_uhlenbeck(const Request& r) {
  r.check_range();
  const double low = r.sigma_min(), stiffness = r.params.stiffness;
  const double log_k = std::log(r.sigma_max() / low);
  require(std::isfinite(stiffness) && stiffness > 0, "stiffness", "be finite and above 0",
          stiffness);
  const double rate = stiffness + log_k, scale = low * std::sqrt(log_k / rate);
  const auto path = [=](double rho) {
    const double t = std::log1p(rho * rho / (scale * scale)) / (2 * rate);
    return make_node(t, std::exp(-stiffness * t), -std::expm1(-stiffness * t), rho);
  };
  return on_path(r, times(r, 1), path,
                 [=](double t) { return scale * std::sqrt(std::expm1(2 * rate * t)); });
}

// Bridge-TTS (Chen et al. 2023, arXiv 2312.03491). s = sigma_t^2 / sigma_1^2 is the share of the
// way to y; x / alpha_t has weights 1 - s, s / alpha_1 and sigma_t sqrt(1 - s).
Grid bridge(const Request& r) {
  const double b0 = r.params.beta_start, b1 = r.params.beta_end;
  require(std::isfinite(b0) && b0 > 0, "beta_start", "be finite and above 0", b0);
  require(std::isfinite(b1) && b1 >= b0, "beta_end", "be finite and at least beta_start", b1);
  const bool vp = r.spacing() == "vp";
  if (!vp && r.spacing() != "gmax") {
    bad_schedule("spacing", "be gmax or vp", "\"" + std::string(r.spacing()) + "\"");
  }
  const auto integral = [=](double t) { return t * (b0 + (b1 - b0) * t / 2); };
  const auto variance = [=](double t) { return vp ? std::expm1(integral(t)) : integral(t); };
  const double end = variance(1), last_scale = vp ? 1 / std::sqrt(1 + end) : 1;
  const auto path = [=](double rho) {
    const double s = rho * rho / (rho * rho + end), rest = end / (rho * rho + end);
    const double scale = vp ? 1 / std::sqrt(1 + end * s) : 1;
    const double c = vp ? std::log1p(end * s) : end * s;
    const double t = 2 * c / (b0 + std::sqrt(b0 * b0 + 2 * (b1 - b0) * c));
    return make_node(t, scale * rest, scale * s / last_scale, rho);
  };
  // At t = 1 neither x0 nor noise is left, and no solver could begin.
  return on_path(r, times(r, 0.9999), path, [=](double t) {
    const double s = variance(t) / end;
    return std::sqrt(end * s / (1 - s));
  });
}

// IR-SDE (Luo et al. 2023, arXiv 2301.11699) with the cosine schedule of theta: alpha is the
// exponential of its sum, scaled so that the last training step has alpha_min; sigma^2 =
// sigma_max^2 (1 - alpha^2).
Grid mean_reverting(const Request& r) {
  const double high = std::isnan(r.params.sigma_max) ? 10.0 / 255 : r.params.sigma_max;
  const double least = r.params.alpha_min;
  const int T = r.params.train_steps;
  require(std::isfinite(high) && high > 0, "sigma_max", "be finite and above 0", high);
  require(least > 0 && least < 1, "alpha_min", "be between 0 and 1", least);
  require(T >= 2, "train_steps", "be at least 2", T);
  const auto theta = [T](int i) {
    const auto level = [T](int k) {
      constexpr double kOffset = 0.008, kHalfPi = 1.5707963267948966;
      const double c = std::cos((double(k) / (T + 2) + kOffset) / (1 + kOffset) * kHalfPi);
      return c * c;
    };
    return 1 - level(i + 1) / level(0);
  };
  std::vector<double> total(static_cast<size_t>(T) + 1, 0.0);
  for (int i = 1; i <= T; ++i) {
    total[static_cast<size_t>(i)] = total[static_cast<size_t>(i) - 1] + theta(i);
  }
  // -log(alpha) at a training step, whole or between two.
  const auto depth = [=](double t) {
    const auto low = static_cast<size_t>(std::min(std::floor(t), double(T - 1)));
    const double sum = total[low] + (t - double(low)) * (total[low + 1] - total[low]);
    return -std::log(least) * sum / total.back();
  };
  const auto path = [=](double rho) {
    const double alpha = high / std::hypot(high, rho), wanted = -std::log(alpha);
    double a = 0, b = T;
    for (int i = 0; i < 60; ++i) (depth((a + b) / 2) < wanted ? a : b) = (a + b) / 2;
    // 1 - alpha without cancellation.
    const double prior = rho * rho / (std::hypot(high, rho) * (std::hypot(high, rho) + high));
    return make_node(b, alpha, prior, rho);
  };
  const int n = r.placed();
  Grid grid;
  for (const double t : linspace(T, double(T) / n, n)) {
    const double minus = depth(t);
    Node node = path(high * std::sqrt(std::expm1(2 * minus)));
    node.t = t;
    grid.nodes.push_back(node);
  }
  grid.path = path;
  return grid;
}

constexpr std::string_view kNames[] = {"ornstein_uhlenbeck", "mean_reverting", "bridge"};

}  // namespace

bool has_prior(std::string_view name) { return contains(kNames, name); }

Grid prior_grid(const Request& r) {
  if (r.name == "bridge") return bridge(r);
  return r.name == "mean_reverting" ? mean_reverting(r) : ornstein_uhlenbeck(r);
}

}  // namespace fewstep::solver
