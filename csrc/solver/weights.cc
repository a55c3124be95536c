// SPDX-License-Identifier: Apache-2.0
#include "solver/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/status.h"

namespace fewstep::solver {
namespace {

constexpr int kPoints = 16;

// Gauss-Legendre on [-1, 1]: roots of P_16 by Newton's method from Tricomi's guess.
struct Rule {
  std::array<double, kPoints> x, w;
};

Rule gauss_legendre() {
  Rule rule;
  for (int i = 0; i < kPoints; ++i) {
    double x = std::cos(std::numbers::pi * (i + 0.75) / (kPoints + 0.5)), slope = 0;
    for (int iteration = 0; iteration < 8; ++iteration) {
      double p0 = 1, p1 = x;
      for (int n = 2; n <= kPoints; ++n) {
        const double p2 = ((2 * n - 1) * x * p1 - (n - 1) * p0) / n;
        p0 = p1;
        p1 = p2;
      }
      slope = kPoints * (x * p1 - p0) / (x * x - 1);
      x -= p1 / slope;
    }
    rule.x[static_cast<size_t>(i)] = x;
    rule.w[static_cast<size_t>(i)] = 2 / ((1 - x * x) * slope * slope);
  }
  return rule;
}

double flow_sigma(double lambda) { return 1 / (1 + std::exp(lambda)); }

double variable_at_lambda(const Interpolation& how, double lambda) {
  switch (how.variable) {
    case FEWSTEP_VARIABLE_RHO:
      return std::exp(-lambda);
    case FEWSTEP_VARIABLE_SIGMA:
      return flow_sigma(lambda);
    case FEWSTEP_VARIABLE_INVERSE_RHO:
      return std::exp(lambda);
    case FEWSTEP_VARIABLE_TIME:
      return how.clock->time(lambda);
    default:
      return lambda;
  }
}

// The kernel of the frame against d lambda (README, "One formula").
double kernel(const Interpolation& how, const Node& to, double lambda) {
  const double kappa = 1 + how.tau * how.tau;
  switch (how.frame) {
    case FEWSTEP_FRAME_EPSILON:
      return -to.sigma * kappa * std::exp(to.lambda - lambda);
    case FEWSTEP_FRAME_VELOCITY: {
      const double sigma = flow_sigma(lambda);
      return -sigma * (1 - sigma);
    }
    default:
      return to.alpha * kappa * std::exp(-kappa * (to.lambda - lambda));
  }
}

// Without noise, and when the polynomial's variable is the frame's own mu, the kernel is constant:
// the integral runs over mu and is exact, also where lambda is infinite.
bool in_own_variable(const Interpolation& how) {
  return how.tau == 0 &&
         ((how.frame == FEWSTEP_FRAME_EPSILON && how.variable == FEWSTEP_VARIABLE_RHO) ||
          (how.frame == FEWSTEP_FRAME_VELOCITY && how.variable == FEWSTEP_VARIABLE_SIGMA) ||
          (how.frame == FEWSTEP_FRAME_X0 && how.variable == FEWSTEP_VARIABLE_INVERSE_RHO));
}

double own_kernel(const Interpolation& how, const Node& to) {
  switch (how.frame) {
    case FEWSTEP_FRAME_EPSILON:
      return to.alpha;
    case FEWSTEP_FRAME_VELOCITY:
      return 1;
    default:
      return to.sigma;
  }
}

// The step with m constant, in closed form: finite wherever the frame has a step at all.
Weights constant(const Interpolation& how, const Node& from, const Node& to) {
  const double tau2 = how.tau * how.tau, kappa = 1 + tau2;
  const double h = to.lambda - from.lambda;
  Weights w;
  switch (how.frame) {
    case FEWSTEP_FRAME_X0: {
      const double decay = tau2 == 0 ? 1 : std::exp(-tau2 * h);
      w.A = to.sigma / from.sigma * decay;
      w.b = {to.alpha * -std::expm1(-kappa * h)};
      w.c = tau2 == 0 ? 0 : to.sigma * std::sqrt(-std::expm1(-2 * tau2 * h));
      break;
    }
    case FEWSTEP_FRAME_EPSILON:
      if (from.alpha == 0) {
        throw Error(
            FEWSTEP_INVALID_ARGUMENT,
            "fewstep_plan_create: 'schedule' must have signal (alpha above 0) at every node "
            "for a solver in the noise frame, got alpha = 0 at its first node");
      }
      w.A = to.alpha / from.alpha;
      w.b = {kappa * to.alpha * (to.rho() - from.rho())};
      w.c = tau2 == 0 ? 0 : to.sigma * how.tau * std::sqrt(std::expm1(2 * h));
      break;
    case FEWSTEP_FRAME_VELOCITY:
      w.A = 1;
      w.b = {to.sigma - from.sigma};
      break;
  }
  return w;
}

// Where to cut the interval: a discrete-time model's time is piecewise linear in lambda.
std::vector<double> cuts(const Interpolation& how, double from, double to) {
  std::vector<double> at = {from};
  if (how.variable == FEWSTEP_VARIABLE_TIME && how.clock) {
    for (const double knot : how.clock->knots(from, to)) at.push_back(knot);
  }
  at.push_back(to);
  return at;
}

}  // namespace

double integrate(double a, double b, double max_panel, const std::function<double(double)>& f) {
  static const Rule rule = gauss_legendre();
  const int panels = std::max(1, static_cast<int>(std::ceil(std::abs(b - a) / max_panel)));
  const double half = (b - a) / panels / 2;
  double sum = 0;
  for (int panel = 0; panel < panels; ++panel) {
    const double middle = a + (2 * panel + 1) * half;
    for (size_t i = 0; i < kPoints; ++i) sum += rule.w[i] * f(middle + half * rule.x[i]);
  }
  return sum * half;
}

double lagrange(std::span<const double> nodes, size_t j, double v) {
  double product = 1;
  for (size_t k = 0; k < nodes.size(); ++k) {
    if (k != j) product *= (v - nodes[k]) / (nodes[j] - nodes[k]);
  }
  return product;
}

double variable_at(const Interpolation& how, const Node& node) {
  switch (how.variable) {
    case FEWSTEP_VARIABLE_RHO:
      return node.rho();
    case FEWSTEP_VARIABLE_SIGMA:
      return node.sigma;
    case FEWSTEP_VARIABLE_INVERSE_RHO:
      return node.alpha / node.sigma;
    case FEWSTEP_VARIABLE_TIME:
      return node.t;
    default:
      return node.lambda;
  }
}

double kernel_integral(const Interpolation& how, const Node& from, const Node& to,
                       const std::function<double(double)>& f) {
  // Panels of 2 keep 16 points at 1e-15 for kernels e^{2u} times the polynomials in use.
  constexpr double kPanel = 2;
  const std::vector<double> at = cuts(how, from.lambda, to.lambda);
  double sum = 0;
  for (size_t i = 0; i + 1 < at.size(); ++i) {
    sum += integrate(at[i], at[i + 1], kPanel,
                     [&](double lambda) { return kernel(how, to, lambda) * f(lambda); });
  }
  return sum;
}

Weights step_weights(const Interpolation& how, const Node& from, const Node& to,
                     std::span<const Node> nodes) {
  Weights w = constant(how, from, to);
  std::vector<double> v;
  for (const Node& node : nodes) {
    v.push_back(variable_at(how, node));
    if (!std::isfinite(v.back())) {
      v.pop_back();
      break;
    }
  }
  const bool own = in_own_variable(how);
  const bool finite =
      own ? std::isfinite(variable_at(how, from)) && std::isfinite(variable_at(how, to))
          : std::isfinite(from.lambda) && std::isfinite(to.lambda);
  if (v.size() < 2 || !finite) return w;

  w.order = static_cast<int>(v.size());
  w.b.assign(v.size(), 0);
  for (size_t j = 0; j < v.size(); ++j) {
    if (own) {
      const double a = variable_at(how, from), b = variable_at(how, to);
      w.b[j] = own_kernel(how, to) *
               integrate(a, b, std::abs(b - a) + 1, [&](double u) { return lagrange(v, j, u); });
    } else {
      w.b[j] = kernel_integral(how, from, to, [&](double lambda) {
        return lagrange(v, j, variable_at_lambda(how, lambda));
      });
    }
  }
  return w;
}

}  // namespace fewstep::solver
