// SPDX-License-Identifier: Apache-2.0
#include "solver/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/status.h"
#include "fewstep/noise.h"
#include "solver/generate.h"

namespace fewstep::solver {
namespace {

// Rows are compared and hashed as bytes, so there may be none that no field owns.
static_assert(sizeof(fewstep_plan_row) == 4 * (4 + 8 + 4 + 4 + 4 + 3 + 3 + 6) +
                                              8 * (4 + 3 + 32 + 12 + 4 + 12 + 4 + 4 + 2 + 1 + 2));

class RowCheck {
 public:
  RowCheck(const char* function, size_t index, fewstep_plan_row* row)
      : function_(function), index_(index), row_(*row) {}

  void run() {
    in_range("n_inputs", row_.n_inputs, 0, FEWSTEP_MAX_INPUTS);
    in_range("n_outputs", row_.n_outputs, 1, FEWSTEP_MAX_OUTPUTS);
    in_range("n_noises", row_.n_noises, 0, FEWSTEP_MAX_NOISES);
    in_range("evaluates", row_.evaluates, 0, 1);
    in_range("n_guidance", row_.n_guidance, row_.evaluates, row_.evaluates * FEWSTEP_MAX_GUIDANCE);
    in_range("frame", row_.frame, FEWSTEP_FRAME_X0, FEWSTEP_FRAME_VELOCITY);
    in_range("variable", row_.variable, FEWSTEP_VARIABLE_LAMBDA, FEWSTEP_VARIABLE_INVERSE_RHO);
    in_range("order", row_.order, 0, 8);
    in_range("process", row_.process, FEWSTEP_PROCESS_VP, FEWSTEP_PROCESS_PRIOR);
    operands();
    numbers();
    clear_unused();
  }

 private:
  [[noreturn]] void fail(const std::string& field, const std::string& must,
                         const std::string& got) const {
    throw Error(FEWSTEP_INVALID_ARGUMENT, format("%s: 'rows[%zu].%s' must %s, got %s", function_,
                                                 index_, field.c_str(), must.c_str(), got.c_str()));
  }

  void in_range(const std::string& field, int32_t value, int32_t low, int32_t high) const {
    if (value < low || value > high) {
      fail(field, low == high ? format("be %d", low) : format("be %d to %d", low, high),
           std::to_string(value));
    }
  }

  void operands() const {
    for (int k = 0; k < row_.n_inputs; ++k) {
      const std::string field = format("input[%d]", k);
      const int32_t code = row_.input[k];
      in_range(field, code, 0, FEWSTEP_KNOWN);
      if (code >= FEWSTEP_GUIDED && code <= FEWSTEP_CONVERTED && !row_.evaluates) {
        fail(field, "not be a model output in a row that evaluates none", std::to_string(code));
      }
      if (code >= FEWSTEP_MODEL && code < FEWSTEP_CONVERTED &&
          code - FEWSTEP_MODEL >= row_.n_guidance) {
        fail(field, format("name one of the row's %d model outputs", row_.n_guidance),
             std::to_string(code));
      }
      for (int j = 0; j < k; ++j) {
        if (row_.input[j] == code) fail(field, "not repeat an input", std::to_string(code));
      }
    }
    for (int r = 0; r < row_.n_outputs; ++r) {
      const std::string field = format("output[%d]", r);
      const int32_t code = row_.output[r];
      if (code != FEWSTEP_MODEL_INPUT && (code < 0 || code >= FEWSTEP_MAX_SLOTS)) {
        fail(field, format("be a slot 0 to %d or %d", FEWSTEP_MAX_SLOTS - 1, FEWSTEP_MODEL_INPUT),
             std::to_string(code));
      }
      in_range(format("role[%d]", r), row_.role[r], FEWSTEP_ROLE_STATE, FEWSTEP_ROLE_OTHER);
      in_range(format("blend[%d]", r), row_.blend[r], 0, 1);
      for (int j = 0; j < r; ++j) {
        if (row_.output[j] == code) fail(field, "not repeat an output", std::to_string(code));
      }
    }
    for (int z = 1; z < row_.n_noises; ++z) {
      for (int y = 0; y < z; ++y) {
        if (row_.noise_stream[y] == row_.noise_stream[z] &&
            row_.noise_step[y] == row_.noise_step[z]) {
          fail(format("noise_step[%d]", z), "not repeat a noise of the row",
               std::to_string(row_.noise_step[z]));
        }
      }
    }
  }

  // Finite, and zero written in one way only.
  void finite(const std::string& field, double* value) const {
    if (!std::isfinite(*value)) fail(field, "be finite", number(*value));
    *value += 0.0;
  }

  void numbers() {
    if (!(row_.clip > 0)) fail("clip", "be above 0", number(row_.clip));
    const std::pair<const char*, double*> scalars[] = {{"p", &row_.p},
                                                       {"q", &row_.q},
                                                       {"t", &row_.t},
                                                       {"alpha", &row_.alpha},
                                                       {"sigma", &row_.sigma},
                                                       {"scale", &row_.scale},
                                                       {"next_t", &row_.next_t},
                                                       {"next_alpha", &row_.next_alpha},
                                                       {"next_sigma", &row_.next_sigma},
                                                       {"next_scale", &row_.next_scale},
                                                       {"from_alpha", &row_.from_alpha},
                                                       {"from_sigma", &row_.from_sigma},
                                                       {"tau", &row_.tau},
                                                       {"prior", &row_.prior},
                                                       {"next_prior", &row_.next_prior}};
    for (const auto& [field, value] : scalars) finite(field, value);
    for (int j = 0; j < row_.n_guidance; ++j) finite(format("gamma[%d]", j), &row_.gamma[j]);
    for (int r = 0; r < row_.n_outputs; ++r) {
      for (int k = 0; k < row_.n_inputs; ++k) finite(format("a[%d][%d]", r, k), &row_.a[r][k]);
      for (int z = 0; z < row_.n_noises; ++z) {
        finite(format("noise[%d][%d]", r, z), &row_.noise[r][z]);
        finite(format("known_noise[%d][%d]", r, z), &row_.known_noise[r][z]);
      }
      finite(format("known[%d]", r), &row_.known[r]);
    }
  }

  template <class T, size_t n>
  static void clear_from(T (&array)[n], int32_t used) {
    std::fill(array + used, array + n, T{});
  }

  void clear_unused() {
    clear_from(row_.input, row_.n_inputs);
    clear_from(row_.output, row_.n_outputs);
    clear_from(row_.role, row_.n_outputs);
    clear_from(row_.blend, row_.n_outputs);
    clear_from(row_.noise_stream, row_.n_noises);
    clear_from(row_.noise_step, row_.n_noises);
    clear_from(row_.gamma, row_.n_guidance);
    clear_from(row_.known, row_.n_outputs);
    for (int r = 0; r < FEWSTEP_MAX_OUTPUTS; ++r) {
      const bool used = r < row_.n_outputs;
      clear_from(row_.a[r], used ? row_.n_inputs : 0);
      clear_from(row_.noise[r], used ? row_.n_noises : 0);
      clear_from(row_.known_noise[r], used ? row_.n_noises : 0);
    }
  }

  const char* function_;
  size_t index_;
  fewstep_plan_row& row_;
};

}  // namespace

Plan::Plan(const char* function, std::string name, std::vector<fewstep_plan_row> rows)
    : name_(std::move(name)), rows_(std::move(rows)) {
  if (rows_.empty() || rows_.size() > (1u << 24)) {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("%s: 'rows' must have 1 to 16777216 rows, got %zu", function, rows_.size()));
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    RowCheck(function, i, &rows_[i]).run();
    const fewstep_plan_row& row = rows_[i];
    calls_ += row.evaluates;
    for (int k = 0; k < row.n_inputs; ++k) {
      if (row.input[k] < FEWSTEP_MAX_SLOTS) slots_ = std::max(slots_, row.input[k] + 1);
    }
    for (int r = 0; r < row.n_outputs; ++r) {
      if (row.output[r] < FEWSTEP_MAX_SLOTS) slots_ = std::max(slots_, row.output[r] + 1);
    }
  }
}

uint64_t Plan::hash() const {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
  const auto* bytes = reinterpret_cast<const unsigned char*>(rows_.data());
  for (size_t i = 0; i < rows_.size() * sizeof(fewstep_plan_row); ++i) {
    h = (h ^ bytes[i]) * 0x100000001b3u;
  }
  return h;
}

bool Plan::operator==(const Plan& other) const {
  return rows_.size() == other.rows_.size() &&
         std::memcmp(rows_.data(), other.rows_.data(), rows_.size() * sizeof(fewstep_plan_row)) ==
             0;
}

Plan Plan::start(int32_t index, bool with_known) const {
  const auto fail = [&](const std::string& must) {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("fewstep_plan_start: 'row' must %s, got %d", must.c_str(), index));
  };
  if (index < 0 || index >= static_cast<int32_t>(rows_.size())) {
    fail(format("be 0 to %zu", rows_.size() - 1));
  }
  const fewstep_plan_row& target = rows_[static_cast<size_t>(index)];
  for (int k = 0; k < target.n_inputs; ++k) {
    if (target.input[k] > 0 && target.input[k] < FEWSTEP_MAX_SLOTS) {
      fail(
          format("read no slot but 0 (row %d reads slot %d; to begin later in a schedule, make the "
                 "plan with 'start')",
                 index, target.input[k]));
    }
  }
  fewstep_plan_row row{};
  row.process = target.process;
  row.frame = target.frame;
  row.step = target.step;
  row.clip = INFINITY;
  row.t = row.next_t = target.t;
  row.alpha = row.next_alpha = row.from_alpha = target.alpha;
  row.sigma = row.next_sigma = row.from_sigma = target.sigma;
  row.scale = row.next_scale = target.scale;
  row.prior = row.next_prior = target.prior;
  const Expr xi = Expr::noise({FEWSTEP_STREAM_START, 0});
  Expr state;
  if (target.process == FEWSTEP_PROCESS_PRIOR) {
    if (with_known) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  "fewstep_plan_start: 'with_known' must be 0 for a process with a prior, which "
                  "begins from that, got 1");
    }
    // What x0 is left of stands for the prior too.
    state = (target.alpha + target.prior) * Expr::operand(FEWSTEP_KNOWN) + target.sigma * xi;
  } else if (with_known) {
    state = target.alpha * Expr::operand(FEWSTEP_KNOWN) + target.sigma * xi;
    row.order = 1;
  } else {
    // Pure noise stands for data of unit variance under VP; VE and FLOW start where sigma drowns
    // it.
    state = (target.process == FEWSTEP_PROCESS_VP ? 1.0 : target.sigma) * xi;
  }
  assemble({{FEWSTEP_SLOT, FEWSTEP_ROLE_STATE, state},
            {FEWSTEP_MODEL_INPUT, FEWSTEP_ROLE_INPUT, target.scale * state}},
           &row);
  return Plan("fewstep_plan_start", name_ + " start", {row});
}

Plan Plan::with_guidance(std::span<const double> weights, int32_t n_weight_rows,
                         int32_t n_guidance) const {
  const auto fail = [](const char* field, const std::string& must, const std::string& got) {
    throw Error(FEWSTEP_INVALID_ARGUMENT, format("fewstep_plan_with_guidance: '%s' must %s, got %s",
                                                 field, must.c_str(), got.c_str()));
  };
  const auto n_rows = static_cast<int32_t>(rows_.size());
  if (n_guidance < 1 || n_guidance > FEWSTEP_MAX_GUIDANCE) {
    fail("n_guidance", format("be 1 to %d", FEWSTEP_MAX_GUIDANCE), std::to_string(n_guidance));
  }
  if (n_weight_rows != 1 && n_weight_rows != n_rows) {
    fail("n_weight_rows", n_rows == 1 ? "be 1" : format("be 1 or %d", n_rows),
         std::to_string(n_weight_rows));
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!std::isfinite(weights[i])) {
      fail(format("weights[%zu]", i).c_str(), "be finite", number(weights[i]));
    }
  }
  std::vector<fewstep_plan_row> rows = rows_;
  for (int32_t i = 0; i < n_rows; ++i) {
    fewstep_plan_row& row = rows[static_cast<size_t>(i)];
    if (!row.evaluates) continue;
    row.n_guidance = n_guidance;
    for (int32_t j = 0; j < n_guidance; ++j) {
      row.gamma[j] = weights[static_cast<size_t>((n_weight_rows == 1 ? 0 : i) * n_guidance + j)];
    }
  }
  return Plan("fewstep_plan_with_guidance", name_, std::move(rows));
}

Plan Plan::concat(std::span<const fewstep_plan* const> plans) {
  std::string name;
  std::vector<fewstep_plan_row> rows;
  for (const fewstep_plan* plan : plans) {
    if (!name.empty()) name += " + ";
    name += plan->plan.name();
    rows.insert(rows.end(), plan->plan.rows().begin(), plan->plan.rows().end());
  }
  return Plan("fewstep_plan_concat", std::move(name), std::move(rows));
}

}  // namespace fewstep::solver
