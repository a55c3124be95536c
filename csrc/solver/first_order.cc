// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "fewstep/noise.h"
#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

// All frames give the same one-node step. This is the one in which the model's own output appears
// directly, which leaves the fewest roundings in its coefficients.
fewstep_frame direct_frame(const Generator& g) {
  if (std::isfinite(g.settings().clip)) return FEWSTEP_FRAME_X0;
  if (g.settings().prediction == FEWSTEP_PREDICTION_EPSILON) return FEWSTEP_FRAME_EPSILON;
  if (g.settings().prediction == FEWSTEP_PREDICTION_FLOW &&
      g.schedule().process() == FEWSTEP_PROCESS_FLOW) {
    return FEWSTEP_FRAME_VELOCITY;
  }
  return FEWSTEP_FRAME_X0;
}

void one_node(Generator* g, fewstep_frame frame, fewstep_variable variable) {
  const Interpolation how{frame, variable, 0, nullptr};
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const Weights w = step_weights(how, from, to, {&from, 1});
    g->add({i, from, from, to, frame, variable, 1, 0},
           w.A * Expr::slot(0) + w.b[0] * g->quantities(from).in(frame));
  }
}

}  // namespace

void one_node_step(Generator* g, int i) {
  const Node &from = g->node(i), &to = g->node(i + 1);
  const Weights w = step_weights({}, from, to, {&from, 1});
  g->add({i, from, from, to}, w.A * Expr::slot(0) + w.b[0] * g->quantities(from).x0);
}

// DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), for every process: noise of variance
// c^2 with c = eta sigma_t sqrt(1 - e^{-2h}), the rest of sigma_t^2 along the old noise. On VE this
// is the ancestral step of k-diffusion, at eta = 1 that of DDPM.
void ancestral_step(Generator* g, int i, double eta) {
  const Node &from = g->node(i), &to = g->node(i + 1);
  const Ancestral split = ancestral(from, to, eta);
  const double A = split.down / from.sigma;
  Expr state = A * Expr::slot(0) + (to.alpha - A * from.alpha) * g->quantities(from).x0;
  if (split.up != 0) state += split.up * g->step_noise(i);
  const double tau = eta == 1 ? 1 : 0;
  g->add({i, from, from, to, FEWSTEP_FRAME_X0, FEWSTEP_VARIABLE_LAMBDA, 1, tau}, std::move(state));
}

void first_order(Generator* g, double eta) {
  if (eta == 0) return one_node(g, direct_frame(*g), FEWSTEP_VARIABLE_LAMBDA);
  for (int i = g->first(); i < g->steps(); ++i) ancestral_step(g, i, eta);
}

void sde_step(Generator* g, int i, double tau) {
  Interpolation how;
  how.tau = tau;
  const Node &from = g->node(i), &to = g->node(i + 1);
  const Weights w = step_weights(how, from, to, {&from, 1});
  Expr state = w.A * Expr::slot(0) + w.b[0] * g->quantities(from).x0;
  if (w.c != 0) state += w.c * g->step_noise(i);
  g->add({i, from, from, to, how.frame, how.variable, 1, tau}, std::move(state));
}

void euler(Generator* g) { first_order(g, 0); }
void ddim(Generator* g) { first_order(g, g->settings().eta); }
// Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7: the posterior with the smaller variance.
void ddpm(Generator* g) { first_order(g, 1); }

void flow_euler(Generator* g) { one_node(g, FEWSTEP_FRAME_VELOCITY, FEWSTEP_VARIABLE_SIGMA); }

// Euler on a rectified flow (Liu et al. 2022, arXiv 2209.03003); one step of it once it is
// straight. Variant "keep_noise" (Lee et al. 2024, arXiv 2405.20320): every step adds the same
// first noise to the new x0 instead of what noise the sample is thought to hold.
void rectified_flow(Generator* g) {
  if (g->settings().variant == "euler") return flow_euler(g);
  const int first = g->first();
  for (int i = first; i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const Quantities m = g->quantities(from);
    Place place{i, from, from, to, FEWSTEP_FRAME_VELOCITY, FEWSTEP_VARIABLE_SIGMA, 1, 0};
    std::vector<Output> kept;
    Expr noise = m.noise;
    if (g->node(first).alpha == 0) {
      // The first sample is the noise.
      noise = i == first ? Expr::slot(0) : Expr::slot(1);
      if (i == first) kept.push_back({FEWSTEP_SLOT + 1, FEWSTEP_ROLE_ANCHOR, noise});
    } else {
      place.frame = FEWSTEP_FRAME_EPSILON;
      if (i == first) kept.push_back({FEWSTEP_SLOT + 1, FEWSTEP_ROLE_HISTORY, noise});
      if (i > first) noise = Expr::slot(1);
    }
    g->add(place, to.alpha * m.x0 + to.sigma * noise, std::move(kept));
  }
}

// Latent consistency sampling (Luo et al. 2023, arXiv 2310.04378, algorithm 3): denoise, then draw
// new noise. The network is taken to tell x0; with parity "diffusers" its boundary condition
// c_skip x + c_out x0 in the training step is applied on top.
void lcm(Generator* g) {
  constexpr double kTimestepScaling = 10, kSigmaData = 0.5;
  const bool boundary = g->settings().parity == "diffusers";
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    Expr denoised = g->quantities(from).x0;
    if (boundary) {
      const double s = from.t * kTimestepScaling, norm = std::hypot(s, kSigmaData);
      const double skip = kSigmaData / norm;
      denoised = s / norm * denoised + skip * skip * Expr::slot(0);
    }
    Expr state = to.alpha * denoised;
    if (to.sigma != 0) state += to.sigma * g->step_noise(i);
    // The boundary condition keeps the marginal only nearly: such a row claims nothing (order 0).
    g->add({i, from, from, to, FEWSTEP_FRAME_X0, FEWSTEP_VARIABLE_LAMBDA, boundary ? 0 : 1, 0},
           std::move(state));
  }
}

}  // namespace fewstep::solver
