// SPDX-License-Identifier: Apache-2.0
// Solvers that step along a fixed combination of past noises, whatever the grid: the first-order
// transfer x_t = alpha_t / alpha_s x_s + alpha_t (rho_t - rho_s) d with some direction d.
#include "solver/slopes.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "solver/generate.h"

namespace fewstep::solver {

std::vector<double> uniform_adams_bashforth(int order, double beta) {
  // In backward differences the coefficients are 1, 1/2, 5/12, ...; a damped velocity, which lags
  // (1 - beta) / beta steps behind, adds that many times the coefficient before.
  constexpr double kDifference[] = {1, 1.0 / 2, 5.0 / 12, 3.0 / 8, 251.0 / 720};
  std::vector<double> w(static_cast<size_t>(order), 0);
  for (int k = 0; k < order; ++k) {
    double c = kDifference[k];
    if (k > 0) c += (1 - beta) / beta * kDifference[k - 1];
    double binomial = 1;
    for (int j = 0; j <= k; ++j) {
      w[static_cast<size_t>(j)] += (j % 2 ? -c : c) * binomial;
      binomial *= static_cast<double>(k - j) / (j + 1);
    }
  }
  return w;
}

Expr along(const Node& from, const Node& to, const Expr& start, const Expr& direction) {
  const double step = to.sigma - to.alpha / from.alpha * from.sigma;
  return to.alpha / from.alpha * start + step * direction;
}

namespace {

constexpr fewstep_frame kFrame = FEWSTEP_FRAME_EPSILON;

// A ring of slots; `age` 1 is the newest value kept before this step.
class Ring {
 public:
  Ring(int first_slot, int size, int first_step)
      : slot_(first_slot), size_(size), first_step_(first_step) {}
  int slot(int step) const { return slot_ + (step - first_step_) % std::max(size_, 1); }
  Expr past(int step, int age) const { return Expr::slot(slot(step - age)); }

 private:
  int slot_, size_, first_step_;
};

// What a method keeps and the direction it goes.
struct Move {
  Expr direction;
  std::vector<Output> kept;
};

void add(Generator* g, int i, Move move) {
  const Node &from = g->node(i), &to = g->node(i + 1);
  // Constant noise is carried on exactly; nothing more holds on every grid.
  g->add({i, from, from, to, kFrame, FEWSTEP_VARIABLE_RHO, 1, 0},
         along(from, to, Expr::slot(0), move.direction), std::move(move.kept));
}

// The step at which the history begins: a first node without signal has no direction, it is left
// by the first-order step.
int begin(Generator* g) {
  if (g->node(g->first()).alpha != 0) return g->first();
  one_node_step(g, g->first());
  return g->first() + 1;
}

int order_from(const Generator& g, int begin, int step) {
  return std::min(g.order_at(step), step - begin + 1);
}

// sum_j weights[j] * (value j steps ago), `now` being the newest.
Expr combine(const std::vector<double>& weights, const Expr& now, const Ring& ring, int step) {
  Expr sum = weights[0] * now;
  for (size_t j = 1; j < weights.size(); ++j) {
    sum += weights[j] * ring.past(step, static_cast<int>(j));
  }
  return sum;
}

Output keep(int slot, const Expr& value) {
  return {FEWSTEP_SLOT + slot, FEWSTEP_ROLE_HISTORY, value};
}

}  // namespace

// Adams-Bashforth with the weights of a uniform grid (Liu et al. 2022, arXiv 2202.09778, eq. 12; as
// "improved PNDM" without the Runge-Kutta start in Zhang, Chen 2022, arXiv 2204.13902).
void ipndm(Generator* g) {
  const bool parity = g->settings().parity == "diffusers";
  const int first = parity ? g->first() : begin(g);
  const Ring ring(1, g->settings().order - 1, first);
  for (int i = first; i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const Expr e = g->quantities(from).noise;
    Move move;
    move.direction = combine(uniform_adams_bashforth(order_from(*g, first, i), 1), e, ring, i);
    if (g->settings().order > 1) move.kept.push_back(keep(ring.slot(i), e));
    if (from.alpha != 0) {
      add(g, i, std::move(move));
    } else {
      // diffusers divides a difference of zero by 1e-8 here and so loses x0.
      g->add({i, from, from, to, kFrame, FEWSTEP_VARIABLE_RHO, 0, 0}, to.sigma * e,
             std::move(move.kept));
    }
  }
}

// Permenter, Yuan 2024 (arXiv 2306.04848), algorithm 2: gamma e + (1 - gamma) e_previous.
void gradient_estimation(Generator* g) {
  const double gamma = g->settings().number("gamma");
  const int first = begin(g);
  for (int i = first; i < g->steps(); ++i) {
    const Expr e = g->quantities(g->node(i)).noise;
    const bool plain = i == first || g->node(i + 1).sigma == 0;
    Move move;
    move.direction = plain ? e : gamma * e + (1 - gamma) * Expr::slot(1);
    move.kept.push_back(keep(1, e));
    add(g, i, std::move(move));
  }
}

// Polyak's heavy ball on Adams-Bashforth (Wizadwongsa et al. 2023, arXiv 2307.11118, section 4.1):
// the velocity v <- (1 - beta) v + beta d is what the step goes along. Nesterov's form goes along
// (1 - beta) v + beta d once more.
void hb(Generator* g) {
  const double beta = g->settings().number("beta");
  const bool nesterov = g->settings().variant == "nesterov";
  const int first = begin(g);
  const Ring ring(2, g->settings().order - 1, first);
  for (int i = first; i < g->steps(); ++i) {
    const Expr e = g->quantities(g->node(i)).noise;
    const Expr d = combine(uniform_adams_bashforth(order_from(*g, first, i), 1), e, ring, i);
    const Expr before = i == first ? e : Expr::slot(1);
    const Expr v = (1 - beta) * before + beta * d;
    Move move;
    move.direction = nesterov ? (1 - beta) * v + beta * d : v;
    move.kept.push_back(keep(1, v));
    if (g->settings().order > 1) move.kept.push_back(keep(ring.slot(i), e));
    add(g, i, std::move(move));
  }
}

// Generalised heavy ball (the same, section 4.2): the velocity is damped first, and the multistep
// weights make up for its lag, which keeps the order.
void ghvb(Generator* g) {
  const double beta = g->settings().number("beta");
  const int first = begin(g);
  const Ring ring(1, std::max(g->settings().order - 1, 1), first);
  for (int i = first; i < g->steps(); ++i) {
    const Expr e = g->quantities(g->node(i)).noise;
    const Expr before = i == first ? e : ring.past(i, 1);
    const Expr v = (1 - beta) * before + beta * e;
    Move move;
    move.direction = combine(uniform_adams_bashforth(order_from(*g, first, i), beta), v, ring, i);
    move.kept.push_back(keep(ring.slot(i), v));
    add(g, i, std::move(move));
  }
}

}  // namespace fewstep::solver
