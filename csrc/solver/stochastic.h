// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "solver/generate.h"

// What the stochastic and the few-step solvers share, and the solvers themselves, one function
// each.
namespace fewstep::solver {

// The ancestral split of a step: `up` is fresh noise, `down` the share of sigma_t that the old
// noise keeps, up^2 + down^2 = sigma_t^2, in the units of x.
struct Ancestral {
  double up, down;
};
Ancestral ancestral(const Node& from, const Node& to, double eta);

// Where an explicit stage method goes next: keep * x_from + sum_j weight[j] m_j + noise[j] xi_j.
// The row that consumes m_j also draws xi_j.
struct Target {
  Node at;
  double keep;
  std::vector<double> weight, noise;
  int order = 1;  // polynomials m of lower degree are integrated exactly
};

// Rows of one interval: the stages' states and, last, the interval's end. What a later target is
// known to need is summed into its own slot, so a row reads little and draws once.
void staged_step(Generator* g, int i, const Node& from, const Interpolation& how,
                 std::span<const Target> targets);

// The one-node step to `to` of DDIM's eta.
void ancestral_step(Generator* g, int i, double eta);
// The one-node step of the reverse SDE.
void sde_step(Generator* g, int i, double tau);

// x at `to` from x at `from` by noise alone: alpha_to / alpha_from x + c xi; a row without a call.
void renoise(Generator* g, int i, const Node& from, const Node& to, uint32_t draw);

void dpm2_ancestral(Generator* g);
void dpmpp_2s_ancestral(Generator* g);
void dpmpp_sde(Generator* g);
void seeds(Generator* g);
void sa(Generator* g);
void dpm_sde(Generator* g);
void dpmpp_3m_sde(Generator* g);
void er_sde(Generator* g);
void edm_stochastic(Generator* g);
void restart(Generator* g);
void euler_ancestral_rf(Generator* g);
void sit_sde(Generator* g);
void predictor_corrector(Generator* g);
void tcd(Generator* g);
void ctm(Generator* g);
void consistency(Generator* g);

}  // namespace fewstep::solver
