// SPDX-License-Identifier: Apache-2.0
#include "solver/step.h"

#include <algorithm>
#include <bit>
#include <span>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/cpu/processor.h"
#include "core/cuda/device.h"
#include "fewstep/solver.h"
#include "solver/plan.h"

namespace fewstep::solver {
namespace {

constexpr KernelSet<StepFn> kStep = FEWSTEP_KERNELS(step);
constexpr const char* kFunction = "fewstep_solver_step";

StepTensor tensor(const View& v) {
  return {static_cast<char*>(v.data), v.stride * size_of(v.dtype), v.dtype};
}

std::string range_text(int64_t count) {
  return "must lie in [0, " + std::to_string(count) + "), the plan's rows";
}

// The call's arguments as the kernel wants them, with what is needed to check them against rows.
class StepCall {
 public:
  StepCall(const fewstep_context* ctx, const fewstep_plan* plan,
           const fewstep_solver_step_args* args)
      : check_(kFunction, ctx), plan_(plan), args_(args) {
    if (!plan) check_.fail("plan", "must be given", "NULL");
    check_.sized("args", args, "FEWSTEP_SOLVER_STEP_ARGS_INIT");
    const std::span<const fewstep_plan_row> rows = plan->plan.rows();
    p_.plan = rows.data();
    p_.n_rows = static_cast<int32_t>(rows.size());
    const Execution run = execution_of(ctx);
    p_.threads = run.threads;
    p_.cuda_stream = run.stream;
  }

  void run() {
    check_tensors();
    const Device device = check_.device();
    StepFn& kernel = kStep.pick(device, kFunction);
    check_thread_settings();
    p_.shared = nullptr;
    p_.row = args_->row;
    p_.given = given();
    if (!args_->rows) {
      if (p_.row < 0 || p_.row >= p_.n_rows) {
        check_.fail("row", range_text(p_.n_rows), std::to_string(p_.row));
      }
      require_row(p_.row, &resolved_);
      if (!args_->guidance) p_.shared = &resolved_;
    } else if (device.type == kCpu) {
      require_rows();
    } else {
      models_needed_ = n_models_;  // which rows are in use is known on the device alone
    }
    check_clip();
    if (p_.B == 0 || p_.N == 0) return;
    check_model_count();
    set_table(device);
    p_.cache_bytes = last_level_cache_bytes();
    const DeviceScope scope(kFunction, device);
    kernel(p_);
  }

 private:
  void check_tensors() {
    check_counts();
    const fewstep_solver_step_args& a = *args_;
    for (int i = 0; i < a.n_slots; ++i) {
      if (i > 0 && !a.slots[i]) continue;
      p_.slots[i] = tensor(check_.out({"slots", i}, a.slots[i], only(DType::kF32), "B N..."));
      slots_ |= 1u << i;
    }
    p_.B = check_.dim('B');
    p_.N = check_.dim('N');
    check_models();
    p_.rows = nullptr;
    p_.seeds = nullptr;
    p_.guidance = nullptr;
    p_.n_guidance = 0;
    p_.row_stride = p_.seed_stride = p_.guidance_stride = 0;
    if (a.rows) {
      const View v = check_.in("rows", a.rows, only(DType::kI32), "B");
      p_.rows = v.as<const int32_t>();
      p_.row_stride = v.stride;
    }
    if (a.seeds) {
      const View v = check_.in("seeds", a.seeds, kSeeds, "B");
      p_.seeds = v.as<const uint64_t>();
      p_.seed_stride = v.stride;
    }
    if (a.guidance) {
      const View v = check_.in("guidance", a.guidance, only(DType::kF32), "B G");
      p_.guidance = v.as<const float>();
      p_.guidance_stride = v.stride;
      p_.n_guidance = static_cast<int32_t>(std::min<int64_t>(check_.dim('G'), INT32_MAX));
    }
    p_.clip = nullptr;
    p_.clip_stride = 0;
    if (a.clip) {
      const View v = check_.in("clip", a.clip, only(DType::kF32), "B 2");
      p_.clip = v.as<const float>();
      p_.clip_stride = v.stride;
    }
    if (a.known) p_.known = tensor(check_.in("known", a.known, only(DType::kF32), "B N..."));
    if (a.mask) p_.mask = tensor(check_.in("mask", a.mask, only(DType::kF32), "1|B N..."));
    p_.has_mask = a.mask != nullptr;
    p_.has_model_input = a.model_input != nullptr;
    if (a.model_input) {
      const View v = check_.out("model_input", a.model_input, kFloating, "mB N...");
      p_.model_input = tensor(v);
      p_.input_copies = p_.B > 0 ? static_cast<int32_t>(v.rows / p_.B) : 0;
    }
    check_.no_overlap();
  }

  void check_counts() const {
    const fewstep_solver_step_args& a = *args_;
    if (a.n_slots < 1 || a.n_slots > FEWSTEP_MAX_SLOTS) {
      check_.fail("n_slots", "must lie in [1, 16]", std::to_string(a.n_slots));
    }
    if (a.n_models < 0 || a.n_models > FEWSTEP_MAX_GUIDANCE) {
      check_.fail("n_models", "must lie in [0, 4]", std::to_string(a.n_models));
    }
  }

  // A tensor of m * B rows is m model outputs.
  void check_models() {
    for (int i = 0; i < args_->n_models; ++i) {
      const View v = check_.in({"models", i}, args_->models[i], kFloating, "mB N...");
      if (p_.B == 0) continue;
      StepTensor t = tensor(v);
      for (int64_t m = v.rows / p_.B; m > 0; --m) {
        if (n_models_ < FEWSTEP_MAX_GUIDANCE) p_.models[n_models_] = t;
        ++n_models_;
        t.data += p_.B * t.stride;
      }
    }
  }

  // The operands that the caller gave.
  uint32_t given() const {
    uint32_t bits = slots_ | ((1u << std::min(n_models_, +FEWSTEP_MAX_GUIDANCE)) - 1u)
                                 << FEWSTEP_MODEL;
    if (args_->known) bits |= 1u << FEWSTEP_KNOWN;
    if (args_->model_input) bits |= 1u << FEWSTEP_MODEL_INPUT;
    if (args_->seeds) bits |= 1u << kNoise;
    return bits;
  }

  // What row i reads and writes must be there. Keeps the resolved row in *row.
  void require_row(int32_t i, ResolvedRow* row) {
    const fewstep_plan_row& plan_row = p_.plan[i];
    resolve(plan_row, {nullptr, 0, p_.has_mask, p_.has_model_input}, row);
    constexpr uint32_t kModels = ((1u << FEWSTEP_MAX_GUIDANCE) - 1u) << FEWSTEP_MODEL;
    const int32_t last_model = std::bit_width((row->needed & kModels) >> FEWSTEP_MODEL);
    models_needed_ =
        std::max({models_needed_, plan_row.evaluates ? plan_row.n_guidance : 0, last_model});
    (row->clamped ? clamped_row_ : unclamped_row_) = i;
    const uint32_t missing = row->needed & ~p_.given & ~kModels;
    if (!missing) return;
    const int32_t operand = std::countr_zero(missing);
    ArgName name = "seeds";
    if (operand < FEWSTEP_GUIDED) name = {"slots", operand};
    if (operand == FEWSTEP_KNOWN) name = "known";
    check_.fail(name, "must be given for row " + std::to_string(i) + " of the plan", "NULL");
  }

  // Kernels that look rows up on a device need the plan there.
  void set_table(Device device) {
    p_.table = nullptr;
    const bool on_host = device.type == kCpu;
    if (!args_->rows && !args_->guidance) return;
    if (!check_.is_for_cuda()) return;
    const PlanTable* table = plan_->tables.find(device);
    if (!table && on_host) {
      table = &plan_->tables.prepare(kFunction, plan_->plan.rows(), device);
    }
    if (!table) {
      check_.fail("plan",
                  "must be prepared for the device by fewstep_plan_prepare where 'rows' or "
                  "'guidance' are given on it",
                  format("a plan that is not on cuda:%d", int(device.id)));
    }
    p_.plan = table->rows;
    p_.table = table->resolved_for(p_.has_mask, p_.has_model_input, size_t(p_.n_rows));
  }

  void require_rows() {
    int32_t last = -1;
    bool active = false;
    for (int64_t b = 0; b < p_.B && p_.N > 0; ++b) {
      const int32_t i = p_.rows[b * p_.row_stride];
      if (i < 0) continue;
      active = true;
      if (i == last) continue;
      if (i >= p_.n_rows) {
        check_.fail("rows", range_text(p_.n_rows) + ", or be negative",
                    format("%d for sample %lld", int(i), static_cast<long long>(b)));
      }
      require_row(i, &resolved_);
      last = i;
    }
    if (!active) models_needed_ = n_models_;  // nobody says how many there should be
  }

  // Samples may be at rows that clamp and at rows that do not, which the limits leave alone.
  void check_clip() const {
    if (!args_->clip || clamped_row_ >= 0 || unclamped_row_ < 0) return;
    check_.fail("clip",
                "must be left out for rows that do not clamp (their plan was made without 'clip')",
                "one with row " + std::to_string(unclamped_row_));
  }

  void check_model_count() const {
    if (n_models_ != models_needed_) {
      check_.fail("models",
                  format("must hold %d outputs per sample, as the plan's rows in use say",
                         int(models_needed_)),
                  std::to_string(n_models_));
    }
    if (args_->guidance && p_.n_guidance != n_models_) {
      check_.fail("guidance",
                  format("must have %d weights per sample, one per model output", int(n_models_)),
                  std::to_string(p_.n_guidance));
    }
  }

  ArgCheck check_;
  const fewstep_plan* plan_;
  const fewstep_solver_step_args* args_;
  StepProblem
      p_;  // filled as the arguments are checked: clearing it would cost more than the checks
  ResolvedRow resolved_;
  uint32_t slots_ = 0;  // bit i: slot i is given
  int32_t n_models_ = 0;
  int32_t models_needed_ = 0;
  int32_t clamped_row_ = -1, unclamped_row_ = -1;  // rows in use, if any
};

}  // namespace
}  // namespace fewstep::solver

extern "C" fewstep_status fewstep_solver_step(const fewstep_context* ctx, const fewstep_plan* plan,
                                              const fewstep_solver_step_args* args) {
  return fewstep::guard([&] { fewstep::solver::StepCall(ctx, plan, args).run(); });
}
