// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "solver/generate.h"

namespace fewstep::solver {

// Adams-Bashforth of order 1 to 5 on a uniform grid, newest first: weights of values, or, for
// beta below 1, of their running mean v <- (1 - beta) v + beta value.
std::vector<double> uniform_adams_bashforth(int order, double beta);

// The first-order transfer of `start`, a sample at `from`, along a noise.
Expr along(const Node& from, const Node& to, const Expr& start, const Expr& direction);

}  // namespace fewstep::solver
