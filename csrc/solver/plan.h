// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewstep/plan.h"
#include "solver/plan_table.h"

namespace fewstep::solver {

// An immutable table of rows in canonical form: unused entries are zero, zeros are positive.
class Plan {
 public:
  // Checks and canonicalises every row; errors are of `function`.
  Plan(const char* function, std::string name, std::vector<fewstep_plan_row> rows);

  const std::string& name() const { return name_; }
  std::span<const fewstep_plan_row> rows() const { return rows_; }
  int32_t slots() const { return slots_; }
  int32_t calls() const { return calls_; }
  uint64_t hash() const;
  bool operator==(const Plan& other) const;

  Plan start(int32_t row, bool with_known) const;
  Plan with_guidance(std::span<const double> weights, int32_t n_weight_rows,
                     int32_t n_guidance) const;
  static Plan concat(std::span<const fewstep_plan* const> plans);

 private:
  std::string name_;
  std::vector<fewstep_plan_row> rows_;
  int32_t slots_ = 1;
  int32_t calls_ = 0;
};

// Largest relative residual of the conditions of fewstep_plan_validate; throws above the tolerance.
double validate(const Plan& plan);

std::string to_json(const Plan& plan);
Plan from_json(std::string_view text);

}  // namespace fewstep::solver

struct fewstep_plan {
  fewstep::solver::Plan plan;
  mutable fewstep::solver::PlanTables tables{};
};
