// SPDX-License-Identifier: Apache-2.0
// What all solvers share: prediction conversion, model inputs, mask blends, dead writes.
#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "fewstep/noise.h"
#include "solver/generate.h"

namespace fewstep::solver {
namespace {

bool is_vp_network_on_ve(const Settings& settings, int32_t process) {
  return process == FEWSTEP_PROCESS_VE && (settings.prediction == FEWSTEP_PREDICTION_EPSILON ||
                                           settings.prediction == FEWSTEP_PREDICTION_V);
}

}  // namespace

double input_scale(const Settings& settings, int32_t process, const Node& at) {
  if (is_vp_network_on_ve(settings, process)) return 1 / std::hypot(1.0, at.sigma);
  if (settings.prediction == FEWSTEP_PREDICTION_EDM) {
    // 1 / sqrt(rho^2 + sigma_data^2) on x / alpha, written without the division by alpha.
    return 1 / std::hypot(at.sigma, at.alpha * settings.sigma_data);
  }
  return 1;
}

Conversion conversion(const Settings& settings, int32_t process, const Node& at) {
  const double alpha = at.alpha, sigma = at.sigma;
  Conversion c{0, 0, input_scale(settings, process, at)};
  switch (settings.prediction) {
    case FEWSTEP_PREDICTION_EPSILON:
      if (alpha == 0) {
        throw Error(
            FEWSTEP_INVALID_ARGUMENT,
            "fewstep_plan_create: 'prediction' must tell x0 where the schedule has no signal "
            "(alpha = 0 at its first node), got epsilon");
      }
      c.p = 1 / alpha;
      c.q = -sigma / alpha;
      break;
    case FEWSTEP_PREDICTION_X0:
      c.q = 1;
      break;
    case FEWSTEP_PREDICTION_V: {
      if (is_vp_network_on_ve(settings, process)) {
        // The network is a VP one at x / sqrt(1 + sigma^2) (k-diffusion's v denoiser).
        c.p = c.scale * c.scale;
        c.q = -sigma * c.scale;
      } else {
        const double d = alpha * alpha + sigma * sigma;
        c.p = alpha / d;
        c.q = -sigma / d;
      }
      break;
    }
    case FEWSTEP_PREDICTION_FLOW:
      c.p = 1 / (alpha + sigma);
      c.q = -sigma / (alpha + sigma);
      break;
    default: {
      // EDM, table 1, in rho = sigma / alpha: c_skip / alpha and c_out. A consistency model's are
      // the identity at the boundary (Song et al. 2023, appendix C).
      const double data = settings.sigma_data, above = sigma - alpha * settings.boundary;
      c.p = alpha * data * data / (above * above + alpha * alpha * data * data);
      c.q = above * data * c.scale;
    }
  }
  return c;
}

Quantities Generator::quantities(const Node& at) const {
  const Conversion c = conversion(settings_, schedule_.process(), at);
  const Expr x = Expr::slot(0), g = Expr::operand(FEWSTEP_GUIDED);
  const double alpha = at.alpha, sigma = at.sigma;
  Quantities m;
  m.x0 = std::isfinite(settings_.clip) ? Expr::operand(FEWSTEP_CONVERTED) : c.p * x + c.q * g;
  m.noise = 1 / sigma * (x - alpha * m.x0);
  if (!std::isfinite(settings_.clip)) {
    // Written out where the difference above would leave a rounding error instead of a zero.
    if (settings_.prediction == FEWSTEP_PREDICTION_EPSILON) m.noise = g;
    if (settings_.prediction == FEWSTEP_PREDICTION_FLOW) {
      m.velocity = g;
      m.noise = 1 / (alpha + sigma) * (x + alpha * g);
      return m;
    }
  }
  m.velocity = m.noise - m.x0;
  return m;
}

std::vector<Node> Generator::nodes(int newest, int count) const {
  std::vector<Node> list;
  for (int i = 0; i < count; ++i) list.push_back(node(newest - i));
  return list;
}

int Generator::order_at(int step) const {
  int order = std::min(settings_.order, step - first() + 1);
  if (settings_.lower_order_final) order = std::min(order, steps() - step);
  return order;
}

Expr Generator::step_noise(int step, uint32_t draw) const {
  constexpr uint32_t kDraw = 1u << 24;  // schedules have fewer steps
  const uint32_t number = static_cast<uint32_t>(step) + draw * kDraw;
  return settings_.s_noise * Expr::noise({FEWSTEP_STREAM_STEP, number});
}

void Generator::add(const Place& place, Expr state, std::vector<Output> others) {
  Pending pending{place, {}};
  pending.outputs.push_back({FEWSTEP_SLOT, FEWSTEP_ROLE_STATE, std::move(state), true});
  for (Output& output : others) pending.outputs.push_back(std::move(output));
  pending_.push_back(std::move(pending));
}

void Generator::drop_dead_outputs() {
  std::vector<bool> live(FEWSTEP_MAX_SLOTS, false);
  live[0] = true;
  for (auto row = pending_.rbegin(); row != pending_.rend(); ++row) {
    std::erase_if(row->outputs, [&](const Output& o) {
      return !o.lasting && !live[static_cast<size_t>(o.operand)];
    });
    for (const Output& o : row->outputs) live[static_cast<size_t>(o.operand)] = false;
    for (const Output& o : row->outputs) {
      for (int32_t s = 0; s < FEWSTEP_MAX_SLOTS; ++s) {
        if (o.value.factor(s) != 0) live[static_cast<size_t>(s)] = true;
      }
    }
    live[0] = true;  // where the model is evaluated
  }
}

bool Generator::draws_noise() const {
  for (const Pending& row : pending_) {
    for (const Output& o : row.outputs) {
      if (!o.value.noises().empty()) return true;
    }
  }
  return false;
}

// Solvers are written for x - prior * y. Slot 0 holds x itself; other slots keep what they are
// given. The known tensor is y, so it cannot take the place of a masked sample.
void Generator::add_prior(const Place& place, Output* output) {
  const Expr y = Expr::operand(FEWSTEP_KNOWN);
  output->value += -output->value.factor(FEWSTEP_SLOT) * place.at.prior * y;
  if (output->operand == FEWSTEP_SLOT) output->value += place.next.prior * y;
  output->blend = false;
}

fewstep_plan_row Generator::row(const Pending& pending, bool last, bool stochastic) const {
  const Place& place = pending.place;
  const Conversion c = conversion(settings_, schedule_.process(), place.at);
  const double next_scale = input_scale(settings_, schedule_.process(), place.next);

  // A deterministic trajectory keeps one draw for the known image, so that what the model sees of
  // it changes smoothly; a stochastic one draws it anew at each node.
  const auto known_noise = [&](int node) {
    const uint32_t draw = stochastic ? static_cast<uint32_t>(node) : 0u;
    return Expr::noise({FEWSTEP_STREAM_KNOWN, draw});
  };
  std::vector<Output> outputs = pending.outputs;
  for (Output& o : outputs) {
    if (schedule_.process() == FEWSTEP_PROCESS_PRIOR) add_prior(place, &o);
    if (!o.blend) continue;
    // An anchor holds the sample of the node that the previous step reached.
    const bool anchor = o.role == FEWSTEP_ROLE_ANCHOR;
    const Node& node = anchor ? place.at : place.next;
    o.known = node.alpha;
    o.known_noise = node.sigma * known_noise(anchor ? place.step - 1 : place.step);
  }
  if (!last) {
    Output input = outputs.front();
    input.operand = FEWSTEP_MODEL_INPUT;
    input.role = FEWSTEP_ROLE_INPUT;
    input.value *= next_scale;
    input.known *= next_scale;
    input.known_noise *= next_scale;
    outputs.push_back(std::move(input));
  }

  fewstep_plan_row row{};
  if (place.evaluates) {
    row.n_guidance = 1;
    row.gamma[0] = 1;
    row.evaluates = 1;
    row.p = c.p;
    row.q = c.q;
  }
  row.step = place.step;
  row.frame = place.frame;
  row.variable = place.variable;
  row.order = place.order;
  row.process = schedule_.process();
  row.clip = settings_.clip;
  row.t = place.at.t;
  row.alpha = place.at.alpha;
  row.sigma = place.at.sigma;
  row.scale = c.scale;
  row.next_t = place.next.t;
  row.next_alpha = place.next.alpha;
  row.next_sigma = place.next.sigma;
  row.next_scale = next_scale;
  row.from_alpha = place.from.alpha;
  row.from_sigma = place.from.sigma;
  row.tau = place.tau;
  row.prior = place.at.prior;
  row.next_prior = place.next.prior;
  assemble(outputs, &row);
  return row;
}

std::vector<fewstep_plan_row> Generator::finish() {
  drop_dead_outputs();
  const bool stochastic = draws_noise();
  std::vector<fewstep_plan_row> rows;
  for (size_t i = 0; i < pending_.size(); ++i) {
    rows.push_back(row(pending_[i], i + 1 == pending_.size(), stochastic));
  }
  return rows;
}

}  // namespace fewstep::solver
