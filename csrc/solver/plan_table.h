// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <mutex>
#include <span>

#include "core/context.h"
#include "solver/row.h"

namespace fewstep::solver {

// A plan's rows in a device's memory, for kernels that learn a sample's row there.
struct PlanTable {
  const fewstep_plan_row* rows;  // [n_rows]
  const ResolvedRow* resolved;   // [4, n_rows], without guidance

  // The rows resolved for a call that has a mask and a model input, or not.
  const ResolvedRow* resolved_for(bool has_mask, bool has_model_input, size_t n_rows) const {
    return resolved + (size_t(has_mask) + 2 * size_t(has_model_input)) * n_rows;
  }
};

// The tables of one plan, one per device that asked. They live as long as the plan.
class PlanTables {
 public:
  PlanTables() = default;
  ~PlanTables();
  PlanTables(const PlanTables&) = delete;
  PlanTables& operator=(const PlanTables&) = delete;

  // Null where the device has none. Takes no lock.
  const PlanTable* find(Device device) const;
  // Makes the device's table unless it is there. Allocates and waits for the copy.
  const PlanTable& prepare(const char* function, std::span<const fewstep_plan_row> rows,
                           Device device);

 private:
  struct Entry;
  std::atomic<Entry*> first_{nullptr};
  std::mutex mutex_;  // of those who add
};

}  // namespace fewstep::solver
