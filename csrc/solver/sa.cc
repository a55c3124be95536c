// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

// SA-Solver (Xue et al. 2023, arXiv 2309.05019): stochastic Adams pairs of the SDE with strength
// tau(t), constant over a step. Where its code replaces the first moment of two-node weights by
// that of h -> 0, `half` does the same.
void half(const Interpolation& how, const Node& from, const Node& to, std::span<const Node> nodes,
          Weights* w) {
  if (w->b.size() != 2) return;
  const size_t other = nodes[0].lambda == from.lambda ? 1 : 0;
  const double h = to.lambda - from.lambda, kappa = 1 + how.tau * how.tau;
  const double slope = 0.5 * to.alpha * kappa * h * h / (nodes[other].lambda - from.lambda);
  const double total = w->b[0] + w->b[1];
  w->b[other] = slope;
  w->b[1 - other] = total - slope;
  w->order = 1;
}

class StochasticAdams {
 public:
  explicit StochasticAdams(Generator* g)
      : g_(*g),
        predictor_(g->settings().order),
        corrector_(static_cast<int>(g->settings().number("corrector_order"))),
        ring_(corrector_ > 0 ? std::max(predictor_, corrector_ - 1) : predictor_ - 1),
        taus_(g->settings().list("tau")) {
    const auto steps = static_cast<size_t>(g->steps());
    if (taus_.size() != 1 && taus_.size() != steps) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("fewstep_plan_create: 'tau' must have 1 entry or one for each of the %zu "
                         "steps, got %zu",
                         steps, taus_.size()));
    }
  }

  void add_rows() {
    for (int i = g_.first(); i < g_.steps(); ++i) add_row(i);
  }

 private:
  // Strength over interval i: zero outside of the range of sigma / alpha.
  double tau(int i) const {
    const double rho = g_.node(i).rho();
    const Settings& s = g_.settings();
    if (rho < s.number("tau_tmin") || rho > s.number("tau_tmax")) return 0;
    return taus_[taus_.size() == 1 ? 0 : static_cast<size_t>(i)];
  }

  // Weights of interval i through the nodes newest, newest - 1, ...
  Weights weights(int i, int newest, int count) const {
    Interpolation how;
    how.tau = tau(i);
    const std::vector<Node> nodes = g_.nodes(newest, count);
    Weights w = step_weights(how, g_.node(i), g_.node(i + 1), nodes);
    if (g_.settings().parity == "diffusers") half(how, g_.node(i), g_.node(i + 1), nodes, &w);
    return w;
  }

  // The polynomial's values at nodes `newest` and before; m_i is the row's own.
  Expr sum(const Weights& w, int newest, int i, const Expr& m) const {
    Expr total;
    for (size_t j = 0; j < w.b.size(); ++j) {
      const int node = newest - static_cast<int>(j);
      total += w.b[j] * (node == i ? m : Expr::slot(slot(node)));
    }
    return total;
  }

  int slot(int node) const { return 1 + (node - g_.first()) % ring_; }

  // Corrects interval i - 1 with the new model value and predicts interval i. The corrector's step
  // has the predictor's factor and noise, so it is the predicted sample with other weights of m.
  void add_row(int i) {
    const Expr m = g_.quantities(g_.node(i)).x0;
    Expr corrected = Expr::slot(0);
    int order = FEWSTEP_MAX_SLOTS;
    if (i > g_.first() && corrector_ > 0) {
      int count = std::min(corrector_, i - g_.first() + 1);
      if (g_.settings().lower_order_final) count = std::min(count, g_.steps() - i + 2);
      const Weights after = weights(i - 1, i, count);
      corrected += sum(after, i, i, m) - sum(predicted_, i - 1, i, m);
      order = std::min(after.order, predicted_.order);
    }
    const Weights w = weights(i, i, g_.order_at(i));
    Expr state = w.A * corrected + sum(w, i, i, m);
    if (w.c != 0) state += w.c * g_.step_noise(i);
    predicted_ = w;
    std::vector<Output> history;
    if (ring_ > 0) history.push_back({slot(i), FEWSTEP_ROLE_HISTORY, m});
    const Node& from = g_.node(i);
    g_.add({i, from, from, g_.node(i + 1), FEWSTEP_FRAME_X0, FEWSTEP_VARIABLE_LAMBDA,
            std::min(order, w.order), tau(i)},
           std::move(state), std::move(history));
  }

  Generator& g_;
  int predictor_, corrector_, ring_;
  std::vector<double> taus_;
  Weights predicted_;  // of the interval before
};

}  // namespace

void sa(Generator* g) { StochasticAdams(g).add_rows(); }

}  // namespace fewstep::solver
