// SPDX-License-Identifier: Apache-2.0
#include "logits/sample_arithmetic.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/logits.h"
#include "logits/filters.h"

namespace fewstep::logits {
namespace {

constexpr KernelSet<SampleArithmeticFn> kSampleArithmetic = FEWSTEP_KERNELS(sample_arithmetic);
constexpr const char* kFunction = "fewstep_logits_sample_arithmetic";

void run_sample_arithmetic(const fewstep_context* ctx,
                           const fewstep_logits_sample_arithmetic_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_LOGITS_SAMPLE_ARITHMETIC_ARGS_INIT");
  const View l = check.in("logits", args->logits, kFloating, "R V");
  const bool in_place = args->codes && args->codes == args->next_codes;
  const View codes = in_place ? check.out("codes", args->codes, kSeeds, "R")
                              : check.in("codes", args->codes, kSeeds, "R");
  const Filters filters = check_filters(args->filters, "R", check);
  View mask, logprobs, status;
  if (args->bitmask) mask = check.in("bitmask", args->bitmask, kBitWords, "R W");
  const Rows rows = rows_of(l, args->bitmask, mask, filters, check);
  const View out = check.out("out", args->out, only(DType::kI32), "R");
  const View next = in_place ? codes : check.out("next_codes", args->next_codes, kSeeds, "R");
  if (args->logprobs) logprobs = check.out("logprobs", args->logprobs, only(DType::kF32), "R");
  if (args->status) status = check.out("status", args->status, only(DType::kI32), "R");
  check.no_overlap();
  check_thread_settings();
  SampleArithmeticFn& kernel = kSampleArithmetic.pick(check.device(), kFunction);
  SampleArithmeticProblem p{rows,
                            codes.as<uint64_t>(),
                            codes.stride,
                            next.as<uint64_t>(),
                            next.stride,
                            out.as<int32_t>(),
                            out.stride,
                            logprobs.as<float>(),
                            logprobs.stride,
                            status.as<int32_t>(),
                            status.stride,
                            0,
                            nullptr};
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::logits

extern "C" fewstep_status fewstep_logits_sample_arithmetic(
    const fewstep_context* ctx, const fewstep_logits_sample_arithmetic_args* args) {
  return fewstep::guard([&] { fewstep::logits::run_sample_arithmetic(ctx, args); });
}
