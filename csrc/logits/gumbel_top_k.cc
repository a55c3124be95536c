// SPDX-License-Identifier: Apache-2.0
#include "logits/gumbel_top_k.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/logits.h"
#include "logits/filters.h"

namespace fewstep::logits {
namespace {

constexpr KernelSet<GumbelTopKFn> kGumbelTopK = FEWSTEP_KERNELS(gumbel_top_k);
constexpr const char* kFunction = "fewstep_logits_gumbel_top_k";

void run_gumbel_top_k(const fewstep_context* ctx, const fewstep_logits_gumbel_top_k_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_LOGITS_GUMBEL_TOP_K_ARGS_INIT");
  const View l = check.in("logits", args->logits, kFloating, "R V");
  const View s = check.in("seeds", args->seeds, kSeeds, "R");
  const View p = check.in("positions", args->positions, only(DType::kI32), "R");
  const Filters filters = check_filters(args->filters, "R", check);
  View mask, logprobs, status;
  if (args->bitmask) mask = check.in("bitmask", args->bitmask, kBitWords, "R W");
  const Rows rows = rows_of(l, args->bitmask, mask, filters, check);
  const View ids = check.out("ids", args->ids, only(DType::kI32), "R K");
  check_listed(check.dim('K'), check);
  const View perturbed = check.out("perturbed", args->perturbed, only(DType::kF32), "R K");
  if (args->logprobs) logprobs = check.out("logprobs", args->logprobs, only(DType::kF32), "R K");
  if (args->status) status = check.out("status", args->status, only(DType::kI32), "R");
  check.no_overlap();
  check_thread_settings();
  GumbelTopKFn& kernel = kGumbelTopK.pick(check.device(), kFunction);
  GumbelTopKProblem problem{};
  problem.rows = rows;
  problem.draws = {s.as<uint64_t>(), s.stride, p.as<int32_t>(), p.stride, args->stream, args->draw};
  problem.K = int32_t(check.dim('K'));
  problem.ids = ids.as<int32_t>();
  problem.ids_stride = ids.stride;
  problem.perturbed = perturbed.as<float>();
  problem.perturbed_stride = perturbed.stride;
  problem.logprobs = logprobs.as<float>();
  problem.logprobs_stride = logprobs.stride;
  problem.status = status.as<int32_t>();
  problem.status_stride = status.stride;
  execute(ctx, check, kernel, &problem);
}

}  // namespace
}  // namespace fewstep::logits

extern "C" fewstep_status fewstep_logits_gumbel_top_k(
    const fewstep_context* ctx, const fewstep_logits_gumbel_top_k_args* args) {
  return fewstep::guard([&] { fewstep::logits::run_gumbel_top_k(ctx, args); });
}
