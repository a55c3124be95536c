// SPDX-License-Identifier: Apache-2.0
#include "solver/quantile.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/solver.h"
#include "solver/workspace.h"

namespace fewstep::solver {
namespace {

constexpr KernelSet<QuantileFn> kQuantile = FEWSTEP_KERNELS(quantile);
constexpr const char* kFunction = "fewstep_solver_quantile";
constexpr int64_t kMaxElements = 0xffffffff;  // counters have 32 bits

// The element whose rank is below the quantile, and how far behind it the quantile lies.
void set_rank(double q, QuantileProblem* p) {
  const double position = q * static_cast<double>(p->N - 1);
  const double whole = std::floor(position);
  p->rank = static_cast<uint64_t>(whole);
  p->fraction = position - whole;
}

void run_quantile(const fewstep_context* ctx, const fewstep_solver_quantile_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_SOLVER_QUANTILE_ARGS_INIT");
  if (!(args->q >= 0.0 && args->q <= 1.0)) {
    check.fail("q", "must lie in [0, 1]", number(args->q));
  }
  QuantileProblem p{};
  const View x = check.in("x", args->x, kFloating, "B N...");
  const View out = check.out("out", args->out, only(DType::kF32), "B");
  p.B = check.dim('B');
  p.N = check.dim('N');
  if (p.B > 0 && (p.N < 1 || p.N > kMaxElements)) {
    check.fail("x", "must have 1 to 4294967295 elements per sample", std::to_string(p.N));
  }
  const int64_t bytes = fewstep_solver_quantile_workspace_bytes(p.B, p.N);
  if (args->workspace || bytes > 0) {
    const View w = check.out("workspace", args->workspace, only(DType::kI64), "W");
    p.state = static_cast<Selection*>(workspace_memory(w, bytes, check));
    p.histogram = reinterpret_cast<uint32_t*>(p.state + p.B);
  }
  check.no_overlap();
  check_thread_settings();
  QuantileFn& kernel = kQuantile.pick(check.device(), kFunction);
  if (p.B == 0) return;
  p.x = {static_cast<const char*>(x.data), x.stride * size_of(x.dtype), x.dtype};
  p.magnitude = args->magnitude != 0;
  p.out = out.as<float>();
  p.out_stride = out.stride;
  p.slices = slices_of(p.N);
  set_rank(args->q, &p);
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::solver

extern "C" int64_t fewstep_solver_quantile_workspace_bytes(int64_t B, int64_t N) {
  using namespace fewstep::solver;
  if (B <= 0 || N <= 0) return 0;
  return B * (int64_t(sizeof(Selection)) + slices_of(N) * kBins * int64_t(sizeof(uint32_t)));
}

extern "C" fewstep_status fewstep_solver_quantile(const fewstep_context* ctx,
                                                  const fewstep_solver_quantile_args* args) {
  return fewstep::guard([&] { fewstep::solver::run_quantile(ctx, args); });
}
