// SPDX-License-Identifier: Apache-2.0
#include "solver/error_norm.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/solver.h"
#include "solver/strands.h"
#include "solver/workspace.h"

namespace fewstep::solver {
namespace {

constexpr KernelSet<ErrorNormFn> kErrorNorm = FEWSTEP_KERNELS(error_norm);
constexpr const char* kFunction = "fewstep_solver_error_norm";

SumInput input(const View& v) {
  return {static_cast<const char*>(v.data), v.stride * size_of(v.dtype), v.dtype};
}

void check_numbers(const fewstep_solver_error_norm_args& args, const ArgCheck& check) {
  if (args.tolerance != FEWSTEP_TOLERANCE_SUM && args.tolerance != FEWSTEP_TOLERANCE_MAX) {
    check.fail("tolerance", "must be 0 (sum) or 1 (max)", std::to_string(args.tolerance));
  }
  if (!(args.atol > 0.0 && std::isfinite(args.atol))) {
    check.fail("atol", "must be finite and above 0", number(args.atol));
  }
  if (!(args.rtol >= 0.0 && std::isfinite(args.rtol))) {
    check.fail("rtol", "must be finite and 0 or more", number(args.rtol));
  }
}

void run_error_norm(const fewstep_context* ctx, const fewstep_solver_error_norm_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_SOLVER_ERROR_NORM_ARGS_INIT");
  check_numbers(*args, check);
  ErrorNormProblem p{};
  p.in[kError] = input(check.in("error", args->error, kFloating, "B N..."));
  p.in[kBefore] = input(check.in("before", args->before, kFloating, "B N..."));
  p.in[kAfter] = input(check.in("after", args->after, kFloating, "B N..."));
  p.has_minus = args->minus != nullptr;
  if (p.has_minus) p.in[kMinus] = input(check.in("minus", args->minus, kFloating, "B N..."));
  const View out = check.out("out", args->out, only(DType::kF64), "B");
  p.B = check.dim('B');
  p.N = check.dim('N');
  const int64_t bytes = fewstep_solver_error_norm_workspace_bytes(p.B, p.N);
  if (args->workspace || bytes > 0) {
    const View w = check.out("workspace", args->workspace, only(DType::kI64), "W");
    p.partials = static_cast<double*>(workspace_memory(w, bytes, check));
  }
  check.no_overlap();
  check_thread_settings();
  ErrorNormFn& kernel = kErrorNorm.pick(check.device(), kFunction);
  if (p.B == 0) return;
  p.maximum = args->tolerance == FEWSTEP_TOLERANCE_MAX;
  p.atol = args->atol;
  p.rtol = args->rtol;
  p.out = out.as<double>();
  p.out_stride = out.stride;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::solver

extern "C" int64_t fewstep_solver_error_norm_workspace_bytes(int64_t B, int64_t N) {
  if (B <= 0 || N <= 0) return 0;
  return B * fewstep::solver::sum_pieces(N) * int64_t(sizeof(double));
}

extern "C" fewstep_status fewstep_solver_error_norm(const fewstep_context* ctx,
                                                    const fewstep_solver_error_norm_args* args) {
  return fewstep::guard([&] { fewstep::solver::run_error_norm(ctx, args); });
}
