// SPDX-License-Identifier: Apache-2.0
// Pseudo numerical methods (Liu et al. 2022, arXiv 2202.09778).
#include <algorithm>
#include <cmath>
#include <vector>

#include "solver/generate.h"
#include "solver/slopes.h"

namespace fewstep::solver {
namespace {

constexpr fewstep_frame kFrame = FEWSTEP_FRAME_EPSILON;
constexpr fewstep_variable kVariable = FEWSTEP_VARIABLE_RHO;
constexpr int kStart = 1;    // the sample at the start of a step
constexpr int kSum = 2;      // the weighted sum of a step's slopes so far
constexpr int kHistory = 3;  // ring of the last three slopes

int ring_slot(const Generator& g, int step) { return kHistory + (step - g.first()) % 3; }

// Half way in the model's time.
Node middle(const Generator& g, const Node& from, const Node& to) {
  const Clock& clock = g.schedule().clock();
  if (!clock.empty()) return g.schedule().at_rho(std::exp(-clock.lambda((from.t + to.t) / 2)));
  if (g.schedule().process() == FEWSTEP_PROCESS_FLOW) {
    const double sigma = (from.sigma + to.sigma) / 2;
    return g.schedule().at_rho(sigma / (1 - sigma));
  }
  return g.schedule().at_rho((from.rho() + to.rho()) / 2);
}

Output history(const Generator& g, int i, const Expr& e) {
  return {FEWSTEP_SLOT + ring_slot(g, i), FEWSTEP_ROLE_HISTORY, e};
}

// Fourth-order Runge-Kutta in which every stage moves by the first-order transfer (algorithm 1).
void add_runge_kutta(Generator* g, int i) {
  const Node &from = g->node(i), &to = g->node(i + 1);
  const Node half = middle(*g, from, to);
  const Node at[] = {from, half, half, to}, next[] = {half, half, to, to};
  constexpr double kWeight[] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
  for (int s = 0; s < 4; ++s) {
    const Expr e = g->quantities(at[s]).noise;
    const Expr sum = kWeight[s] * e + (s == 0 ? Expr() : Expr::slot(kSum));
    std::vector<Output> others;
    if (s == 0) {
      others.push_back({FEWSTEP_SLOT + kStart, FEWSTEP_ROLE_ANCHOR, Expr::slot(0)});
      others.push_back(history(*g, i, e));
      // The first slope is in the history already: the sum that begins with it needs no slot.
    } else if (s < 3) {
      const Expr begun = s == 1 ? kWeight[1] * e + kWeight[0] * Expr::slot(ring_slot(*g, i)) : sum;
      others.push_back({FEWSTEP_SLOT + kSum, FEWSTEP_ROLE_OTHER, begun});
    }
    const Expr start = Expr::slot(s == 0 ? 0 : kStart);
    g->add({i, at[s], from, next[s], kFrame, kVariable, 1, 0},
           along(from, next[s], start, s == 3 ? sum : e), std::move(others));
  }
}

// The start without Runge-Kutta: the mean of the slopes at both ends.
void add_heun(Generator* g, int i) {
  const Node &from = g->node(i), &to = g->node(i + 1);
  const Expr e = g->quantities(from).noise, e_next = g->quantities(to).noise;
  g->add({i, from, from, to, kFrame, kVariable}, along(from, to, Expr::slot(0), e),
         {{FEWSTEP_SLOT + kStart, FEWSTEP_ROLE_ANCHOR, Expr::slot(0)}, history(*g, i, e)});
  const Expr mean = 0.5 * e_next + 0.5 * Expr::slot(ring_slot(*g, i));
  g->add({i, to, from, to, kFrame, kVariable}, along(from, to, Expr::slot(kStart), mean));
}

// Adams-Bashforth through the `count` newest slopes.
void add_multistep(Generator* g, int i, int count) {
  const Node &from = g->node(i), &to = g->node(i + 1);
  const Expr e = g->quantities(from).noise;
  const std::vector<double> weights = uniform_adams_bashforth(count, 1);
  Expr direction = weights[0] * e;
  for (int j = 1; j < count; ++j) {
    direction += weights[static_cast<size_t>(j)] * Expr::slot(ring_slot(*g, i - j));
  }
  g->add({i, from, from, to, kFrame, kVariable}, along(from, to, Expr::slot(0), direction),
         {history(*g, i, e)});
}

}  // namespace

// Algorithm 2: three Runge-Kutta steps, then linear multistep of order 4. Variant "plms" starts
// with one step of Heun's method and rising orders instead, as skip_prk_steps of diffusers does.
void pndm(Generator* g) {
  const bool plms = g->settings().variant == "plms";
  int known = 0;  // slopes in the history
  for (int i = g->first(); i < g->steps(); ++i) {
    const bool has_stages = g->node(i).alpha != 0 && g->node(i + 1).sigma != 0;
    const bool starts = plms ? known == 0 : known < 3;
    if (starts && !has_stages) {
      one_node_step(g, i);
    } else {
      if (starts && plms) add_heun(g, i);
      if (starts && !plms) add_runge_kutta(g, i);
      if (!starts) add_multistep(g, i, std::min(known + 1, 4));
      ++known;
    }
  }
}

}  // namespace fewstep::solver
