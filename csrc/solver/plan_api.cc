// SPDX-License-Identifier: Apache-2.0
// The C entry points of plans.
#include <cstring>

#include "core/context.h"
#include "core/cuda/device.h"
#include "core/status.h"
#include "solver/generate.h"
#include "solver/plan.h"
#include "solver/schedule.h"

using fewstep::Error;
using fewstep::format;
using fewstep::guard;
using fewstep::solver::Plan;

namespace {

void not_null(const char* function, const char* argument, const void* pointer) {
  if (!pointer) {
    throw Error(FEWSTEP_INVALID_ARGUMENT, format("%s: '%s' must not be NULL", function, argument));
  }
}

fewstep_plan_params checked(const char* function, const fewstep_plan_params* params) {
  fewstep_plan_params p = FEWSTEP_PLAN_PARAMS_INIT;
  if (!params) return p;
  if (params->size != sizeof p) {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("%s: 'params.size' must be %zu, got %u", function, sizeof p, params->size));
  }
  return *params;
}

}  // namespace

extern "C" {

fewstep_status fewstep_plan_create(const char* solver, const fewstep_schedule* schedule,
                                   const fewstep_plan_params* params, fewstep_plan** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_plan_create";
    not_null(kFunction, "schedule", schedule);
    not_null(kFunction, "out", out);
    auto rows = fewstep::solver::generate(solver, schedule->schedule, checked(kFunction, params));
    *out = new fewstep_plan{Plan(kFunction, solver, std::move(rows))};
  });
}

const char* fewstep_plan_solver(int32_t i) { return fewstep::solver::solver_name(i); }

fewstep_status fewstep_plan_from_rows(const fewstep_plan_row* rows, int32_t n_rows,
                                      const char* name, fewstep_plan** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_plan_from_rows";
    not_null(kFunction, "rows", rows);
    not_null(kFunction, "out", out);
    const size_t n = n_rows > 0 ? static_cast<size_t>(n_rows) : 0;
    *out = new fewstep_plan{Plan(kFunction, name ? name : "", {rows, rows + n})};
  });
}

fewstep_status fewstep_plan_from_tableau(const double* a, const double* b, int32_t stages,
                                         int32_t order, int32_t frame,
                                         const fewstep_schedule* schedule,
                                         const fewstep_plan_params* params, fewstep_plan** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_plan_from_tableau";
    not_null(kFunction, "a", a);
    not_null(kFunction, "b", b);
    not_null(kFunction, "schedule", schedule);
    not_null(kFunction, "out", out);
    if (stages < 1 || stages > 6) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("%s: 'stages' must be 1 to 6, got %d", kFunction, stages));
    }
    const auto s = static_cast<size_t>(stages);
    auto rows = fewstep::solver::generate_tableau({a, s * s}, {b, s}, order, frame,
                                                  schedule->schedule, checked(kFunction, params));
    *out = new fewstep_plan{Plan(kFunction, "tableau", std::move(rows))};
  });
}

fewstep_status fewstep_plan_start(const fewstep_plan* plan, int32_t row, int32_t with_known,
                                  fewstep_plan** out) {
  return guard([&] {
    not_null("fewstep_plan_start", "plan", plan);
    not_null("fewstep_plan_start", "out", out);
    *out = new fewstep_plan{plan->plan.start(row, with_known != 0)};
  });
}

fewstep_status fewstep_plan_concat(const fewstep_plan* const* plans, int32_t n_plans,
                                   fewstep_plan** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_plan_concat";
    not_null(kFunction, "plans", plans);
    not_null(kFunction, "out", out);
    if (n_plans < 1) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("%s: 'n_plans' must be at least 1, got %d", kFunction, n_plans));
    }
    for (int32_t i = 0; i < n_plans; ++i) not_null(kFunction, "plans[i]", plans[i]);
    *out = new fewstep_plan{Plan::concat({plans, static_cast<size_t>(n_plans)})};
  });
}

fewstep_status fewstep_plan_with_guidance(const fewstep_plan* plan, const double* weights,
                                          int32_t n_weight_rows, int32_t n_guidance,
                                          fewstep_plan** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_plan_with_guidance";
    not_null(kFunction, "plan", plan);
    not_null(kFunction, "weights", weights);
    not_null(kFunction, "out", out);
    const bool sane = n_weight_rows > 0 && n_guidance > 0;
    const size_t n =
        sane ? static_cast<size_t>(n_weight_rows) * static_cast<size_t>(n_guidance) : 0;
    *out = new fewstep_plan{plan->plan.with_guidance({weights, n}, n_weight_rows, n_guidance)};
  });
}

fewstep_status fewstep_plan_prepare(const fewstep_plan* plan, const fewstep_context* ctx) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_plan_prepare";
    not_null(kFunction, "plan", plan);
    if (!ctx || ctx->device_type != fewstep::kCuda) return;
    const fewstep::Device device{ctx->device_type, ctx->device_id};
    if (plan->tables.find(device)) return;
    const fewstep::DeviceScope scope(kFunction, device);
    if (fewstep::gpu::is_capturing(kFunction, ctx->stream)) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("%s: 'plan' must be prepared for cuda:%d before a stream is captured, got "
                         "a stream that is",
                         kFunction, int(device.id)));
    }
    plan->tables.prepare(kFunction, plan->plan.rows(), device);
  });
}

void fewstep_plan_destroy(fewstep_plan* plan) { delete plan; }

int32_t fewstep_plan_rows(const fewstep_plan* plan) {
  return static_cast<int32_t>(plan->plan.rows().size());
}

int32_t fewstep_plan_slots(const fewstep_plan* plan) { return plan->plan.slots(); }

int32_t fewstep_plan_calls(const fewstep_plan* plan) { return plan->plan.calls(); }

const char* fewstep_plan_name(const fewstep_plan* plan) { return plan->plan.name().c_str(); }

fewstep_status fewstep_plan_row_at(const fewstep_plan* plan, int32_t i, fewstep_plan_row* out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_plan_row_at";
    not_null(kFunction, "plan", plan);
    not_null(kFunction, "out", out);
    const auto rows = plan->plan.rows();
    if (i < 0 || i >= static_cast<int32_t>(rows.size())) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("%s: 'i' must be 0 to %zu, got %d", kFunction, rows.size() - 1, i));
    }
    *out = rows[static_cast<size_t>(i)];
  });
}

fewstep_status fewstep_plan_validate(const fewstep_plan* plan, double* residual) {
  return guard([&] {
    not_null("fewstep_plan_validate", "plan", plan);
    const double largest = fewstep::solver::validate(plan->plan);
    if (residual) *residual = largest;
  });
}

fewstep_status fewstep_plan_to_json(const fewstep_plan* plan, char* text, size_t capacity,
                                    size_t* needed) {
  return guard([&] {
    not_null("fewstep_plan_to_json", "plan", plan);
    const std::string json = fewstep::solver::to_json(plan->plan);
    if (needed) *needed = json.size() + 1;
    if (text && capacity > json.size()) std::memcpy(text, json.c_str(), json.size() + 1);
  });
}

fewstep_status fewstep_plan_from_json(const char* text, size_t length, fewstep_plan** out) {
  return guard([&] {
    not_null("fewstep_plan_from_json", "text", text);
    not_null("fewstep_plan_from_json", "out", out);
    *out = new fewstep_plan{fewstep::solver::from_json({text, length})};
  });
}

int32_t fewstep_plan_equal(const fewstep_plan* a, const fewstep_plan* b) {
  return a->plan == b->plan;
}

uint64_t fewstep_plan_hash(const fewstep_plan* plan) { return plan->plan.hash(); }

}  // extern "C"
