// SPDX-License-Identifier: Apache-2.0
#include "logits/head_top_k.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/logits_head.h"
#include "linear/checks.h"
#include "logits/filters.h"

namespace fewstep::logits {
namespace {

constexpr KernelSet<HeadTopKFn> kHeadTopK = FEWSTEP_DOT_KERNELS(head_top_k);
constexpr const char* kFunction = "fewstep_logits_head_top_k";

int64_t found_size(int64_t M, int64_t O, int64_t K) {
  return M * std::max(linear::ceil_div(O, kGroupRows) * found_bytes(K),
                      linear::ceil_div(O, kCudaGroupRows) * cuda_found_bytes(K));
}

linear::Rows vector_of(const ArgCheck& check, ArgName name, const View& v) {
  linear::check_contiguous(check, name, v);
  return {v.as<char>(), 0, v.dtype};
}

void check_args(const fewstep_logits_head_top_k_args* args, ArgCheck& check) {
  check.sized("args", args, "FEWSTEP_LOGITS_HEAD_TOP_K_ARGS_INIT");
  linear::check_kind(check, args->kind, args->group);
  if (args->outputs < 1 || args->outputs > INT32_MAX) {
    check.fail("outputs", "must lie in [1, 2^31)",
               std::to_string(static_cast<long long>(args->outputs)));
  }
  if (args->norm && !(args->norm_eps >= 0.0 && std::isfinite(args->norm_eps))) {
    check.fail("norm_eps", "must be finite and 0 or more", number(args->norm_eps));
  }
}

void run_head_top_k(const fewstep_context* ctx, const fewstep_logits_head_top_k_args* args) {
  ArgCheck check(kFunction, ctx);
  check_args(args, check);
  HeadProblem p{};
  linear::ActivationsProblem& in = p.in;
  check.set_dim('O', args->outputs);
  const View x = check.in("x", args->x, kFloating, "M I");
  in.x = {x.as<char>(), x.stride * size_of(x.dtype), x.dtype};
  linear::check_sizes(check, "x");
  const View packed = check.in("packed", args->packed, only(DType::kU8), "P");
  p.packed = linear::packed_memory(check, "packed", packed, args->kind, args->group);
  linear::check_for_cuda(check, "packed", p.packed);
  if (args->bias) p.bias = vector_of(check, "bias", check.in("bias", args->bias, kFloating, "O"));
  if (args->norm) in.norm = vector_of(check, "norm", check.in("norm", args->norm, kFloating, "I"));
  if (args->tokens) {
    const View tokens = check.in("tokens", args->tokens, only(DType::kI32), "O");
    p.tokens = tokens.as<const int32_t>();
    p.tokens_stride = tokens.stride;
  }
  const View ids = check.out("ids", args->ids, only(DType::kI32), "M K");
  check_listed(check.dim('K'), check);
  const View values = check.out("values", args->values, only(DType::kF32), "M K");
  View lse, status;
  if (args->log_normaliser) {
    lse = check.out("log_normaliser", args->log_normaliser, only(DType::kF32), "M");
  }
  if (args->status) status = check.out("status", args->status, only(DType::kI32), "M");
  const View workspace = check.out("workspace", args->workspace, only(DType::kI64), "W");
  in.M = check.dim('M');
  in.I = check.dim('I');
  in.kind = linear::Kind(args->kind);
  in.group = in.kind == linear::Kind::kInt4 ? args->group : 0;
  p.O = args->outputs;
  p.K = int32_t(check.dim('K'));
  const int64_t prepared = linear::activations_bytes(in.M, in.kind, in.I, in.group);
  const int64_t needed = linear::ceil_div(prepared + found_size(in.M, p.O, p.K), 8);
  if (workspace.rows < needed) {
    check.fail("workspace",
               format("must have %lld elements or more", static_cast<long long>(needed)),
               std::to_string(workspace.rows));
  }
  linear::check_contiguous(check, "workspace", workspace);
  check.no_overlap();
  check_thread_settings();
  HeadTopKFn& kernel = kHeadTopK.pick(check.device(), kFunction);
  if (in.M == 0) return;
  in.norm_eps = float(args->norm_eps);
  in.workspace = workspace.as<char>();
  p.found = in.workspace + prepared;
  p.normalise = args->normalise != 0;
  p.sums = p.normalise || args->log_normaliser;
  p.ids = ids.as<int32_t>();
  p.ids_stride = ids.stride;
  p.values = values.as<float>();
  p.values_stride = values.stride;
  p.log_normaliser = lse.as<float>();
  p.log_normaliser_stride = lse.stride;
  p.status = status.as<int32_t>();
  p.status_stride = status.stride;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::logits

extern "C" int64_t fewstep_logits_head_top_k_workspace_bytes(int64_t M, int64_t O, int64_t I,
                                                             int32_t kind, int32_t group,
                                                             int64_t K) {
  using namespace fewstep;
  if (M < 1 || O < 1 || K < 1) return 0;
  return fewstep_linear_run_workspace_bytes(M, I, kind, group) + logits::found_size(M, O, K);
}

extern "C" fewstep_status fewstep_logits_head_top_k(const fewstep_context* ctx,
                                                    const fewstep_logits_head_top_k_args* args) {
  return fewstep::guard([&] { fewstep::logits::run_head_top_k(ctx, args); });
}
