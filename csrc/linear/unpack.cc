// SPDX-License-Identifier: Apache-2.0
#include "linear/unpack.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/linear.h"
#include "linear/checks.h"

namespace fewstep::linear {
namespace {

constexpr KernelSet<UnpackFn> kUnpack = FEWSTEP_KERNELS(unpack);
constexpr const char* kFunction = "fewstep_linear_unpack";

void run_unpack(const fewstep_context* ctx, const fewstep_linear_unpack_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_LINEAR_UNPACK_ARGS_INIT");
  check_kind(check, args->kind, args->group);
  UnpackProblem p{};
  p.kind = Kind(args->kind);
  const View out = check.out("out", args->out, unpacked_types(p.kind), "O I");
  check_sizes(check, "out");
  const View packed = check.in("packed", args->packed, only(DType::kU8), "P");
  p.packed = packed_memory(check, "packed", packed, args->kind, args->group);
  check.no_overlap();
  check_thread_settings();
  p.O = check.dim('O');
  p.I = check.dim('I');
  p.group = p.kind == Kind::kInt4 ? args->group : 0;
  p.type = out.dtype;
  p.stride_bytes = out.stride * size_of(out.dtype);
  p.out = out.as<char>();
  execute(ctx, check, unpack_kernel(check.device(), kFunction), &p);
}

}  // namespace

UnpackFn& unpack_kernel(Device device, const char* function) {
  return kUnpack.pick(device, function);
}

}  // namespace fewstep::linear

extern "C" fewstep_status fewstep_linear_unpack(const fewstep_context* ctx,
                                                const fewstep_linear_unpack_args* args) {
  return fewstep::guard([&] { fewstep::linear::run_unpack(ctx, args); });
}
