// SPDX-License-Identifier: Apache-2.0
#include "logits/penalise.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "core/indptr.h"
#include "fewstep/logits.h"
#include "logits/numbers.h"

namespace fewstep::logits {
namespace {

constexpr KernelSet<PenaliseFn> kPenalise = FEWSTEP_KERNELS(penalise);
constexpr const char* kFunction = "fewstep_logits_penalise";
constexpr DTypeSet kIndex = only(DType::kI32);

constexpr Range kPositive = {"must be above 0 and finite",
                             [](double v) { return v > 0.0 && std::isfinite(v); }};
constexpr Range kFinite = {"must be finite", [](double v) { return std::isfinite(v); }};

void take_penalties(const fewstep_logits_penalties& given, ArgCheck& check, PenaliseProblem* p) {
  constexpr DType kF = DType::kF32;
  p->repetition =
      per_row("repetition", given.repetition, given.repetitions, kF, "R", kPositive, check);
  p->presence = per_row("presence", given.presence, given.presences, kF, "R", kFinite, check);
  p->frequency = per_row("frequency", given.frequency, given.frequencies, kF, "R", kFinite, check);
}

// Ids below 0 are padding.
void check_ids(const ArgCheck& check, const char* name, const TokenLists& lists, int64_t V) {
  for (int64_t i = 0; i < lists.count; ++i) {
    const int32_t id = lists.ids[i * lists.ids_stride];
    if (id < V) continue;
    check.fail(name, format("must be below V=%lld", static_cast<long long>(V)),
               format("%d at %lld", int(id), static_cast<long long>(i)));
  }
}

void put_indptr(const char* name, const View& view, char letter, const ArgCheck& check,
                TokenLists* lists) {
  const Indices indptr(view);
  check_indptr(check, name, indptr, check.dim('R'), lists->count, letter);
  lists->indptr = indptr.data;
  lists->indptr_stride = indptr.stride;
}

void take_history(const fewstep_logits_penalise_args& args, ArgCheck& check, PenaliseProblem* p) {
  if (!args.tokens) {
    if (args.indptr) check.fail("indptr", "must be left out without tokens", "one");
    if (args.counts) check.fail("counts", "must be left out without tokens", "some");
    return;
  }
  const View tokens = check.in("tokens", args.tokens, kIndex, "T");
  p->history.ids = tokens.as<int32_t>();
  p->history.ids_stride = tokens.stride;
  p->history.count = tokens.rows;
  put_indptr("indptr", check.in("indptr", args.indptr, kIndex, "R+1"), 'T', check, &p->history);
  check_ids(check, "tokens", p->history, p->V);
  if (!args.counts) return;
  const View counts = check.in("counts", args.counts, kIndex, "T");
  p->counts = counts.as<int32_t>();
  p->counts_stride = counts.stride;
  for (int64_t i = 0; i < counts.rows; ++i) {
    const int32_t count = p->counts[i * counts.stride];
    if (count >= 0) continue;
    check.fail("counts", "must be 0 or more",
               format("%d at %lld", int(count), static_cast<long long>(i)));
  }
}

void take_bias(const fewstep_logits_penalise_args& args, ArgCheck& check, PenaliseProblem* p) {
  if (!args.bias_ids) {
    if (args.bias_values) check.fail("bias_values", "must be left out without bias_ids", "some");
    if (args.bias_indptr) check.fail("bias_indptr", "must be left out without bias_ids", "one");
    return;
  }
  const View ids = check.in("bias_ids", args.bias_ids, kIndex, "M");
  p->biased.ids = ids.as<int32_t>();
  p->biased.ids_stride = ids.stride;
  p->biased.count = ids.rows;
  const View values = check.in("bias_values", args.bias_values, only(DType::kF32), "M");
  p->bias = values.as<float>();
  p->bias_stride = values.stride;
  if (args.bias_indptr) {
    const View indptr = check.in("bias_indptr", args.bias_indptr, kIndex, "R+1");
    put_indptr("bias_indptr", indptr, 'M', check, &p->biased);
  }
  check_ids(check, "bias_ids", p->biased, p->V);
}

void run_penalise(const fewstep_context* ctx, const fewstep_logits_penalise_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_LOGITS_PENALISE_ARGS_INIT");
  PenaliseProblem p{};
  const bool in_place = args->logits && args->out == args->logits;
  const View logits = in_place ? check.out("logits", args->logits, kFloating, "R V")
                               : check.in("logits", args->logits, kFloating, "R V");
  p.R = check.dim('R');
  p.V = check.dim('V');
  take_penalties(args->penalties, check, &p);
  take_history(*args, check, &p);
  take_bias(*args, check, &p);
  const View out = in_place ? logits : check.out("out", args->out, only(logits.dtype), "R V");
  check.no_overlap();
  check_thread_settings();
  PenaliseFn& kernel = kPenalise.pick(check.device(), kFunction);
  p.logits = logits.as<const char>();
  p.logits_pitch = logits.stride * size_of(logits.dtype);
  p.dtype = logits.dtype;
  p.out = out.as<char>();
  p.out_pitch = out.stride * size_of(out.dtype);
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::logits

extern "C" fewstep_status fewstep_logits_penalise(const fewstep_context* ctx,
                                                  const fewstep_logits_penalise_args* args) {
  return fewstep::guard([&] { fewstep::logits::run_penalise(ctx, args); });
}
