// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>

#include "solver/generate.h"

namespace fewstep::solver {
namespace {

// The frame's own variable mu, and the node at one of its values.
fewstep_variable own_variable(fewstep_frame frame) {
  switch (frame) {
    case FEWSTEP_FRAME_EPSILON:
      return FEWSTEP_VARIABLE_RHO;
    case FEWSTEP_FRAME_VELOCITY:
      return FEWSTEP_VARIABLE_SIGMA;
    default:
      return FEWSTEP_VARIABLE_INVERSE_RHO;
  }
}

double rho_at(fewstep_frame frame, double mu) {
  switch (frame) {
    case FEWSTEP_FRAME_EPSILON:
      return mu;
    case FEWSTEP_FRAME_VELOCITY:
      return mu / (1 - mu);
    default:
      return 1 / mu;
  }
}

// x / y of the frame: dy = m dmu.
double unit(fewstep_frame frame, const Node& node) {
  return frame == FEWSTEP_FRAME_EPSILON ? node.alpha : frame == FEWSTEP_FRAME_X0 ? node.sigma : 1;
}

// One interval. Slot 1 holds its start (or, with two stages, all of the step that is known), slots
// 2.. the stages' m.
class Step {
 public:
  Step(Generator* g, fewstep_frame frame, std::span<const double> a, std::span<const double> b,
       int order, int i, const Node& from, const Node& to)
      : g_(g),
        frame_(frame),
        a_(a),
        b_(b),
        stages_(static_cast<int>(b.size())),
        order_(order),
        i_(i),
        from_(from),
        to_(to) {
    const Interpolation how{frame, own_variable(frame), 0, nullptr};
    mu_from_ = variable_at(how, from_);
    width_ = variable_at(how, to_) - mu_from_;
  }

  void add() {
    for (int s = 0; s < stages_; ++s) add_stage(s);
  }

 private:
  // Weights of the state after stage s: those of the next stage, or b.
  double weight(int s, int j) const {
    return s + 1 < stages_ ? a_[static_cast<size_t>((s + 1) * stages_ + j)]
                           : b_[static_cast<size_t>(j)];
  }

  Node node_of_stage(int s) const {
    if (s == stages_) return to_;
    double c = 0;
    for (int j = 0; j < s; ++j) c += a_[static_cast<size_t>(s * stages_ + j)];
    if (c == 0) return from_;
    if (c == 1) return to_;
    return g_->schedule().at_rho(rho_at(frame_, mu_from_ + c * width_));
  }

  void add_stage(int s) {
    const Node at = node_of_stage(s), next = node_of_stage(s + 1);
    const bool last = s + 1 == stages_;
    const Expr m = g_->quantities(at).in(frame_);
    const double scale = unit(frame_, next) * width_;
    const double keep = unit(frame_, next) / unit(frame_, from_);
    const bool two = stages_ == 2;

    Expr state;
    if (last && two) {
      state = Expr::slot(1) + scale * weight(s, s) * m;
    } else {
      state = keep * Expr::slot(s == 0 ? 0 : 1) + scale * weight(s, s) * m;
      for (int j = 0; j < s; ++j) state += scale * weight(s, j) * Expr::slot(2 + j);
    }
    std::vector<Output> others;
    if (s == 0 && two) {
      const Expr partial = unit(frame_, to_) / unit(frame_, from_) * Expr::slot(0) +
                           unit(frame_, to_) * width_ * b_[0] * m;
      others.push_back({FEWSTEP_SLOT + 1, FEWSTEP_ROLE_OTHER, partial});
    } else if (!last) {
      if (s == 0) others.push_back({FEWSTEP_SLOT + 1, FEWSTEP_ROLE_ANCHOR, Expr::slot(0)});
      others.push_back({FEWSTEP_SLOT + 2 + s, FEWSTEP_ROLE_HISTORY, m});
    }
    g_->add({i_, at, from_, next, frame_, own_variable(frame_), last ? order_ : 1, 0},
            std::move(state), std::move(others));
  }

  Generator* g_;
  fewstep_frame frame_;
  std::span<const double> a_, b_;
  int stages_, order_, i_;
  Node from_, to_;
  double mu_from_ = 0, width_ = 0;
};

}  // namespace

void runge_kutta_step(Generator* g, fewstep_frame frame, std::span<const double> a,
                      std::span<const double> b, int order, int i, const Node& from,
                      const Node& to) {
  // No model can be called at sigma = 0, where every tableau ends with x0 itself; and the noise
  // frame has no place for a node without signal.
  if (to.sigma == 0 || (frame == FEWSTEP_FRAME_EPSILON && from.alpha == 0)) {
    const Weights w = step_weights({}, from, to, {&from, 1});
    g->add({i, from, from, to}, w.A * Expr::slot(0) + w.b[0] * g->quantities(from).x0);
    return;
  }
  Step(g, frame, a, b, order, i, from, to).add();
}

void runge_kutta(Generator* g, fewstep_frame frame, std::span<const double> a,
                 std::span<const double> b, int order) {
  for (int i = g->first(); i < g->steps(); ++i) {
    runge_kutta_step(g, frame, a, b, order, i, g->node(i), g->node(i + 1));
  }
}

namespace {

// Heun's method (EDM, Karras et al. 2022, algorithm 1 without churn).
constexpr std::array<double, 4> kHeunA = {0, 0, 1, 0};
constexpr std::array<double, 2> kHeunB = {0.5, 0.5};
constexpr std::array<double, 4> kMidpointA = {0, 0, 0.5, 0};
constexpr std::array<double, 2> kMidpointB = {0, 1};
constexpr std::array<double, 9> kKuttaA = {0, 0, 0, 0.5, 0, 0, -1, 2, 0};
constexpr std::array<double, 3> kKuttaB = {1.0 / 6, 2.0 / 3, 1.0 / 6};
constexpr std::array<double, 16> kClassicA = {0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 1, 0};
constexpr std::array<double, 4> kClassicB = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};

}  // namespace

void heun(Generator* g) { runge_kutta(g, FEWSTEP_FRAME_EPSILON, kHeunA, kHeunB, 2); }

void flow_heun(Generator* g) { runge_kutta(g, FEWSTEP_FRAME_VELOCITY, kHeunA, kHeunB, 2); }

void explicit_midpoint(Generator* g) {
  runge_kutta(g, FEWSTEP_FRAME_EPSILON, kMidpointA, kMidpointB, 2);
}

void flow_midpoint(Generator* g) {
  runge_kutta(g, FEWSTEP_FRAME_VELOCITY, kMidpointA, kMidpointB, 2);
}

// rhoRK of DEIS (Zhang, Chen 2022, arXiv 2204.13902, section 3.4): Runge-Kutta in rho.
void deis_rk(Generator* g) {
  const Settings& settings = g->settings();
  if (settings.order == 1) return euler(g);
  if (settings.order == 2) return settings.variant == "midpoint" ? explicit_midpoint(g) : heun(g);
  if (settings.order == 3) return runge_kutta(g, FEWSTEP_FRAME_EPSILON, kKuttaA, kKuttaB, 3);
  runge_kutta(g, FEWSTEP_FRAME_EPSILON, kClassicA, kClassicB, 4);
}

}  // namespace fewstep::solver
