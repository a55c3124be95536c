// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

Interpolation with_tau(fewstep_frame frame, double eta) {
  return {frame, FEWSTEP_VARIABLE_LAMBDA, std::sqrt(eta), nullptr};
}

// diffusers' third-order SDE step: the second difference D2 = h^2 f[0, 1, 2] gets a weight that
// tends to -1 for small steps instead of vanishing with h. Kept for parity only.
void diffusers_second_difference(const Interpolation& how, const Node& from, const Node& to,
                                 std::span<const Node> nodes, Weights* w) {
  if (w->b.size() != 3) return;
  const double h = to.lambda - from.lambda, g = (1 + how.tau * how.tau) * h;
  const double h0 = nodes[0].lambda - nodes[1].lambda, h1 = nodes[1].lambda - nodes[2].lambda;
  const double exact = kernel_integral(how, from, to, [&](double lambda) {
    const double u = (lambda - from.lambda) / h;
    return u * u;
  });
  const double theirs = to.alpha * ((-std::expm1(-g) - g) / (g * g) - 0.5);
  const double change = (theirs - exact) * h * h;
  w->b[0] += change / (h0 * (h0 + h1));
  w->b[1] -= change / (h0 * h1);
  w->b[2] += change / (h1 * (h0 + h1));
  w->order = 0;
}

}  // namespace

// The third-order multistep SDE solver on x0; eta is tau^2.
void dpmpp_3m_sde(Generator* g) {
  const Interpolation how = with_tau(FEWSTEP_FRAME_X0, g->settings().eta);
  const std::string& parity = g->settings().parity;
  if (parity.empty()) return multistep(g, how);
  multistep(g, how, [&](const Node& from, const Node& to, std::span<const Node> nodes, Weights* w) {
    if (parity == "k-diffusion") return halve_second_difference(how, from, to, nodes, w);
    midpoint(from, to, nodes, w);
    diffusers_second_difference(how, from, to, nodes, w);
  });
}

// The reverse SDE in the noise frame, multistep (DPM-Solver's SDE form): noise is taken as constant
// while the sample's own old noise is not, so only small steps keep the variance.
void dpm_sde(Generator* g) {
  const Interpolation how = with_tau(FEWSTEP_FRAME_EPSILON, g->settings().eta);
  if (g->settings().variant == "midpoint") return multistep(g, how, midpoint);
  multistep(g, how);
}

}  // namespace fewstep::solver
