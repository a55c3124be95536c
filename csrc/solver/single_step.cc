// SPDX-License-Identifier: Apache-2.0
// Single-step exponential solvers: each step makes its own model calls and forgets them.
#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "solver/generate.h"

namespace fewstep::solver {
namespace {

// Nodes of a step: its stages, then its end. A rule gives the weights of the state at nodes[s + 1],
// b[j] for the m of stage j <= s.
using Nodes = std::span<const Node>;
using StageRule = std::function<Weights(const Interpolation&, Nodes nodes, size_t s)>;

// The polynomial through the stages in `used`.
Weights through(const Interpolation& how, Nodes nodes, size_t s,
                std::initializer_list<size_t> used) {
  std::vector<Node> chosen;
  for (const size_t j : used) chosen.push_back(nodes[j]);
  const Weights w = step_weights(how, nodes[0], nodes[s + 1], chosen);
  Weights spread{w.A, std::vector<double>(s + 1, 0), w.c, w.order};
  size_t k = 0;
  for (const size_t j : used) spread.b[j] = w.b[k++];
  return spread;
}

Weights through_all(const Interpolation& how, Nodes nodes, size_t s) {
  if (s == 0) return through(how, nodes, s, {0});
  if (s == 1) return through(how, nodes, s, {0, 1});
  return through(how, nodes, s, {0, 1, 2});
}

// Where node j stands in the step, 0 to 1 in lambda.
double fraction(Nodes nodes, size_t j) {
  return (nodes[j].lambda - nodes[0].lambda) / (nodes.back().lambda - nodes[0].lambda);
}

// The slope between the first two stages, weighted by half the integral of the kernel.
Weights half_slope(const Interpolation& how, Nodes nodes, size_t s) {
  Weights w = through(how, nodes, s, {0});
  if (s == 0) return w;
  const double r = (nodes[1].lambda - nodes[0].lambda) / (nodes[s + 1].lambda - nodes[0].lambda);
  w.b[1] = w.b[0] * 0.5 / r;
  w.b[0] -= w.b[1];
  return w;
}

// h^2 phi_2 up to node s: the integral of the kernel times (lambda - lambda_from), in units of the
// sample there.
double first_moment(const Interpolation& how, Nodes nodes, size_t s) {
  const double unit = how.frame == FEWSTEP_FRAME_X0 ? nodes[s].alpha : nodes[s].sigma;
  return kernel_integral(how, nodes[0], nodes[s],
                         [&](double lambda) { return lambda - nodes[0].lambda; }) /
         unit;
}

// Three stages anywhere in the step: Hochbruck, Ostermann 2005 (Exponential Runge-Kutta methods for
// parabolic problems), eq. 5.9, where gamma makes the conditions of order 3 hold. At c3 = 2/3 gamma
// is 0 and this is DPM-Solver-3.
Weights three_stages(const Interpolation& how, Nodes nodes, size_t s) {
  const double c2 = fraction(nodes, 1), c3 = fraction(nodes, 2);
  const double gamma = (3 * c3 * c3 - 2 * c3) / (c2 * (2 - 3 * c2));
  // Order 3 asks for ever larger weights as c2 nears 2/3; there order 2 is the better step.
  constexpr double kLargest = 10;
  if (s == 0 || !(std::abs(gamma) <= kLargest)) {
    if (s < 2) return through_all(how, nodes, s);
    return through(how, nodes, s, {0, 2});
  }
  const double h = nodes.back().lambda - nodes[0].lambda;
  const double unit = how.frame == FEWSTEP_FRAME_X0 ? nodes[s + 1].alpha : nodes[s + 1].sigma;
  const double moment = unit * first_moment(how, nodes, s + 1) / h;
  Weights w = through(how, nodes, s, {0});
  if (s == 1) {
    w.b[1] = unit * gamma * first_moment(how, nodes, 1) / (c2 * h) + moment / c2;
  } else {
    w.b[1] = gamma / (gamma * c2 + c3) * moment;
    w.b[2] = 1 / (gamma * c2 + c3) * moment;
    w.order = 2;
  }
  for (size_t j = 1; j <= s; ++j) w.b[0] -= w.b[j];
  return w;
}

// One step over nodes[0 .. stages] (the last is its end), of schedule interval `i`. Slot 1 keeps
// the sample at the start, slots 2.. the stages' m. With `lower`, the last row also leaves the
// solution by that rule in the slot after these.
void add_step(Generator* g, const Interpolation& how, int i, const std::vector<Node>& nodes,
              const StageRule& rule, const StageRule& lower = {}) {
  const size_t stages = nodes.size() - 1;
  for (size_t s = 0; s < stages; ++s) {
    const Node &at = nodes[s], &next = nodes[s + 1];
    const Weights w = rule(how, nodes, s);
    const Expr m = g->quantities(at).in(how.frame);
    const auto apply = [&](const Weights& weights) {
      Expr sum = weights.A * Expr::slot(s == 0 ? 0 : 1) + weights.b[s] * m;
      for (size_t j = 0; j < s; ++j) sum += weights.b[j] * Expr::slot(2 + static_cast<int32_t>(j));
      return sum;
    };
    Expr state = apply(w);
    std::vector<Output> others;
    if (lower && s + 1 == stages) {
      Output other{FEWSTEP_SLOT + 1 + static_cast<int32_t>(stages), FEWSTEP_ROLE_OTHER,
                   apply(lower(how, nodes, s))};
      other.lasting = true;
      others.push_back(std::move(other));
    }
    if (s == 0 && stages > 1) {
      others.push_back({FEWSTEP_SLOT + 1, FEWSTEP_ROLE_ANCHOR, Expr::slot(0)});
    }
    if (s + 1 < stages) {
      others.push_back({FEWSTEP_SLOT + 2 + static_cast<int32_t>(s), FEWSTEP_ROLE_HISTORY, m});
    }
    g->add({i, at, nodes[0], next, how.frame, how.variable, w.order, 0}, std::move(state),
           std::move(others));
  }
}

// A polynomial in lambda has no place on a step to or from an infinite one.
bool is_finite(const Node& from, const Node& to) { return from.alpha != 0 && to.sigma != 0; }

// Stages at fractions of each interval in lambda.
void with_inner_nodes(Generator* g, const Interpolation& how, std::span<const double> fractions,
                      const StageRule& rule, const StageRule& lower = {}) {
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    if (!is_finite(from, to)) {
      one_node_step(g, i);
      continue;
    }
    std::vector<Node> nodes = {from};
    for (const double r : fractions) {
      const double lambda = from.lambda + r * (to.lambda - from.lambda);
      nodes.push_back(r == 1 ? to : g->schedule().at_rho(std::exp(-lambda)));
    }
    nodes.push_back(to);
    add_step(g, how, i, nodes, rule, lower);
  }
}

std::vector<double> third_order_fractions(const Settings& settings) {
  const double r1 = settings.number("r1"), r2 = settings.number("r2");
  if (!(r1 < r2)) {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("fewstep_plan_create: 'r2' must be above r1 = %g, got %g", r1, r2));
  }
  return {r1, r2};
}

// How many of the schedule's intervals each step takes when its stages are the schedule's own
// nodes: `order` each and fewer at the end, as diffusers divides them.
std::vector<int> group_sizes(const Generator& g) {
  const int order = g.settings().order, left = g.steps() - g.first();
  std::vector<int> sizes(static_cast<size_t>(left / order), order);
  if (left % order > 0) sizes.push_back(left % order);
  if (g.settings().lower_order_final && left % order == 0) {
    sizes.pop_back();
    if (order > 1) sizes.push_back(order - 1);
    sizes.push_back(1);
  }
  // A step to or from an infinite lambda stands alone.
  if (!sizes.empty() && sizes.back() > 1 && g.node(g.steps()).sigma == 0) {
    --sizes.back();
    sizes.push_back(1);
  }
  if (!sizes.empty() && sizes.front() > 1 && g.node(g.first()).alpha == 0) {
    --sizes.front();
    sizes.insert(sizes.begin(), 1);
  }
  return sizes;
}

void on_schedule_nodes(Generator* g, const Interpolation& how, const StageRule& rule) {
  int i = g->first();
  for (const int size : group_sizes(*g)) {
    if (size == 1) {
      one_node_step(g, i);
    } else {
      std::vector<Node> nodes;
      for (int k = 0; k <= size; ++k) nodes.push_back(g->node(i + k));
      add_step(g, how, i, nodes, rule);
    }
    i += size;
  }
}

// DPM-Solver (Lu et al. 2022, arXiv 2206.00927, algorithms 1, 2 and 3 to 5) and, in the x0 frame,
// DPM-Solver++ (2211.01095, algorithm 1).
void dpm_single_step(Generator* g, fewstep_frame frame) {
  const Interpolation how{frame, FEWSTEP_VARIABLE_LAMBDA, 0, nullptr};
  const Settings& settings = g->settings();
  const bool exact = settings.variant.ends_with("heun");
  const bool parity = settings.parity == "diffusers";
  const StageRule rule = [=](const Interpolation& in, Nodes nodes, size_t s) -> Weights {
    const size_t stages = nodes.size() - 1;
    if (exact) return through_all(in, nodes, s);
    if (s == 1 && (settings.order == 2 || parity)) return half_slope(in, nodes, s);
    if (stages < 3) return through_all(in, nodes, s);
    return parity && s == 2 ? through(in, nodes, s, {0, 2}) : three_stages(in, nodes, s);
  };
  if (settings.variant.starts_with("grid")) {
    return on_schedule_nodes(g, how, rule);
  }
  std::vector<double> fractions = {settings.number("r1", 0.5)};
  if (settings.order == 3) fractions = third_order_fractions(settings);
  with_inner_nodes(g, how, fractions, rule);
}

// DPM-Solver-12 and -23 (the same, appendix C): pairs that share their stages.
void embedded(Generator* g, fewstep_frame frame) {
  const Interpolation how{frame, FEWSTEP_VARIABLE_LAMBDA, 0, nullptr};
  if (g->settings().order == 2) {
    const double half[] = {0.5};
    return with_inner_nodes(g, how, half, half_slope, [](const auto& in, Nodes nodes, size_t s) {
      return through(in, nodes, s, {0});
    });
  }
  const double thirds[] = {1.0 / 3, 2.0 / 3};
  with_inner_nodes(g, how, thirds, three_stages, half_slope);
}

}  // namespace

void dpm_single(Generator* g) { dpm_single_step(g, FEWSTEP_FRAME_EPSILON); }
void dpmpp_single(Generator* g) { dpm_single_step(g, FEWSTEP_FRAME_X0); }
void dpm_embedded(Generator* g) { embedded(g, FEWSTEP_FRAME_EPSILON); }
void dpmpp_embedded(Generator* g) { embedded(g, FEWSTEP_FRAME_X0); }

// Refined exponential solver, two stages (Zhang et al. 2023, arXiv 2308.02157): the order-2 scheme
// of Hochbruck, Ostermann 2005 (Exponential Runge-Kutta methods for parabolic problems), eq. 5.3.
void res_2s(Generator* g) {
  const double c2 = g->settings().number("r1");
  with_inner_nodes(g, {}, {&c2, 1}, through_all);
}

// The same with three stages.
void res_3s(Generator* g) {
  with_inner_nodes(g, {}, third_order_fractions(g->settings()), three_stages);
}

}  // namespace fewstep::solver
