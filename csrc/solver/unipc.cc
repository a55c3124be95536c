// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "solver/generate.h"

namespace fewstep::solver {
namespace {

// UniPC (Zhao et al. 2023, arXiv 2302.04867) is the exponential Adams pair in the x0 frame: where
// its weights solve the moment equations, B(h) cancels. B(h) stays only in two places where the
// authors put 1/2 for the single unknown weight: the order-2 predictor and the order-1 corrector.
double B(const std::string& variant, double h) { return variant == "bh1" ? -h : std::expm1(-h); }

// The polynomial through the start of the interval and one more node, nodes[other], with the moment
// of its slope replaced by B / 2: like `midpoint` of multistep.cc.
void half_weight(const std::string& variant, const Node& from, const Node& to,
                 std::span<const Node> nodes, size_t other, Weights* w) {
  if (w->b.size() != 2) return;
  const double h = to.lambda - from.lambda;
  const double slope = -0.5 * to.alpha * B(variant, h) * h / (nodes[other].lambda - from.lambda);
  const double total = w->b[0] + w->b[1];
  w->b[other] = slope;
  w->b[1 - other] = total - slope;
  w->order = 1;
}

}  // namespace

// One row per model call. Slot 0 is the predicted sample, slot 1 the corrected one; the row
// corrects with the new model output and predicts from the result, composed here.
void unipc(Generator* g) {
  const Interpolation how;
  const std::string& variant = g->settings().variant;
  const int ring = g->settings().order;
  const auto slot = [&](int step) { return 2 + (step - g->first()) % ring; };
  int previous_order = 0;
  for (int i = g->first(); i < g->steps(); ++i) {
    const Node &from = g->node(i), &to = g->node(i + 1);
    const Expr m = g->quantities(from).x0;
    const auto history = [&](const Weights& w) {
      Expr sum;
      for (size_t j = 1; j < w.b.size(); ++j) {
        sum += w.b[j] * Expr::slot(slot(i - static_cast<int>(j)));
      }
      return sum;
    };

    Expr corrected = Expr::slot(0);
    int order = FEWSTEP_MAX_SLOTS;
    if (i > g->first()) {
      const std::vector<Node> nodes = g->nodes(i, previous_order + 1);
      Weights w = step_weights(how, nodes[1], from, nodes);
      if (previous_order == 1) half_weight(variant, nodes[1], from, nodes, 0, &w);
      corrected = w.A * Expr::slot(1) + w.b[0] * m + history(w);
      order = w.order;
    }
    const std::vector<Node> nodes = g->nodes(i, g->order_at(i));
    Weights w = step_weights(how, from, to, nodes);
    if (nodes.size() == 2) half_weight(variant, from, to, nodes, 1, &w);
    Expr state = w.A * corrected + w.b[0] * m + history(w);
    previous_order = static_cast<int>(nodes.size());

    Output anchor{FEWSTEP_SLOT + 1, FEWSTEP_ROLE_ANCHOR, corrected};
    anchor.blend = i > g->first();  // before, it is slot 0 itself
    g->add({i, from, from, to, how.frame, how.variable, std::min(order, w.order), 0},
           std::move(state), {anchor, {slot(i), FEWSTEP_ROLE_HISTORY, m}});
  }
}

}  // namespace fewstep::solver
