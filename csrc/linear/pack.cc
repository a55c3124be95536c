// SPDX-License-Identifier: Apache-2.0
#include "linear/pack.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/linear.h"
#include "linear/checks.h"

namespace fewstep::linear {
namespace {

constexpr KernelSet<PackFn> kPack = FEWSTEP_KERNELS(pack);
constexpr const char* kFunction = "fewstep_linear_pack";

void run_pack(const fewstep_context* ctx, const fewstep_linear_pack_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_LINEAR_PACK_ARGS_INIT");
  check_kind(check, args->kind, args->group);
  const View weight = check.in("weight", args->weight, kFloating, "O I");
  check_sizes(check, "weight");
  const View out = check.out("out", args->out, only(DType::kU8), "P");
  PackProblem p{};
  p.out = packed_memory(check, "out", out, args->kind, args->group);
  check.no_overlap();
  check_thread_settings();
  p.O = check.dim('O');
  p.I = check.dim('I');
  p.kind = Kind(args->kind);
  p.group = p.kind == Kind::kInt4 ? args->group : 0;
  p.type = weight.dtype;
  p.stride_bytes = weight.stride * size_of(weight.dtype);
  p.weight = weight.as<char>();
  execute(ctx, check, kPack.pick(check.device(), kFunction), &p);
}

}  // namespace
}  // namespace fewstep::linear

extern "C" int64_t fewstep_linear_packed_bytes(int64_t O, int64_t I, int32_t kind, int32_t group) {
  using namespace fewstep::linear;
  if (O < 1 || I < 1 || !is_kind(kind) || !is_group(kind, group)) return 0;
  return packed_bytes(Kind(kind), O, I, group);
}

extern "C" fewstep_status fewstep_linear_pack(const fewstep_context* ctx,
                                              const fewstep_linear_pack_args* args) {
  return fewstep::guard([&] { fewstep::linear::run_pack(ctx, args); });
}
