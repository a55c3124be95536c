// SPDX-License-Identifier: Apache-2.0
#include "linear/run.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/linear.h"
#include "linear/checks.h"

namespace fewstep::linear {
namespace {

constexpr KernelSet<RunFn> kRun = FEWSTEP_DOT_KERNELS(run);
constexpr const char* kFunction = "fewstep_linear_run";

Rows rows_of(const View& v) { return {v.as<char>(), v.stride * size_of(v.dtype), v.dtype}; }

// A vector, whose elements must be contiguous.
Rows vector_of(const ArgCheck& check, ArgName name, const View& v) {
  check_contiguous(check, name, v);
  return {v.as<char>(), 0, v.dtype};
}

// Whether a tensor is the other one, so that a sum may be taken in place.
bool is_same(const fewstep_tensor& a, const fewstep_tensor& b) {
  if (a.data != b.data || a.byte_offset != b.byte_offset || a.ndim != 2 || b.ndim != 2)
    return false;
  if (a.dtype.code != b.dtype.code || a.dtype.bits != b.dtype.bits) return false;
  for (int i = 0; i < 2; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
  }
  const int64_t a_stride = a.strides ? a.strides[0] : a.shape[1];
  const int64_t b_stride = b.strides ? b.strides[0] : b.shape[1];
  const bool a_contiguous = !a.strides || a.strides[1] == 1 || a.shape[1] <= 1;
  return a_stride == b_stride && a_contiguous;
}

void check_args(const fewstep_linear_run_args* args, ArgCheck& check) {
  check.sized("args", args, "FEWSTEP_LINEAR_RUN_ARGS_INIT");
  check_kind(check, args->kind, args->group);
  if (args->norm && !(args->norm_eps >= 0.0 && std::isfinite(args->norm_eps))) {
    check.fail("norm_eps", "must be finite and 0 or more", number(args->norm_eps));
  }
}

void run_run(const fewstep_context* ctx, const fewstep_linear_run_args* args) {
  ArgCheck check(kFunction, ctx);
  check_args(args, check);
  RunProblem p{};
  ActivationsProblem& in = p.in;
  in.x = rows_of(check.in("x", args->x, kFloating, "M I"));
  p.out = rows_of(check.out("out", args->out, kFloating, "M O"));
  check_sizes(check, "out");
  const View packed = check.in("packed", args->packed, only(DType::kU8), "P");
  p.packed = packed_memory(check, "packed", packed, args->kind, args->group);
  check_for_cuda(check, "packed", p.packed);
  if (args->up) {
    const View up = check.in("up", args->up, only(DType::kU8), "P");
    p.up = packed_memory(check, "up", up, args->kind, args->group);
    check_for_cuda(check, "up", p.up);
  }
  if (args->bias) p.bias = vector_of(check, "bias", check.in("bias", args->bias, kFloating, "O"));
  if (args->residual) {
    p.residual = is_same(*args->residual, *args->out)
                     ? p.out
                     : rows_of(check.in("residual", args->residual, kFloating, "M O"));
  }
  if (args->norm) in.norm = vector_of(check, "norm", check.in("norm", args->norm, kFloating, "I"));
  const View workspace = check.out("workspace", args->workspace, only(DType::kI64), "W");
  in.M = check.dim('M');
  in.I = check.dim('I');
  p.O = check.dim('O');
  in.kind = Kind(args->kind);
  in.group = in.kind == Kind::kInt4 ? args->group : 0;
  const int64_t needed = ceil_div(activations_bytes(in.M, in.kind, in.I, in.group), 8);
  if (workspace.rows < needed) {
    check.fail("workspace",
               format("must have %lld elements or more", static_cast<long long>(needed)),
               std::to_string(workspace.rows));
  }
  check_contiguous(check, "workspace", workspace);
  check.no_overlap();
  check_thread_settings();
  RunFn& kernel = run_kernel(check.device(), kFunction);
  if (in.M == 0) return;
  in.norm_eps = float(args->norm_eps);
  in.workspace = workspace.as<char>();
  execute(ctx, check, kernel, &p);
}

}  // namespace

RunFn& run_kernel(Device device, const char* function) { return kRun.pick(device, function); }

}  // namespace fewstep::linear

extern "C" int64_t fewstep_linear_run_workspace_bytes(int64_t M, int64_t I, int32_t kind,
                                                      int32_t group) {
  using namespace fewstep::linear;
  if (I < 1 || !is_kind(kind) || !is_group(kind, group)) return 0;
  return activations_bytes(M, Kind(kind), I, group);
}

extern "C" fewstep_status fewstep_linear_run(const fewstep_context* ctx,
                                             const fewstep_linear_run_args* args) {
  return fewstep::guard([&] { fewstep::linear::run_run(ctx, args); });
}
