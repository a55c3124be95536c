// SPDX-License-Identifier: Apache-2.0
// Solvers with two or three model calls a step that draw noise.
#include <algorithm>
#include <cmath>

#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

bool any_noise(std::span<const Target> targets, size_t j) {
  return std::ranges::any_of(
      targets, [j](const Target& t) { return j < t.noise.size() && t.noise[j] != 0; });
}

double at(const std::vector<double>& values, size_t j) { return j < values.size() ? values[j] : 0; }

// x0 frame, a constant x0, to (alpha, sigma_down): the deterministic part of an ancestral step.
Target x0_target(const Node& from, const Node& to, double sigma_down) {
  const double h = std::log(to.alpha / sigma_down) - from.lambda;
  return {to, sigma_down / from.sigma, {to.alpha * -std::expm1(-h)}, {}};
}

Node between(const Generator& g, const Node& from, double lambda_to, double r) {
  return g.schedule().at_rho(std::exp(-(from.lambda + r * (lambda_to - from.lambda))));
}

constexpr Interpolation kNoiseFrame{FEWSTEP_FRAME_EPSILON, FEWSTEP_VARIABLE_RHO, 0, nullptr};

}  // namespace

Ancestral ancestral(const Node& from, const Node& to, double eta) {
  const double h = to.lambda - from.lambda;
  const double fresh = -std::expm1(-2 * h);  // share of the variance that eta = 1 redraws
  // 1 - eta^2 * fresh as a sum of positive terms: no digits are lost when little remains.
  const double kept = (1 - eta * eta) + eta * eta * std::exp(-2 * h);
  return {eta * to.sigma * std::sqrt(fresh), to.sigma * std::sqrt(kept)};
}

void staged_step(Generator* g, int i, const Node& from, const Interpolation& how,
                 std::span<const Target> targets) {
  uint32_t draw = 0;
  for (size_t s = 0; s < targets.size(); ++s) {
    const Node& here = s == 0 ? from : targets[s - 1].at;
    const Expr m = g->quantities(here).in(how.frame);
    const Expr xi = g->step_noise(i, draw);
    draw += any_noise(targets, s);
    // What target u has so far, with what this row adds.
    const auto sum = [&](size_t u) {
      Expr known = s == 0 ? targets[u].keep * Expr::slot(0) : Expr::slot(static_cast<int>(u));
      return known + at(targets[u].weight, s) * m + at(targets[u].noise, s) * xi;
    };
    std::vector<Output> partial;
    for (size_t u = s + 1; u < targets.size(); ++u) {
      const bool changes = at(targets[u].weight, s) != 0 || at(targets[u].noise, s) != 0;
      if (s > 0 && !changes) continue;
      partial.push_back({FEWSTEP_SLOT + static_cast<int>(u), FEWSTEP_ROLE_OTHER, sum(u)});
    }
    g->add({i, here, from, targets[s].at, how.frame, how.variable, targets[s].order, how.tau},
           sum(s), std::move(partial));
  }
}

// DPM-Solver-2 with ancestral noise, as k-diffusion has it: the midpoint rule in sigma / alpha to
// sigma_down, through the geometric mean of the ends.
void dpm2_ancestral(Generator* g) {
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    if (to.sigma == 0 || from.alpha == 0) {
      ancestral_step(g, i, g->settings().eta);
      continue;
    }
    const Ancestral split = ancestral(from, to, g->settings().eta);
    const double rho_down = split.down / to.alpha;
    const Node mid = g->schedule().at_rho(std::sqrt(from.rho() * rho_down));
    const Target targets[] = {
        {mid, mid.alpha / from.alpha, {mid.alpha * (mid.rho() - from.rho())}, {}},
        {to, to.alpha / from.alpha, {0, to.alpha * (rho_down - from.rho())}, {0, split.up}}};
    staged_step(g, i, from, kNoiseFrame, targets);
  }
}

// DPM-Solver++(2S) with ancestral noise (k-diffusion): the middle in lambda of the way to
// sigma_down.
void dpmpp_2s_ancestral(Generator* g) {
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    if (to.sigma == 0 || from.alpha == 0) {
      ancestral_step(g, i, g->settings().eta);
      continue;
    }
    const Ancestral split = ancestral(from, to, g->settings().eta);
    const Node mid = between(*g, from, std::log(to.alpha / split.down), 0.5);
    Target end = x0_target(from, to, split.down);
    end.weight = {0, end.weight[0]};
    end.noise = {0, split.up};
    const Target targets[] = {x0_target(from, mid, mid.sigma), end};
    staged_step(g, i, from, {}, targets);
  }
}

// DPM-Solver++ (SDE) of k-diffusion: both stages are ancestral. Their noises are increments of one
// Brownian motion in sigma / alpha: the end's contains the stage's.
void dpmpp_sde(Generator* g) {
  const double r = g->settings().number("r1"), share = 0.5 / r, eta = g->settings().eta;
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    if (to.sigma == 0 || from.alpha == 0) {
      ancestral_step(g, i, eta);
      continue;
    }
    const Node mid = between(*g, from, to.lambda, r);
    const Ancestral first = ancestral(from, mid, eta), second = ancestral(from, to, eta);
    Target stage = x0_target(from, mid, first.down), end = x0_target(from, to, second.down);
    const double shared = (from.rho() - mid.rho()) / (from.rho() - to.rho());
    stage.noise = {first.up};
    end.weight = {(1 - share) * end.weight[0], share * end.weight[0]};
    end.noise = {second.up * std::sqrt(shared), second.up * std::sqrt(1 - shared)};
    const Target targets[] = {stage, end};
    staged_step(g, i, from, {}, targets);
  }
}

namespace {

// The reverse SDE's linear part from one node to another: factor and noise.
Weights linear_part(const Interpolation& how, const Node& from, const Node& to) {
  return step_weights(how, from, to, {&from, 1});
}

// A target through Lagrange nodes; the draws belong to the intervals between successive `path`
// nodes, each carried on to the target.
Target seeds_target(const Interpolation& how, const Node& from, std::span<const Node> path,
                    std::span<const Node> nodes) {
  const Node& to = path.back();
  const Weights w = step_weights(how, from, to, nodes);
  Target target{to, w.A, w.b, {}, w.order};
  const Node* begin = &from;
  for (const Node& end : path) {
    const double carried = &end == &to ? 1 : linear_part(how, end, to).A;
    target.noise.push_back(carried * linear_part(how, *begin, end).c);
    begin = &end;
  }
  return target;
}

}  // namespace

// SEEDS-2 and -3 (Gonzalez et al. 2023, arXiv 2305.14267) on x0: exponential Runge-Kutta whose
// stages lie on one path of the SDE's noise, carried exactly from stage to stage. eta is tau^2.
void seeds(Generator* g) {
  Interpolation how;
  how.tau = std::sqrt(g->settings().eta);
  const double r = g->settings().number("r1");
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    if (to.sigma == 0 || from.alpha == 0) {
      sde_step(g, i, how.tau);
      continue;
    }
    if (g->settings().order == 2) {
      const Node path[] = {between(*g, from, to.lambda, r), to};
      Target stage = seeds_target(how, from, std::span(path, 1), {&from, 1});
      Target end = seeds_target(how, from, path, {&from, 1});
      const double share = 0.5 / r;
      end.weight = {(1 - share) * end.weight[0], share * end.weight[0]};
      const Target targets[] = {stage, end};
      staged_step(g, i, from, how, targets);
      continue;
    }
    const Node path[] = {between(*g, from, to.lambda, 1.0 / 3),
                         between(*g, from, to.lambda, 2.0 / 3), to};
    const Node early[] = {from, path[0]}, late[] = {from, path[1]};
    const Target first = seeds_target(how, from, std::span(path, 1), {&from, 1});
    const Target second = seeds_target(how, from, std::span(path, 2), early);
    Target end = seeds_target(how, from, path, late);
    end.weight = {end.weight[0], 0, end.weight[1]};
    const Target targets[] = {first, second, end};
    staged_step(g, i, from, how, targets);
  }
}

}  // namespace fewstep::solver
