// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

// The noise scale function phi of ER-SDE as psi = phi / rho: its logarithm, and the derivative of
// that against log rho. psi must not fall, or a step would need negative variance.
struct NoiseScale {
  double (*log_psi)(double rho), (*slope)(double rho);
  double power;  // psi = rho^power; NaN for the others

  bool is_power() const { return std::isfinite(power); }
  // Past the end sde_4 would fall; nobody samples there but from pure noise.
  double end() const { return is_power() ? INFINITY : 1000; }
  double log_at(double rho) const { return log_psi(std::min(rho, end())); }
  double slope_at(double rho) const { return rho < end() ? slope(rho) : 0; }
};

template <int tenths>
constexpr NoiseScale power_scale() {
  return {[](double rho) { return tenths == 0 ? 0 : tenths / 10.0 * std::log(rho); },
          [](double) { return tenths / 10.0; }, tenths / 10.0};
}

double log_sde_1(double rho) { return std::log(std::exp(-1 / rho) + 10); }
double slope_sde_1(double rho) { return std::exp(-1 / rho) / (rho * (std::exp(-1 / rho) + 10)); }

double log_sde_4(double rho) {
  return -0.1 * std::log(rho) + std::log(std::log1p(100 * std::pow(rho, 1.5)));
}
double slope_sde_4(double rho) {
  const double u = 100 * std::pow(rho, 1.5);
  return -0.1 + 1.5 * u / ((1 + u) * std::log1p(u));
}

double log_sde_5(double rho) {
  const double u = std::pow(rho, 0.3);
  return u + std::log1p(10 * std::exp(-u));
}
double slope_sde_5(double rho) {
  const double u = std::pow(rho, 0.3);
  return 0.3 * u / (1 + 10 * std::exp(-u));
}

NoiseScale noise_scale(const std::string& variant) {
  const double none = std::nan("");
  if (variant == "ode") return power_scale<0>();
  if (variant == "sde") return power_scale<10>();
  if (variant == "sde_1") return {log_sde_1, slope_sde_1, none};
  if (variant == "sde_2") return power_scale<5>();
  if (variant == "sde_3") return power_scale<15>();
  if (variant == "sde_4") return {log_sde_4, slope_sde_4, none};
  return {log_sde_5, slope_sde_5, none};
}

// x_t / alpha_t = r x_s / alpha_s + int x0 phi_t phi' / phi^2 d rho, r = phi_t / phi_s, with x0 a
// polynomial in rho.
Weights er_weights(const NoiseScale& phi, const Node& from, const Node& to,
                   std::span<const Node> nodes) {
  Weights w;
  if (to.sigma == 0) {
    w.b = {to.alpha};
    return w;
  }
  // psi_t / psi_s; a power falls to zero at infinite rho.
  const double ratio = phi.is_power() && phi.power > 0 && std::isinf(from.rho())
                           ? 0
                           : std::exp(phi.log_at(to.rho()) - phi.log_at(from.rho()));
  w.A = to.sigma / from.sigma * ratio;
  w.b = {to.alpha - w.A * from.alpha};
  w.c = to.sigma * std::sqrt((1 - ratio) * (1 + ratio));
  std::vector<double> rho;
  for (const Node& node : nodes) {
    if (!std::isfinite(node.rho())) break;
    rho.push_back(node.rho());
  }
  if (rho.size() < 2) return w;
  w.order = phi.is_power() ? static_cast<int>(rho.size()) : 1;
  w.b.assign(rho.size(), 0);
  for (size_t j = 0; j < rho.size(); ++j) {
    w.b[j] = integrate(from.lambda, to.lambda, 1, [&](double lambda) {
      const double at = std::exp(-lambda);
      const double log_ratio = phi.log_at(to.rho()) - phi.log_at(at);
      return to.sigma * std::exp(lambda + log_ratio) * (1 + phi.slope_at(at)) *
             lagrange(rho, j, at);
    });
  }
  return w;
}

}  // namespace

// ER-SDE (Cui et al. 2023, arXiv 2309.06169). The authors' third-order step takes the first
// difference for the slope at the newest node; the polynomial here goes through all three.
void er_sde(Generator* g) {
  const NoiseScale phi = noise_scale(g->settings().variant);
  const double tau = phi.is_power() ? std::sqrt(phi.power) : 0;
  const int ring = g->settings().order - 1;
  const auto slot = [&](int step) { return 1 + (step - g->first()) % ring; };
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const Weights w = er_weights(phi, from, to, g->nodes(i, g->order_at(i)));
    const Expr m = g->quantities(from).x0;
    Expr state = w.A * Expr::slot(0) + w.b[0] * m;
    for (size_t j = 1; j < w.b.size(); ++j) {
      state += w.b[j] * Expr::slot(slot(i - static_cast<int>(j)));
    }
    if (w.c != 0) state += w.c * g->step_noise(i);
    std::vector<Output> history;
    if (ring > 0) history.push_back({slot(i), FEWSTEP_ROLE_HISTORY, m});
    g->add({i, from, from, to, FEWSTEP_FRAME_X0, FEWSTEP_VARIABLE_RHO, w.order, tau},
           std::move(state), std::move(history));
  }
}

}  // namespace fewstep::solver
