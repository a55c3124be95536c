// SPDX-License-Identifier: Apache-2.0
#include "logits/top_k.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/logits.h"
#include "logits/filters.h"

namespace fewstep::logits {
namespace {

constexpr KernelSet<TopKFn> kTopK = FEWSTEP_KERNELS(top_k);
constexpr const char* kFunction = "fewstep_logits_top_k";

void run_top_k(const fewstep_context* ctx, const fewstep_logits_top_k_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_LOGITS_TOP_K_ARGS_INIT");
  const View l = check.in("logits", args->logits, kFloating, "R V");
  View mask, lse, status;
  if (args->bitmask) mask = check.in("bitmask", args->bitmask, kBitWords, "R W");
  const Rows rows = rows_of(l, args->bitmask, mask, Filters{}, check);
  const View ids = check.out("ids", args->ids, only(DType::kI32), "R K");
  check_listed(check.dim('K'), check);
  const View values = check.out("values", args->values, only(DType::kF32), "R K");
  if (args->log_normaliser) {
    lse = check.out("log_normaliser", args->log_normaliser, only(DType::kF32), "R");
  }
  if (args->status) status = check.out("status", args->status, only(DType::kI32), "R");
  check.no_overlap();
  check_thread_settings();
  TopKFn& kernel = kTopK.pick(check.device(), kFunction);
  TopKProblem p{rows,
                int32_t(check.dim('K')),
                args->normalise != 0,
                ids.as<int32_t>(),
                values.as<float>(),
                ids.stride,
                values.stride,
                lse.as<float>(),
                lse.stride,
                status.as<int32_t>(),
                status.stride,
                0,
                nullptr};
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::logits

extern "C" fewstep_status fewstep_logits_top_k(const fewstep_context* ctx,
                                               const fewstep_logits_top_k_args* args) {
  return fewstep::guard([&] { fewstep::logits::run_top_k(ctx, args); });
}
