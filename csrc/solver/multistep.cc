// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "solver/generate.h"

namespace fewstep::solver {

// Second-order DPM-Solver++ with the midpoint rule (Lu et al. 2022, arXiv 2211.01095, algorithm 2):
// the slope is weighted by half the integral of the kernel instead of its first moment. Second
// order, but exact only for constants.
void midpoint(const Node& from, const Node& to, std::span<const Node> nodes, Weights* w) {
  if (w->b.size() != 2) return;
  const double total = w->b[0] + w->b[1];
  const double r = (nodes[0].lambda - nodes[1].lambda) / (to.lambda - from.lambda);
  w->b = {total * (1 + 0.5 / r), total * (-0.5 / r)};
  w->order = 1;
}

// The third-order step as public libraries ship it: the second difference D2 = h^2 f[0, 1, 2]
// counts half, which leaves second order. Kept for parity only.
void halve_second_difference(const Interpolation& how, const Node& from, const Node& to,
                             std::span<const Node> nodes, Weights* w) {
  if (w->b.size() != 3) return;
  const double h = to.lambda - from.lambda;
  const double h0 = nodes[0].lambda - nodes[1].lambda, h1 = nodes[1].lambda - nodes[2].lambda;
  const double second_moment = kernel_integral(how, from, to, [&](double lambda) {
    const double u = (lambda - from.lambda) / h;
    return u * u;
  });
  const double half = 0.5 * second_moment * h * h;
  w->b[0] -= half / (h0 * (h0 + h1));
  w->b[1] += half / (h0 * h1);
  w->b[2] -= half / (h1 * (h0 + h1));
  w->order = 2;
}

namespace {

// A one-node step is the same in every frame. Where the noise frame has none (no signal) or would
// leave x0 as a difference (no noise), the x0 frame says it.
bool is_x0_step(const Interpolation& how, const Node& from, const Node& to, int order) {
  if (how.frame != FEWSTEP_FRAME_EPSILON) return false;
  const bool polynomial_ends = how.variable != FEWSTEP_VARIABLE_RHO || order == 1;
  return from.alpha == 0 || (to.sigma == 0 && polynomial_ends);
}

}  // namespace

void multistep(Generator* g, Interpolation how, const Adjust& adjust) {
  const int ring = g->settings().order - 1;
  const auto slot = [&](int step) { return 1 + (step - g->first()) % ring; };
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const bool x0_step = is_x0_step(how, from, to, g->order_at(i));
    const Interpolation here = x0_step ? Interpolation() : how;
    std::vector<Node> nodes = g->nodes(i, x0_step ? 1 : g->order_at(i));
    if (!x0_step && how.frame == FEWSTEP_FRAME_EPSILON && nodes.back().alpha == 0) nodes.pop_back();
    Weights w = step_weights(here, from, to, nodes);
    if (adjust) adjust(from, to, nodes, &w);

    const Expr m = g->quantities(from).in(here.frame);
    Expr state = w.A * Expr::slot(0) + w.b[0] * m;
    for (size_t j = 1; j < w.b.size(); ++j) {
      state += w.b[j] * Expr::slot(slot(i - static_cast<int>(j)));
    }
    if (w.c != 0) state += w.c * g->step_noise(i);
    std::vector<Output> history;
    // The oldest value, which this row reads before it writes, makes room. A node without signal
    // has no place in the noise frame: later steps leave it out.
    if (ring > 0 && !x0_step) history.push_back({slot(i), FEWSTEP_ROLE_HISTORY, m});
    g->add({i, from, from, to, here.frame, here.variable, w.order, here.tau}, std::move(state),
           std::move(history));
  }
}

// dpmpp_2m and dpmpp_2m_sde: eta is tau^2, and 0 for the former.
void dpmpp_2m(Generator* g) {
  Interpolation how;
  how.tau = std::sqrt(g->settings().eta);
  if (g->settings().variant == "heun") return multistep(g, how);
  multistep(g, how, midpoint);
}

namespace {

constexpr Interpolation kNoise{FEWSTEP_FRAME_EPSILON, FEWSTEP_VARIABLE_LAMBDA, 0, nullptr};

void third_order(Generator* g, const Interpolation& how) {
  const std::string& parity = g->settings().parity;
  if (parity.empty()) return multistep(g, how);
  multistep(g, how, [&](const Node& from, const Node& to, std::span<const Node> nodes, Weights* w) {
    // diffusers warms up with its default second-order rule, k-diffusion with the exact one.
    if (parity == "diffusers") midpoint(from, to, nodes, w);
    halve_second_difference(how, from, to, nodes, w);
  });
}

}  // namespace

void dpmpp_3m(Generator* g) { third_order(g, {}); }

// The multistep form of DPM-Solver (noise instead of x0).
void dpm_2m(Generator* g) {
  if (g->settings().variant == "heun") return multistep(g, kNoise);
  multistep(g, kNoise, midpoint);
}

void dpm_3m(Generator* g) { third_order(g, kNoise); }

// Refined exponential solver, multistep (Zhang et al. 2023, arXiv 2308.02157): with exact weights
// it is the exponential Adams-Bashforth method in the x0 frame.
void res_multistep(Generator* g) { multistep(g, {}); }

// Adams-Bashforth in sigma / alpha with the weights of the grid, as k-diffusion's LMS and the
// variable-step form of iPNDM.
void lms(Generator* g) { multistep(g, {FEWSTEP_FRAME_EPSILON, FEWSTEP_VARIABLE_RHO, 0, nullptr}); }

// Zhang, Chen 2022 (arXiv 2204.13902): exponential Adams-Bashforth on the noise; polynomials in
// log rho, rho, or time (their tAB).
void deis(Generator* g) {
  Interpolation how{FEWSTEP_FRAME_EPSILON, FEWSTEP_VARIABLE_LAMBDA, 0, nullptr};
  const std::string& variant = g->settings().variant;
  if (variant == "rho") how.variable = FEWSTEP_VARIABLE_RHO;
  if (variant == "time") {
    // Without a training grid the model time is sigma of the process.
    how.variable = FEWSTEP_VARIABLE_RHO;
    if (g->schedule().process() == FEWSTEP_PROCESS_FLOW) how.variable = FEWSTEP_VARIABLE_SIGMA;
    if (!g->schedule().clock().empty()) {
      how.variable = FEWSTEP_VARIABLE_TIME;
      how.clock = &g->schedule().clock();
    }
  }
  multistep(g, how);
}

}  // namespace fewstep::solver
