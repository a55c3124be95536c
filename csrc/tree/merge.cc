// SPDX-License-Identifier: Apache-2.0
#include "tree/merge.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/attention.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<MergeFn> kMerge = FEWSTEP_KERNELS(merge);
constexpr const char* kFunction = "fewstep_tree_merge";
static_assert(kMaxMerge == FEWSTEP_MAX_MERGE);

void run_merge(const fewstep_context* ctx, const fewstep_tree_merge_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_MERGE_ARGS_INIT");
  if (args->n_parts < 1 || args->n_parts > kMaxMerge) {
    check.fail("n_parts", "must lie in [1, 8]", std::to_string(args->n_parts));
  }
  MergeProblem p{};
  p.n_parts = args->n_parts;
  for (int i = 0; i < p.n_parts; ++i) {
    MergeProblem::Part& part = p.parts[i];
    const StridedView v = check.in_strided({"parts", i}, args->parts[i], kFloating, "N H D");
    const StridedView lse = check.in_strided({"lses", i}, args->lses[i], only(DType::kF32), "N H");
    const int64_t bytes = size_of(v.dtype);
    part = {v.as<const char>(),    v.strides[0] * bytes, v.strides[1] * bytes, v.dtype,
            lse.as<const float>(), lse.strides[0]};
  }
  const StridedView out = check.out_strided("out", args->out, kFloating, "N H D");
  p.out = out.as<char>();
  p.out_row = out.strides[0] * size_of(out.dtype);
  p.out_head = out.strides[1] * size_of(out.dtype);
  p.out_type = out.dtype;
  if (args->lse) {
    const StridedView lse = check.out_strided("lse", args->lse, only(DType::kF32), "N H");
    p.lse = lse.as<float>();
    p.lse_row = lse.strides[0];
  }
  p.N = check.dim('N');
  p.H = check.dim('H');
  p.D = check.dim('D');
  check.no_overlap();
  check_thread_settings();
  MergeFn& kernel = kMerge.pick(check.device(), kFunction);
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::tree

extern "C" fewstep_status fewstep_tree_merge(const fewstep_context* ctx,
                                             const fewstep_tree_merge_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_merge(ctx, args); });
}
