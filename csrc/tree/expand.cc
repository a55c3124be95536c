// SPDX-License-Identifier: Apache-2.0
#include "tree/expand.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/tree.h"
#include "logits/filters.h"
#include "tree/trees.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<ExpandFn> kExpand = FEWSTEP_KERNELS(expand);
constexpr const char* kFunction = "fewstep_tree_expand";

void check_children(const ArgCheck& check, const char* name, int64_t count) {
  if (count < 1 || count > kMaxChildren) {
    check.fail(name, "must have 1 to 64 children per row", std::to_string(count));
  }
}

void take_beam(const fewstep_tree_expand_args& args, ArgCheck& check, ExpandProblem* p) {
  const int given = !!args.beam_ids + !!args.beam_logp + !!args.beam_parent;
  if (given == 0) return;
  if (given < 3) {
    check.fail("beam_ids", "must be given together with beam_logp and beam_parent",
               std::to_string(given) + " of them");
  }
  const View ids = check.out("beam_ids", args.beam_ids, only(DType::kI32), "B M");
  const View logp = check.out("beam_logp", args.beam_logp, only(DType::kF32), "B M");
  const View parent = check.out("beam_parent", args.beam_parent, only(DType::kI32), "B M");
  check_children(check, "beam_ids", check.dim('M'));
  p->M = int32_t(check.dim('M'));
  p->beam_ids = ids.as<int32_t>();
  p->beam_ids_stride = ids.stride;
  p->beam_logp = logp.as<float>();
  p->beam_logp_stride = logp.stride;
  p->beam_parent = parent.as<int32_t>();
  p->beam_parent_stride = parent.stride;
}

void run_expand(const fewstep_context* ctx, const fewstep_tree_expand_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_EXPAND_ARGS_INIT");
  ExpandProblem p{};
  const View cum = check.in("cum_logp", args->cum_logp, only(DType::kF32), "R");
  const View scores = check.in("logits", args->logits, kFloating, "R V");
  const Indices indptr(check.in("indptr", args->indptr, only(DType::kI32), "B+1"));
  if (args->d2t) {
    const Indices d2t(check.in("d2t", args->d2t, only(DType::kI32), "V"));
    p.d2t = d2t.data;
    p.d2t_stride = d2t.stride;
  }
  p.rows = logits::rows_of(scores, nullptr, View{}, logits::Filters{}, check);
  const View ids = check.out("ids", args->ids, only(DType::kI32), "R K");
  const View logp = check.out("logp", args->logp, only(DType::kF32), "R K");
  check_children(check, "ids", check.dim('K'));
  take_beam(*args, check, &p);
  if (args->status) {
    const View status = check.out("status", args->status, only(DType::kI32), "R");
    p.status = status.as<int32_t>();
    p.status_stride = status.stride;
  }
  check.no_overlap();
  check_thread_settings();
  p.B = check.dim('B');
  p.K = int32_t(check.dim('K'));
  ExpandFn& kernel = expand_kernel(check.device(), kFunction);
  if (check.can_read()) check_indptr(check, "indptr", indptr, p.B, p.rows.R, 'R');
  p.cum_logp = cum.as<float>();
  p.cum_logp_stride = cum.stride;
  p.indptr = indptr.data;
  p.indptr_stride = indptr.stride;
  p.ids = ids.as<int32_t>();
  p.ids_stride = ids.stride;
  p.logp = logp.as<float>();
  p.logp_stride = logp.stride;
  execute(ctx, check, kernel, &p);
}

}  // namespace

ExpandFn& expand_kernel(Device device, const char* function) {
  return kExpand.pick(device, function);
}

}  // namespace fewstep::tree

extern "C" fewstep_status fewstep_tree_expand(const fewstep_context* ctx,
                                              const fewstep_tree_expand_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_expand(ctx, args); });
}
