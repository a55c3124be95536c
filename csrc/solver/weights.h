// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "fewstep/plan.h"
#include "solver/schedule.h"

namespace fewstep::solver {

// x_to = A x_from + sum_j b_j m_j + c xi, for m interpolated through nodes (README, "One formula").
struct Weights {
  double A = 0;
  std::vector<double> b;  // one per node used: nodes without a place on the axis have none
  double c = 0;
  int order = 1;  // polynomials m of lower degree are integrated exactly
};

// What the polynomial is a polynomial in, and where its integral runs.
struct Interpolation {
  fewstep_frame frame = FEWSTEP_FRAME_X0;
  fewstep_variable variable = FEWSTEP_VARIABLE_LAMBDA;
  double tau = 0;                // reverse-SDE strength
  const Clock* clock = nullptr;  // for FEWSTEP_VARIABLE_TIME of a discrete-time model
};

// Value of the interpolation variable at a node.
double variable_at(const Interpolation& how, const Node& node);

// Weights of the step from one node to the next. `nodes`, newest first, must be distinct; those at
// an infinite value of the variable are left out together with all older ones. Where the variable
// is infinite at an end of the interval only the newest node counts. Throws when the frame itself
// has no step there (the noise frame without signal).
Weights step_weights(const Interpolation& how, const Node& from, const Node& to,
                     std::span<const Node> nodes);

// kappa times the integral of the frame's kernel over the step, times f(lambda): the linear
// functional behind the weights, for solvers that change them. Finite lambda only.
double kernel_integral(const Interpolation& how, const Node& from, const Node& to,
                       const std::function<double(double lambda)>& f);

// Integral of f over [a, b] by 16-point Gauss-Legendre in panels no longer than max_panel.
double integrate(double a, double b, double max_panel, const std::function<double(double)>& f);

// The j-th Lagrange polynomial through the nodes, at v.
double lagrange(std::span<const double> nodes, size_t j, double v);

}  // namespace fewstep::solver
