// SPDX-License-Identifier: Apache-2.0
// Deterministic steps with noise added in between: rows that call no model.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/status.h"
#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

constexpr std::array<double, 4> kHeunA = {0, 0, 1, 0};
constexpr std::array<double, 2> kHeunB = {0.5, 0.5};
constexpr std::array<double, 1> kEulerA = {0}, kEulerB = {1};

void ode_step(Generator* g, int i, const Node& from, const Node& to) {
  if (g->settings().variant == "euler") {
    runge_kutta_step(g, FEWSTEP_FRAME_EPSILON, kEulerA, kEulerB, 1, i, from, to);
  } else {
    runge_kutta_step(g, FEWSTEP_FRAME_EPSILON, kHeunA, kHeunB, 2, i, from, to);
  }
}

}  // namespace

void renoise(Generator* g, int i, const Node& from, const Node& to, uint32_t draw) {
  Place place{i, from, from, to};
  place.evaluates = false;
  const double fresh = std::sqrt((to.rho() - from.rho()) * (to.rho() + from.rho()));
  g->add(place, to.alpha / from.alpha * Expr::slot(0) + to.alpha * fresh * g->step_noise(i, draw));
}

// EDM's stochastic sampler (Karras et al. 2022, arXiv 2206.00364, algorithm 2): before a step the
// noise is raised by the factor 1 + gamma.
void edm_stochastic(Generator* g) {
  const Settings& s = g->settings();
  const double gamma = std::min(s.number("s_churn") / g->steps(), std::numbers::sqrt2 - 1);
  for (int i = g->first(); i < g->steps(); ++i) {
    Node from = g->node(i);
    const double rho = from.rho();
    const bool inside = rho >= s.number("s_tmin") && rho <= s.number("s_tmax");
    if (gamma > 0 && inside && std::isfinite(rho)) {
      const Node raised = g->schedule().at_rho(rho * (1 + gamma));
      renoise(g, i, from, raised, 0);
      from = raised;
    }
    ode_step(g, i, from, g->node(i + 1));
  }
}

namespace {

// After a node the trajectory goes `repeats` times back up to rho_max and down again in `steps`.
struct Interval {
  int node, steps, repeats;
  double rho_max;
};

[[noreturn]] void bad_interval(size_t k, const std::string& must, double got) {
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("fewstep_plan_create: 'intervals[%zu]' must %s, got %s", k, must.c_str(),
                     number(got).c_str()));
}

std::vector<Interval> read_intervals(const Generator& g) {
  const std::vector<double> list = g.settings().list("intervals");
  if (list.size() % 4 != 0) {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("fewstep_plan_create: 'intervals' must hold (steps, repeats, sigma_min, "
                       "sigma_max) for each interval, got %zu numbers",
                       list.size()));
  }
  std::vector<Interval> out;
  for (size_t k = 0; k < list.size() / 4; ++k) {
    const double* v = &list[4 * k];
    if (!(v[0] >= 1 && v[0] <= 10000 && v[0] == std::floor(v[0]))) {
      bad_interval(k, "have a whole number of steps, 1 to 10000", v[0]);
    }
    if (!(v[1] >= 0 && v[1] <= 255 && v[1] == std::floor(v[1]))) {
      bad_interval(k, "have a whole number of repeats, 0 to 255", v[1]);
    }
    // The node nearest to sigma_min; the last has no noise to begin from.
    int best = g.first() + 1;
    for (int n = best; n <= g.steps() && g.node(n).sigma > 0; ++n) {
      if (std::abs(g.node(n).rho() - v[2]) < std::abs(g.node(best).rho() - v[2])) best = n;
    }
    if (g.steps() < best || g.node(best).sigma == 0) {
      bad_interval(k, "have a node with noise after the first", v[2]);
    }
    if (!(v[3] > g.node(best).rho() && std::isfinite(v[3]))) {
      bad_interval(k, "have sigma_max above its lower node, " + number(g.node(best).rho()), v[3]);
    }
    out.push_back({best, static_cast<int>(v[0]), static_cast<int>(v[1]), v[3]});
  }
  return out;
}

// EDM's spacing from `high` down to `low`.
std::vector<Node> karras_nodes(const Generator& g, const Node& low, double high, int steps) {
  constexpr double kRho = 7;
  const double a = std::pow(high, 1 / kRho), b = std::pow(low.rho(), 1 / kRho);
  std::vector<Node> nodes;
  for (int k = 0; k < steps; ++k) {
    const double rho = k == 0 ? high : std::pow(a + (b - a) * k / steps, kRho);
    nodes.push_back(g.schedule().at_rho(rho));
  }
  nodes.push_back(low);
  return nodes;
}

}  // namespace

// Restart sampling (Xu et al. 2023, arXiv 2306.14878): the ODE, and at the lower end of an interval
// back up by new noise, several times.
void restart(Generator* g) {
  const std::vector<Interval> intervals = read_intervals(*g);
  for (int i = g->first(); i < g->steps(); ++i) {
    ode_step(g, i, g->node(i), g->node(i + 1));
    for (const Interval& interval : intervals) {
      if (interval.node != i + 1) continue;
      const Node& low = g->node(i + 1);
      const std::vector<Node> nodes = karras_nodes(*g, low, interval.rho_max, interval.steps);
      for (int k = 0; k < interval.repeats; ++k) {
        renoise(g, i, low, nodes[0], static_cast<uint32_t>(k));
        for (size_t n = 0; n + 1 < nodes.size(); ++n) ode_step(g, i, nodes[n], nodes[n + 1]);
      }
    }
  }
}

}  // namespace fewstep::solver
