// SPDX-License-Identifier: Apache-2.0
#include "tree/rerank.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/tree.h"
#include "tree/trees.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<RerankFn> kRerank = FEWSTEP_KERNELS(rerank);
constexpr const char* kFunction = "fewstep_tree_rerank";

// What the budgets allow at most.
int64_t check_budgets(const ArgCheck& check, Indices budget, Indices indptr, int64_t B) {
  int64_t most = 0;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t size = indptr[b + 1] - indptr[b];
    if (budget[b] < 0) {
      check.fail("budget", format("must be 0 or more for request %d", int(b)),
                 std::to_string(budget[b]));
    }
    most += budget[b] < size ? budget[b] : size;
  }
  return most;
}

void check_candidates(const ArgCheck& check, Indices parent, Indices indptr, Indices budget,
                      const RerankProblem& p) {
  check_indptr(check, "indptr", indptr, p.B, p.M, 'M');
  check_parents(check, parent, indptr, p.B);
  const int64_t most = check_budgets(check, budget, indptr, p.B);
  if (p.N < most) {
    check.fail("kept",
               format("must have room for the %lld nodes that the budgets allow",
                      static_cast<long long>(most)),
               std::to_string(p.N));
  }
}

void run_rerank(const fewstep_context* ctx, const fewstep_tree_rerank_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_RERANK_ARGS_INIT");
  const DTypeSet index = only(DType::kI32);
  RerankProblem p{};
  const View scores = check.in("cum_logp", args->cum_logp, only(DType::kF32), "M");
  const Indices parent(check.in("parent", args->parent, index, "M"));
  const Indices indptr(check.in("indptr", args->indptr, index, "B+1"));
  const Indices budget(check.in("budget", args->budget, index, "B"));
  const View kept = check.out("kept", args->kept, index, "N");
  const View kept_parent = check.out("kept_parent", args->kept_parent, index, "N");
  const View kept_indptr = check.out("kept_indptr", args->kept_indptr, index, "B+1");
  const View workspace = check.out("workspace", args->workspace, only(DType::kI64), "W");
  check.no_overlap();
  check_thread_settings();
  p.B = check.dim('B');
  p.M = check.dim('M');
  p.N = check.dim('N');
  if (check.dim('W') < 2 * p.M) {
    check.fail("workspace",
               format("must have %lld elements or more", static_cast<long long>(2 * p.M)),
               std::to_string(check.dim('W')));
  }
  if (workspace.rows > 1 && workspace.stride != 1) {
    check.fail("workspace", "must be contiguous", "a strided layout");
  }
  RerankFn& kernel = kRerank.pick(check.device(), kFunction);
  if (check.can_read()) check_candidates(check, parent, indptr, budget, p);
  p.indptr = indptr.data;
  p.indptr_stride = indptr.stride;
  p.parent = parent.data;
  p.parent_stride = parent.stride;
  p.cum_logp = scores.as<float>();
  p.cum_logp_stride = scores.stride;
  p.budget = budget.data;
  p.budget_stride = budget.stride;
  p.kept = kept.as<int32_t>();
  p.kept_stride = kept.stride;
  p.kept_parent = kept_parent.as<int32_t>();
  p.kept_parent_stride = kept_parent.stride;
  p.kept_indptr = kept_indptr.as<int32_t>();
  p.kept_indptr_stride = kept_indptr.stride;
  p.keys = workspace.as<uint64_t>();
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::tree

extern "C" int64_t fewstep_tree_rerank_workspace_bytes(int64_t M) { return M > 0 ? 16 * M : 0; }

extern "C" fewstep_status fewstep_tree_rerank(const fewstep_context* ctx,
                                              const fewstep_tree_rerank_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_rerank(ctx, args); });
}
