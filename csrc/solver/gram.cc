// SPDX-License-Identifier: Apache-2.0
#include "solver/gram.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/solver.h"
#include "solver/strands.h"
#include "solver/workspace.h"

namespace fewstep::solver {
namespace {

constexpr KernelSet<GramFn> kGram = FEWSTEP_KERNELS(gram);
constexpr const char* kFunction = "fewstep_solver_gram";

// A tensor of m * B rows is m arrays.
int32_t add_arrays(const fewstep_solver_gram_args& args, int64_t B, ArgCheck& check,
                   GramProblem* p) {
  int64_t count = 0;
  for (int i = 0; i < args.n_arrays; ++i) {
    const View v = check.in({"arrays", i}, args.arrays[i], kFloating, "mB N...");
    if (B == 0) continue;
    SumInput in{static_cast<const char*>(v.data), v.stride * size_of(v.dtype), v.dtype};
    for (int64_t m = v.rows / B; m > 0; --m) {
      if (count < kMaxGramArrays) p->in[count] = in;
      ++count;
      in.data += B * in.stride;
    }
  }
  if (B > 0 && count > kMaxGramArrays) {
    check.fail("arrays", "must hold at most 4 arrays of B rows", std::to_string(count));
  }
  return static_cast<int32_t>(count);
}

void run_gram(const fewstep_context* ctx, const fewstep_solver_gram_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_SOLVER_GRAM_ARGS_INIT");
  if (args->n_arrays < 1 || args->n_arrays > kMaxGramArrays) {
    check.fail("n_arrays", "must lie in [1, 4]", std::to_string(args->n_arrays));
  }
  GramProblem p{};
  const View out = check.out("out", args->out, only(DType::kF64), "B K K");
  p.B = check.dim('B');
  p.K = add_arrays(*args, p.B, check, &p);
  if (p.B > 0 && check.dim('K') != p.K + 1) {
    check.fail("out", format("must have %d rows per matrix, one more than arrays", int(p.K + 1)),
               std::to_string(check.dim('K')));
  }
  p.N = check.dim('N');
  p.out = out.as<double>();
  p.out_stride = out.stride;
  const int64_t bytes = fewstep_solver_gram_workspace_bytes(p.B, p.N, p.K);
  if (args->workspace || bytes > 0) {
    const View w = check.out("workspace", args->workspace, only(DType::kI64), "W");
    p.partials = static_cast<double*>(workspace_memory(w, bytes, check));
  }
  check.no_overlap();
  check_thread_settings();
  GramFn& kernel = kGram.pick(check.device(), kFunction);
  if (p.B == 0) return;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::solver

extern "C" int64_t fewstep_solver_gram_workspace_bytes(int64_t B, int64_t N, int32_t K) {
  using namespace fewstep::solver;
  if (B <= 0 || N <= 0 || K < 1 || K > kMaxGramArrays) return 0;
  return B * sum_pieces(N) * gram_entries(K) * int64_t(sizeof(double));
}

extern "C" fewstep_status fewstep_solver_gram(const fewstep_context* ctx,
                                              const fewstep_solver_gram_args* args) {
  return fewstep::guard([&] { fewstep::solver::run_gram(ctx, args); });
}
