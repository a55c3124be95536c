// SPDX-License-Identifier: Apache-2.0
#include "tree/k_seq_rho.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/verify.h"
#include "logits/filters.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<KSeqRhoFn> kKSeqRho = FEWSTEP_KERNELS(k_seq_rho);
constexpr const char* kFunction = "fewstep_tree_k_seq_rho";

void run_k_seq_rho(const fewstep_context* ctx, const fewstep_tree_k_seq_rho_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_K_SEQ_RHO_ARGS_INIT");
  if (args->k < 1 || args->k > FEWSTEP_MAX_DRAWS) {
    check.fail("k", format("must lie in [1, %d]", FEWSTEP_MAX_DRAWS), std::to_string(args->k));
  }
  KSeqRhoProblem p{};
  p.k = args->k;
  const View l = check.in("logits", args->logits, kFloating, "R V");
  const logits::Filters filters = logits::check_filters(args->filters, "R", check);
  View mask, ids, accept, status;
  if (args->bitmask) mask = check.in("bitmask", args->bitmask, kBitWords, "R W");
  p.rows = logits::rows_of(l, args->bitmask, mask, filters, check);
  const View draft = check.in("draft", args->draft, only(DType::kF32), "1|R S");
  if (args->draft_ids) ids = check.in("draft_ids", args->draft_ids, only(DType::kI32), "1|R S");
  p.laws = draft_laws(check, draft, ids, p.rows.V);
  const View rho = check.out("rho", args->rho, only(DType::kF64), "R");
  if (args->accept) accept = check.out("accept", args->accept, only(DType::kF64), "R");
  if (args->status) status = check.out("status", args->status, only(DType::kI32), "R");
  check.no_overlap();
  check_thread_settings();
  KSeqRhoFn& kernel = kKSeqRho.pick(check.device(), kFunction);
  p.rho = rho.as<double>();
  p.rho_stride = rho.stride;
  p.accept = accept.as<double>();
  p.accept_stride = accept.stride;
  p.status = status.as<int32_t>();
  p.status_stride = status.stride;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::tree

extern "C" fewstep_status fewstep_tree_k_seq_rho(const fewstep_context* ctx,
                                                 const fewstep_tree_k_seq_rho_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_k_seq_rho(ctx, args); });
}
