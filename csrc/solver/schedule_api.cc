// SPDX-License-Identifier: Apache-2.0
// The C entry points of schedules.
#include "core/status.h"
#include "solver/schedule.h"

using fewstep::Error;
using fewstep::guard;

extern "C" {

fewstep_status fewstep_schedule_create(const char* name, int32_t steps,
                                       const fewstep_schedule_params* params,
                                       fewstep_schedule** out) {
  return guard([&] {
    fewstep_schedule_params p = FEWSTEP_SCHEDULE_PARAMS_INIT;
    if (params) {
      if (params->size != sizeof p) {
        throw Error(FEWSTEP_INVALID_ARGUMENT,
                    fewstep::format("fewstep_schedule_create: 'params.size' must be %zu, got %u",
                                    sizeof p, params->size));
      }
      p = *params;
    }
    if (!out) {
      throw Error(FEWSTEP_INVALID_ARGUMENT, "fewstep_schedule_create: 'out' must not be NULL");
    }
    *out = new fewstep_schedule{fewstep::solver::Schedule::create(name, steps, p)};
  });
}

void fewstep_schedule_destroy(fewstep_schedule* schedule) { delete schedule; }

int32_t fewstep_schedule_steps(const fewstep_schedule* schedule) {
  return schedule->schedule.steps();
}

int32_t fewstep_schedule_process(const fewstep_schedule* schedule) {
  return schedule->schedule.process();
}

fewstep_status fewstep_schedule_node(const fewstep_schedule* schedule, int32_t i,
                                     fewstep_node* out) {
  return guard([&] {
    if (!schedule || i < 0 || i > schedule->schedule.steps()) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  fewstep::format("fewstep_schedule_node: 'i' must be 0 to %d, got %d",
                                  schedule ? schedule->schedule.steps() : 0, i));
    }
    const auto& n = schedule->schedule.node(i);
    *out = {n.t, n.alpha, n.sigma, n.lambda, n.prior};
  });
}

}  // extern "C"
