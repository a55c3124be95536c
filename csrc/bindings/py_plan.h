// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "fewstep/fewstep.h"

namespace fewstep::python {

struct DestroyPlan {
  void operator()(fewstep_plan* plan) const { fewstep_plan_destroy(plan); }
};
struct DestroySchedule {
  void operator()(fewstep_schedule* schedule) const { fewstep_schedule_destroy(schedule); }
};

// What the Python class fewstep.solver.Plan holds.
struct PyPlan {
  std::unique_ptr<fewstep_plan, DestroyPlan> owner;
  explicit PyPlan(fewstep_plan* plan) : owner(plan) {}
  const fewstep_plan* get() const { return owner.get(); }
};

struct PySchedule {
  std::unique_ptr<fewstep_schedule, DestroySchedule> owner;
  explicit PySchedule(fewstep_schedule* schedule) : owner(schedule) {}
  const fewstep_schedule* get() const { return owner.get(); }
};

void bind_row(pybind11::module_& m);
void bind_schedule(pybind11::module_& m);

}  // namespace fewstep::python
