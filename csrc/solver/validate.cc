// SPDX-License-Identifier: Apache-2.0
// The conditions of fewstep_plan_validate, by running each row on problems with known solutions.
// The integrals are independent of the generator's: many short panels of another rule.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "core/status.h"
#include "solver/plan.h"
#include "solver/value.h"

namespace fewstep::solver {
namespace {

constexpr double kTolerance = 1e-9;

// A place on the trajectory.
struct Position {
  double alpha = 0, sigma = 0;
  bool operator==(const Position&) const = default;
};

Position call_position(const fewstep_plan_row& row) { return {row.alpha, row.sigma}; }
Position next_position(const fewstep_plan_row& row) { return {row.next_alpha, row.next_sigma}; }
Position from_position(const fewstep_plan_row& row) { return {row.from_alpha, row.from_sigma}; }

// What a slot holds between two rows; the value of ROLE_OTHER is known only inside its interval.
struct Content {
  int32_t role;
  Position at;
  int32_t frame;
};
using Contents = std::array<std::optional<Content>, FEWSTEP_MAX_SLOTS>;

// A problem with a known solution: x and, in the row's frame, m at every position.
struct Problem {
  std::function<double(Position)> x, m;
  double x0 = 0;  // of the known image
  double y = 0;   // of a process with a prior
};

using Values = std::array<Value, FEWSTEP_MAX_SLOTS>;

double variable(int32_t kind, Position at) {
  switch (kind) {
    case FEWSTEP_VARIABLE_RHO:
      return at.sigma / at.alpha;
    case FEWSTEP_VARIABLE_SIGMA:
      return at.sigma;
    case FEWSTEP_VARIABLE_INVERSE_RHO:
      return at.alpha / at.sigma;
    default:
      return std::log(at.alpha / at.sigma);
  }
}

// Composite Gauss rule with 5 points on many panels.
double integrate(double a, double b, const std::function<double(double)>& f) {
  constexpr int kPanels = 64;
  constexpr double kX[] = {0, 0.5384693101056831, 0.9061798459386640};
  constexpr double kW[] = {0.5688888888888889, 0.4786286704993665, 0.2369268850561891};
  const double half = (b - a) / kPanels / 2;
  double sum = 0;
  for (int panel = 0; panel < kPanels; ++panel) {
    const double middle = a + (2 * panel + 1) * half;
    sum += kW[0] * f(middle);
    for (int i = 1; i < 3; ++i)
      sum += kW[i] * (f(middle - half * kX[i]) + f(middle + half * kX[i]));
  }
  return sum * half;
}

bool in_own_variable(const fewstep_plan_row& row) {
  return row.tau == 0 &&
         ((row.frame == FEWSTEP_FRAME_EPSILON && row.variable == FEWSTEP_VARIABLE_RHO) ||
          (row.frame == FEWSTEP_FRAME_VELOCITY && row.variable == FEWSTEP_VARIABLE_SIGMA) ||
          (row.frame == FEWSTEP_FRAME_X0 && row.variable == FEWSTEP_VARIABLE_INVERSE_RHO));
}

// x at `to` of the trajectory with x = 0 at the interval's start and m = f(variable): the README's
// formula, integrated in mu where the polynomial is one in mu and in lambda otherwise.
double integral_of(const fewstep_plan_row& row, Position to,
                   const std::function<double(double)>& f) {
  const Position from = from_position(row);
  const double a = variable(row.variable, from), b = variable(row.variable, to);
  if (in_own_variable(row)) {
    const double unit = row.frame == FEWSTEP_FRAME_EPSILON ? to.alpha
                        : row.frame == FEWSTEP_FRAME_X0    ? to.sigma
                                                           : 1;
    return unit * integrate(a, b, f);
  }
  const double lambda_from = std::log(from.alpha / from.sigma);
  const double lambda_to = std::log(to.alpha / to.sigma);
  const double kappa = 1 + row.tau * row.tau;
  return integrate(lambda_from, lambda_to, [&](double u) {
    const double rho = std::exp(-u), sigma = rho / (1 + rho);
    const double v = row.variable == FEWSTEP_VARIABLE_LAMBDA  ? u
                     : row.variable == FEWSTEP_VARIABLE_RHO   ? rho
                     : row.variable == FEWSTEP_VARIABLE_SIGMA ? sigma
                                                              : 1 / rho;
    const double weight =
        row.frame == FEWSTEP_FRAME_X0        ? to.alpha * kappa * std::exp(-kappa * (lambda_to - u))
        : row.frame == FEWSTEP_FRAME_EPSILON ? -to.sigma * kappa * std::exp(lambda_to - u)
                                             : -sigma * (1 - sigma);
    return weight * f(v);
  });
}

double m_of(int32_t frame, double x0, double noise) {
  return frame == FEWSTEP_FRAME_X0 ? x0 : frame == FEWSTEP_FRAME_EPSILON ? noise : noise - x0;
}

Value x0_of(int32_t frame, double m, const Value& x, Position at) {
  if (frame == FEWSTEP_FRAME_X0) return {m, {}};
  const double scale = frame == FEWSTEP_FRAME_EPSILON ? 1 / at.alpha : 1;
  Value x0{-scale * at.sigma * m, {}};
  x0.add(scale, x);
  return x0;
}

// The noise frame takes old noise as the model's constant: with fresh noise beside it, the variance
// is that of the marginals for small steps only.
bool drifts_in_variance(const fewstep_plan_row& row) {
  return row.frame == FEWSTEP_FRAME_EPSILON && row.tau > 0;
}

class Validator {
 public:
  explicit Validator(const Plan& plan) : rows_(plan.rows()) {}

  double run() {
    for (size_t i = 0; i < rows_.size(); ++i) {
      const fewstep_plan_row& row = rows_[i];
      const bool continues = contents_[0] && contents_[0]->at == call_position(row);
      if (!continues) {
        // Another trajectory begins: nothing of the last one may be read.
        contents_.fill(std::nullopt);
        contents_[0] = Content{FEWSTEP_ROLE_STATE, call_position(row), row.frame};
      }
      // A row that evaluates nothing places a sample: the interval begins after it; so does one
      // that claims nothing and stays where it is, a corrector.
      const bool same_interval =
          i > 0 && continues && rows_[i - 1].evaluates && row.step == rows_[i - 1].step &&
          from_position(row) == from_position(rows_[i - 1]) &&
          !(rows_[i - 1].order == 0 && next_position(rows_[i - 1]) == from_position(rows_[i - 1]));
      if (!same_interval) {
        interval_ = i;
        at_interval_ = contents_;
      }
      check_reads(i);
      check_blends(i);
      check_model_input(i);
      if (row.order > 0) check_problems(i);
      update(row);
    }
    return largest_;
  }

 private:
  [[noreturn]] void refuse(size_t i, const std::string& what, const std::string& must,
                           const std::string& got) const {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("fewstep_plan_validate: 'rows[%zu].%s' must %s, got %s", i, what.c_str(),
                       must.c_str(), got.c_str()));
  }

  void judge(size_t i, int r, const std::string& condition, double residual) {
    if (!(residual <= kTolerance)) {
      refuse(i, format("a[%d]", r), condition,
             "a relative residual of " + format("%.3g", residual));
    }
    largest_ = std::max(largest_, residual);
  }

  void check_reads(size_t i) const {
    const fewstep_plan_row& row = rows_[i];
    for (int k = 0; k < row.n_inputs; ++k) {
      const int32_t code = row.input[k];
      if (code < FEWSTEP_MAX_SLOTS && !contents_[static_cast<size_t>(code)]) {
        refuse(i, format("input[%d]", k), "be a slot that an earlier row of the trajectory wrote",
               std::to_string(code));
      }
    }
  }

  // The known image must stand at the same place as what it replaces.
  void check_blends(size_t i) {
    const fewstep_plan_row& row = rows_[i];
    for (int r = 0; r < row.n_outputs; ++r) {
      if (!row.blend[r]) continue;
      const bool anchor = row.role[r] == FEWSTEP_ROLE_ANCHOR;
      const double scale = row.role[r] == FEWSTEP_ROLE_INPUT ? row.next_scale : 1;
      const Position at = anchor ? call_position(row) : next_position(row);
      double variance = 0;
      for (int z = 0; z < row.n_noises; ++z) {
        variance += row.known_noise[r][z] * row.known_noise[r][z];
      }
      const double unit = std::abs(scale) * std::hypot(at.alpha, at.sigma);
      judge(i, r, "blend with the known image at the output's own alpha and sigma",
            std::max(std::abs(row.known[r] - scale * at.alpha),
                     std::abs(std::sqrt(variance) - std::abs(scale) * at.sigma)) /
                unit);
    }
  }

  void check_model_input(size_t i) {
    const fewstep_plan_row& row = rows_[i];
    int state = -1;
    for (int r = 0; r < row.n_outputs; ++r) {
      if (row.output[r] == FEWSTEP_SLOT) state = r;
    }
    for (int r = 0; r < row.n_outputs; ++r) {
      if (row.role[r] != FEWSTEP_ROLE_INPUT || state < 0) continue;
      double difference = 0, size = 0;
      const auto compare = [&](double input, double of_state) {
        difference = std::max(difference, std::abs(input - row.next_scale * of_state));
        size = std::max(size, std::abs(row.next_scale * of_state));
      };
      for (int k = 0; k < row.n_inputs; ++k) compare(row.a[r][k], row.a[state][k]);
      for (int z = 0; z < row.n_noises; ++z) {
        compare(row.noise[r][z], row.noise[state][z]);
        compare(row.known_noise[r][z], row.known_noise[state][z]);
      }
      compare(row.known[r], row.known[state]);
      judge(i, r, "be next_scale times slot 0", size > 0 ? difference / size : difference);
    }
  }

  // Runs the interval up to row i on a problem and judges row i's outputs.
  void check_problems(size_t i) {
    const fewstep_plan_row& row = rows_[i];
    for (const bool noise : {false, true}) {
      if (noise && drifts_in_variance(row)) continue;
      Problem p;
      const double c0 = noise ? 0 : 1, c1 = noise ? 1 : 0;
      p.x = [=](Position at) { return c0 * at.alpha + c1 * at.sigma; };
      p.m = [=](Position) { return m_of(row.frame, c0, c1); };
      p.x0 = c0;
      solve(i, p, noise ? "carry constant noise to next_sigma" : "carry constant x0 to next_alpha",
            noise);
    }
    if (row.process == FEWSTEP_PROCESS_PRIOR) {
      Problem p;
      p.x = p.m = [](Position) { return 0.0; };
      p.y = 1;
      solve(i, p, "carry the prior to next_prior", false);
    }
    // The time of a discrete-time model is not in the rows, so its polynomials cannot be tested.
    if (row.variable == FEWSTEP_VARIABLE_TIME) return;
    const int lowest = drifts_in_variance(row) ? 0 : 1;
    for (int degree = lowest; degree < row.order; ++degree) {
      const double origin = variable(row.variable, from_position(row));
      const double width = variable(row.variable, next_position(row)) - origin;
      if (!std::isfinite(origin) || !std::isfinite(width)) {
        refuse(i, "order", "be 1 where the interpolation variable is infinite",
               std::to_string(row.order));
      }
      const auto f = [=](double v) { return std::pow((v - origin) / width, degree); };
      Problem p;
      p.x = [=, &row](Position at) {
        return at == from_position(row) ? 0 : integral_of(row, at, f);
      };
      p.m = [=, &row](Position at) { return f(variable(row.variable, at)); };
      solve(i, p, format("integrate polynomials of degree %d exactly", degree), false);
    }
  }

  void solve(size_t i, const Problem& p, const std::string& condition, bool variance) {
    Values slots{};
    for (size_t s = 0; s < slots.size(); ++s) {
      const auto& content = at_interval_[s];
      if (!content) continue;
      slots[s].mean = content->role == FEWSTEP_ROLE_HISTORY ? p.m(content->at) : p.x(content->at);
    }
    slots[0].mean += rows_[interval_].prior * p.y;
    for (size_t n = interval_; n <= i; ++n) {
      slots = apply(rows_[n], p, slots, [&](int r, const Value& value, double terms) {
        if (n == i) judge_output(i, r, value, terms, p, condition, variance);
      });
    }
  }

  template <class Report>
  static Values apply(const fewstep_plan_row& row, const Problem& p, const Values& slots,
                      Report&& report) {
    Value x0{p.x0, {}}, g, model;
    if (row.evaluates) {
      Value sample = slots[0];
      sample.mean -= row.prior * p.y;
      x0 = x0_of(row.frame, p.m(call_position(row)), sample, call_position(row));
      g.add(1 / row.q, x0);
      g.add(-row.p / row.q, sample);
      double sum = 0;
      for (int j = 0; j < row.n_guidance; ++j) sum += row.gamma[j];
      model.add(1 / sum, g);
    }
    const Value known{row.process == FEWSTEP_PROCESS_PRIOR ? p.y : p.x0, {}};
    Values after = slots;
    for (int r = 0; r < row.n_outputs; ++r) {
      Value value;
      double terms = 0;
      for (int k = 0; k < row.n_inputs; ++k) {
        const int32_t code = row.input[k];
        const Value& in = code < FEWSTEP_MAX_SLOTS    ? slots[static_cast<size_t>(code)]
                          : code == FEWSTEP_GUIDED    ? g
                          : code == FEWSTEP_CONVERTED ? x0
                          : code == FEWSTEP_KNOWN     ? known
                                                      : model;
        value.add(row.a[r][k], in);
        terms += std::abs(row.a[r][k] * in.mean);
      }
      for (int z = 0; z < row.n_noises; ++z) {
        const uint64_t key = uint64_t{row.noise_stream[z]} << 32 | row.noise_step[z];
        if (row.noise[r][z] != 0) value.add_noise(key, row.noise[r][z]);
      }
      report(r, value, terms);
      if (row.output[r] < FEWSTEP_MAX_SLOTS) after[static_cast<size_t>(row.output[r])] = value;
    }
    return after;
  }

  void judge_output(size_t i, int r, const Value& value, double terms, const Problem& p,
                    const std::string& condition, bool variance) {
    const fewstep_plan_row& row = rows_[i];
    double want = 0;
    switch (row.role[r]) {
      case FEWSTEP_ROLE_STATE:
        want = p.x(next_position(row)) + row.next_prior * p.y;
        break;
      case FEWSTEP_ROLE_ANCHOR:
        want = p.x(call_position(row));
        break;
      case FEWSTEP_ROLE_HISTORY:
        want = p.m(call_position(row));
        break;
      default:
        return;
    }
    // The share of the terms, and of what the problems are of the size of, keeps rounding out where
    // the terms cancel or nothing is wanted.
    const double floor =
        row.role[r] == FEWSTEP_ROLE_HISTORY ? 1 : 1e-3 * std::hypot(row.next_alpha, row.next_sigma);
    const double size = std::max({std::abs(want), 1e-3 * terms, floor});
    const double fresh = value.variance();
    if (variance && fresh > 0) {
      judge(i, r, "keep the variance next_sigma^2",
            std::abs(value.mean * value.mean + fresh - want * want) / (want * want));
      judge(i, r, "not turn the old noise around", std::max(0.0, -value.mean) / want);
    } else {
      judge(i, r, condition, std::abs(value.mean - want) / size);
    }
    if (drifts_in_variance(row) && row.role[r] == FEWSTEP_ROLE_STATE && row.next_sigma > 0) {
      const double rho = row.from_sigma / row.from_alpha / (row.next_sigma / row.next_alpha);
      const double drawn = row.next_sigma * row.tau * std::sqrt((rho - 1) * (rho + 1));
      judge(i, r, "draw the noise of the reverse SDE", std::abs(std::sqrt(fresh) - drawn) / drawn);
    }
  }

  void update(const fewstep_plan_row& row) {
    for (int r = 0; r < row.n_outputs; ++r) {
      if (row.output[r] >= FEWSTEP_MAX_SLOTS) continue;
      const bool here = row.role[r] == FEWSTEP_ROLE_HISTORY || row.role[r] == FEWSTEP_ROLE_ANCHOR;
      contents_[static_cast<size_t>(row.output[r])] =
          Content{row.role[r], here ? call_position(row) : next_position(row), row.frame};
    }
  }

  std::span<const fewstep_plan_row> rows_;
  Contents contents_{}, at_interval_{};
  size_t interval_ = 0;
  double largest_ = 0;
};

}  // namespace

double validate(const Plan& plan) { return Validator(plan).run(); }

}  // namespace fewstep::solver
