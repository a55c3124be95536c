// SPDX-License-Identifier: Apache-2.0
#include "logits/renorm.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/logits.h"
#include "logits/filters.h"

namespace fewstep::logits {
namespace {

constexpr KernelSet<RenormFn> kRenorm = FEWSTEP_KERNELS(renorm);
constexpr const char* kFunction = "fewstep_logits_renorm";

void take_outputs(const fewstep_logits_renorm_args& args, ArgCheck& check, RenormProblem* p) {
  if (args.out) {
    const View out = check.out("out", args.out, only(DType::kF32), "R V");
    p->out = out.as<float>();
    p->out_stride = out.stride;
  }
  if (args.ids) {
    const View ids = check.out("ids", args.ids, only(DType::kI32), "R K");
    check_listed(check.dim('K'), check);
    const View listed = check.out("probabilities", args.probabilities, only(DType::kF32), "R K");
    const View count = check.out("count", args.count, only(DType::kI32), "R");
    p->K = int32_t(check.dim('K'));
    p->ids = ids.as<int32_t>();
    p->ids_stride = ids.stride;
    p->probabilities = listed.as<float>();
    p->probabilities_stride = listed.stride;
    p->count = count.as<int32_t>();
    p->count_stride = count.stride;
  } else if (!args.out) {
    check.fail("out", "must be given, or ids, probabilities and count", "none of them");
  } else if (args.probabilities || args.count) {
    check.fail("ids", "must be given together with probabilities and count", "NULL");
  }
  if (args.status) {
    const View status = check.out("status", args.status, only(DType::kI32), "R");
    p->status = status.as<int32_t>();
    p->status_stride = status.stride;
  }
}

void run_renorm(const fewstep_context* ctx, const fewstep_logits_renorm_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_LOGITS_RENORM_ARGS_INIT");
  const View l = check.in("logits", args->logits, kFloating, "R V");
  const Filters filters = check_filters(args->filters, "R", check);
  View mask;
  if (args->bitmask) mask = check.in("bitmask", args->bitmask, kBitWords, "R W");
  RenormProblem p{};
  p.rows = rows_of(l, args->bitmask, mask, filters, check);
  take_outputs(*args, check, &p);
  check.no_overlap();
  check_thread_settings();
  RenormFn& kernel = kRenorm.pick(check.device(), kFunction);
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::logits

extern "C" fewstep_status fewstep_logits_renorm(const fewstep_context* ctx,
                                                const fewstep_logits_renorm_args* args) {
  return fewstep::guard([&] { fewstep::logits::run_renorm(ctx, args); });
}
