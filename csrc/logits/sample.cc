// SPDX-License-Identifier: Apache-2.0
#include "logits/sample.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "fewstep/logits.h"
#include "logits/filters.h"

namespace fewstep::logits {
namespace {

constexpr KernelSet<SampleFn> kSample = FEWSTEP_CPU_KERNELS(sample);
constexpr const char* kFunction = "fewstep_logits_sample";

void run_sample(const fewstep_context* ctx, const fewstep_logits_sample_args* args) {
  ArgCheck check(kFunction, ctx);
  if (!args) check.fail("args", "must be given", "NULL");
  if (args->size < sizeof(*args)) {
    check.fail("args", "must have its size set by FEWSTEP_LOGITS_SAMPLE_ARGS_INIT",
               std::to_string(args->size));
  }
  const View l = check.in("logits", args->logits, kFloating, "R V");
  const View s = check.in("seeds", args->seeds, kSeeds, "R");
  const View p = check.in("positions", args->positions, only(DType::kI32), "R");
  const Filters filters = check_filters(args->filters, "R", check);
  View mask, logprobs, status;
  if (args->bitmask) mask = check.in("bitmask", args->bitmask, kBitWords, "R W");
  check_words(args->bitmask, check.dim('V'), check);
  const View o = check.out("out", args->out, only(DType::kI32), "R");
  if (args->logprobs) logprobs = check.out("logprobs", args->logprobs, only(DType::kF32), "R");
  if (args->status) status = check.out("status", args->status, only(DType::kI32), "R");
  check.no_overlap();
  if (check.dim('V') < 1 && check.dim('R') > 0) check.fail("logits", "must have a token", "V=0");
  check_thread_settings();
  SampleFn& kernel = kSample.pick(check.device(), kFunction);
  SampleProblem problem{};
  problem.R = check.dim('R');
  problem.V = check.dim('V');
  problem.logits = l.as<const char>();
  problem.logits_pitch = l.stride * size_of(l.dtype);
  problem.dtype = l.dtype;
  problem.bitmask = mask.as<const uint32_t>();
  problem.bitmask_stride = mask.stride;
  problem.seeds = s.as<const uint64_t>();
  problem.seeds_stride = s.stride;
  problem.positions = p.as<const int32_t>();
  problem.positions_stride = p.stride;
  problem.filters = &filters;
  problem.stream = args->stream;
  problem.draw = args->draw;
  problem.out = o.as<int32_t>();
  problem.out_stride = o.stride;
  problem.logprobs = logprobs.as<float>();
  problem.logprobs_stride = logprobs.stride;
  problem.status = status.as<int32_t>();
  problem.status_stride = status.stride;
  problem.threads = execution_of(ctx).threads;
  kernel(problem);
}

}  // namespace
}  // namespace fewstep::logits

extern "C" fewstep_status fewstep_logits_sample(const fewstep_context* ctx,
                                                const fewstep_logits_sample_args* args) {
  return fewstep::guard([&] { fewstep::logits::run_sample(ctx, args); });
}
