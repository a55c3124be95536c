// SPDX-License-Identifier: Apache-2.0
// Samplers that discretise the reverse SDE in time as their papers do: rows that claim nothing,
// because only small steps keep the marginals.
#include <cmath>
#include <numbers>

#include "core/status.h"
#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

// Half the squared diffusion of SiT's forms, at t = 1 - sigma.
double diffusion(const std::string& form, double norm, double sigma) {
  const double t = 1 - sigma;
  constexpr double kPi = std::numbers::pi;
  if (form == "constant") return norm;
  if (form == "sbdm") return norm * sigma / t;
  if (form == "decreasing") return 0.25 * std::pow(norm * std::cos(kPi * t) + 1, 2);
  if (form == "increasing_decreasing") return norm * std::pow(std::sin(kPi * t), 2);
  return norm * sigma;
}

}  // namespace

// SiT (Ma et al. 2024, arXiv 2401.08740), Euler-Maruyama on the linear interpolant: with
// d = |sigma_t - sigma_s| and score = -noise / sigma, x <- x - d v + d w score + sqrt(2 w d) xi.
void sit_sde(Generator* g) {
  const double norm = g->settings().number("diffusion_norm");
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const double d = from.sigma - to.sigma, w = diffusion(g->settings().variant, norm, from.sigma);
    Place place{i, from, from, to, FEWSTEP_FRAME_VELOCITY, FEWSTEP_VARIABLE_SIGMA};
    if (to.sigma == 0) {
      // The last step is the denoiser.
      g->add(place, g->quantities(from).x0);
      continue;
    }
    if (!std::isfinite(w)) {
      throw Error(
          FEWSTEP_INVALID_ARGUMENT,
          "fewstep_plan_create: 'variant' must not be sbdm where the schedule has no signal "
          "(alpha = 0 at its first node), got \"sbdm\"");
    }
    place.order = 0;
    const Quantities m = g->quantities(from);
    Expr state = Expr::slot(0) - d * m.velocity - d * w / from.sigma * m.noise;
    if (w != 0) state += std::sqrt(2 * w * d) * g->step_noise(i);
    g->add(place, std::move(state));
  }
}

// Predictor and annealed Langevin corrector of SGMSE+ (Richter et al. 2022, arXiv 2208.05830,
// section 3-D): at each node x <- x + e score + sqrt(2 e) xi with e = 2 (snr sigma)^2, then one
// step of the reverse SDE.
void predictor_corrector(Generator* g) {
  const double snr = g->settings().number("snr");
  const int corrections = static_cast<int>(g->settings().number("corrector_steps"));
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node& at = g->node(i);
    for (int k = 0; k < corrections; ++k) {
      Place place{i, at, at, at};
      place.order = 0;
      Expr state = Expr::slot(0) - 2 * snr * snr * at.sigma * g->quantities(at).noise;
      if (snr != 0) {
        state += 2 * snr * at.sigma * g->step_noise(i, static_cast<uint32_t>(k) + 1);
      }
      g->add(place, std::move(state));
    }
    sde_step(g, i, 1);
  }
}

}  // namespace fewstep::solver
