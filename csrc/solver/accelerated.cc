// SPDX-License-Identifier: Apache-2.0
// Training-free acceleration with proof (Li et al. 2024, arXiv 2403.03852): DDIM and DDPM with one
// more term. The updates are expansions in 1 - alpha, as published: rows claim nothing (order 0).
#include <cmath>

#include "solver/generate.h"

namespace fewstep::solver {
namespace {

// y = x / unit is the sample of the variance-preserving process.
struct Vp {
  double unit, bar, sigma;  // bar: its alpha squared
};

Vp vp_of(const Node& node) {
  const double unit = std::hypot(node.alpha, node.sigma);
  return {unit, node.alpha * node.alpha / (unit * unit), node.sigma / unit};
}

Place place(int i, const Node& at, const Node& from, const Node& next) {
  return {i, at, from, next, FEWSTEP_FRAME_EPSILON, FEWSTEP_VARIABLE_LAMBDA, 0, 0};
}

constexpr int kPart = 1;  // variant "evaluate": the step without its correction
constexpr int kPast = 1;  // variant "reuse": the noise of the node before

}  // namespace

// Section 3.1. The correction compares the score with the one at the node before: evaluated at the
// sample led back there, as published (two calls), or, with variant "reuse", the one that the
// trajectory left there (one call). The first step has no node before and goes without.
void accelerated_ddim(Generator* g) {
  const bool reuse = g->settings().variant == "reuse";
  bool has_past = false;
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    if (from.alpha == 0 || to.sigma == 0) {
      one_node_step(g, i);
      continue;
    }
    const Vp now = vp_of(from), after = vp_of(to);
    const double alpha = now.bar / after.bar;
    const Expr e = g->quantities(from).noise, score = -1 / now.sigma * e;
    const Expr y = 1 / now.unit * Expr::slot(0);
    const double gain = after.unit / std::sqrt(alpha);
    Expr step = y + (1 - alpha) / 2 * score;
    const std::vector<Output> history = {{FEWSTEP_SLOT + kPast, FEWSTEP_ROLE_HISTORY, e}};
    if (!has_past) {
      g->add(place(i, from, from, to), gain * step, reuse ? history : std::vector<Output>());
      has_past = true;
      continue;
    }
    const Node& back = g->node(i - 1);
    const Vp before = vp_of(back);
    const double older = before.bar / now.bar;
    const double weight = (1 - alpha) * (1 - alpha) / (4 * (1 - older));
    step += weight * score;
    const double past = -weight * std::sqrt(older) * -1 / before.sigma;  // of the noise there
    if (reuse) {
      g->add(place(i, from, from, to), gain * (step + past * Expr::slot(kPast)), history);
      continue;
    }
    const Expr led_back = before.unit * std::sqrt(older) * (y - (1 - older) / 2 * score);
    g->add(place(i, from, from, back), led_back,
           {{FEWSTEP_SLOT + kPart, FEWSTEP_ROLE_OTHER, gain * step}});
    g->add(place(i, back, from, to), Expr::slot(kPart) + gain * past * g->quantities(back).noise);
  }
}

namespace {

// Standard deviation of each of the two draws of step i, for the variance-preserving sample; none
// where the step is the first-order one.
double half_noise(const Generator& g, int i) {
  if (i >= g.steps() || g.node(i).alpha == 0 || g.node(i + 1).sigma == 0) return 0;
  return std::sqrt((1 - vp_of(g.node(i)).bar / vp_of(g.node(i + 1)).bar) / 2);
}

// The first draw of step i, which comes before its model call.
Expr early_noise(const Generator& g, int i) {
  return vp_of(g.node(i)).unit * half_noise(g, i) * g.step_noise(i, 0);
}

}  // namespace

// Section 3.2: half of a step's noise is added before the score is asked for, and half after. The
// early draw of a step is part of the row before; that of the first step is a row of its own.
void accelerated_ddpm(Generator* g) {
  const int first = g->first();
  if (half_noise(*g, first) > 0) {
    Place early = place(first, g->node(first), g->node(first), g->node(first));
    early.evaluates = false;
    g->add(early, Expr::slot(0) + early_noise(*g, first));
  }
  for (int i = first; i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const Quantities m = g->quantities(from);
    Expr state;
    if (half_noise(*g, i) > 0) {
      const Vp now = vp_of(from), after = vp_of(to);
      const double alpha = now.bar / after.bar;
      const Expr mean = 1 / now.unit * Expr::slot(0) - (1 - alpha) / now.sigma * m.noise;
      const Expr late = half_noise(*g, i) * g->step_noise(i, 1);
      state = after.unit / std::sqrt(alpha) * (mean + late);
    } else {
      state = to.alpha * m.x0;  // from no signal: all noise is fresh
      if (to.sigma != 0) state += to.sigma * g->step_noise(i, 1);
    }
    if (half_noise(*g, i + 1) > 0) state += early_noise(*g, i + 1);
    g->add(place(i, from, from, to), std::move(state));
  }
}

}  // namespace fewstep::solver
