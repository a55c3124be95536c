// SPDX-License-Identifier: Apache-2.0
// Samplers of distilled models: jump towards the data, then draw new noise.
#include <algorithm>
#include <cmath>

#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

// By the model's own x0 and noise to `target`, then by new noise to the next node.
void jump(Generator* g, int i, const Node& target) {
  const Node &from = g->node(i), &to = g->node(i + 1);
  const Weights w = step_weights({}, from, target, {&from, 1});
  const double keep = to.alpha / target.alpha;
  const double fresh =
      to.rho() > target.rho()
          ? to.alpha * std::sqrt((to.rho() - target.rho()) * (to.rho() + target.rho()))
          : 0;
  Expr state = keep * (w.A * Expr::slot(0) + w.b[0] * g->quantities(from).x0);
  if (fresh != 0) state += fresh * g->step_noise(i);
  g->add({i, from, from, to}, std::move(state));
}

// The model time (1 - gamma) t of TCD. A discrete-time model has whole training steps, and a node
// that is one may have been found through its logarithm.
Node earlier(const Generator& g, const Node& node, double gamma) {
  const Clock& clock = g.schedule().clock();
  if (node.sigma == 0 || gamma == 0) return node;
  if (!clock.empty()) {
    constexpr double kRounding = 1e-4;
    const double t = std::max(0.0, std::floor((1 - gamma) * node.t + kRounding));
    if (t >= node.t - kRounding) return node;
    return g.schedule().at_rho(std::exp(-clock.lambda(t)));
  }
  if (g.schedule().process() == FEWSTEP_PROCESS_FLOW) {
    const double sigma = (1 - gamma) * node.sigma;
    return g.schedule().at_rho(sigma / (1 - sigma));
  }
  return g.schedule().at_rho((1 - gamma) * node.rho());
}

}  // namespace

// Trajectory consistency distillation (Zheng et al. 2024, arXiv 2402.19159), strategic stochastic
// sampling: jump to the time (1 - gamma) t of the next node, then diffuse up to it.
void tcd(Generator* g) {
  const double gamma = g->settings().number("gamma");
  for (int i = g->first(); i < g->steps(); ++i) jump(g, i, earlier(*g, g->node(i + 1), gamma));
}

// Gamma sampling of consistency trajectory models (Kim et al. 2023, arXiv 2310.02279): to
// s = sqrt(1 - gamma^2) (sigma - sigma_min) + sigma_min, in sigma / alpha.
void ctm(Generator* g) {
  const double gamma = g->settings().number("gamma"), low = g->settings().number("sigma_min");
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node& to = g->node(i + 1);
    if (to.rho() <= low || gamma == 0) {
      jump(g, i, to);
      continue;
    }
    const double keep = std::sqrt((1 - gamma) * (1 + gamma));
    jump(g, i, g->schedule().at_rho(keep * (to.rho() - low) + low));
  }
}

// Euler ancestral for rectified flows (ComfyUI): to sigma_down = sigma_t (1 + eta (sigma_t /
// sigma_s
// - 1)), then diffuse up to sigma_t.
void euler_ancestral_rf(Generator* g) {
  const double eta = g->settings().eta;
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const double down = to.sigma * (1 + eta * (to.sigma / from.sigma - 1));
    jump(g, i, to.sigma == 0 ? to : g->schedule().at_rho(down / (1 - down)));
  }
}

// Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1): the model tells
// the sample at sigma_min, which already holds that much noise.
void consistency(Generator* g) {
  const double low = g->settings().number("sigma_min");
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const double rho = to.rho();
    const double fresh = rho > low ? to.alpha * std::sqrt((rho - low) * (rho + low)) : 0;
    Expr state = to.alpha * g->quantities(from).x0;
    if (fresh != 0) state += fresh * g->step_noise(i);
    // Above sigma_min = 0 the model's x0 is not the clean one, which is what a row could claim.
    g->add({i, from, from, to, FEWSTEP_FRAME_X0, FEWSTEP_VARIABLE_LAMBDA, low == 0 ? 1 : 0, 0},
           std::move(state));
  }
}

}  // namespace fewstep::solver
