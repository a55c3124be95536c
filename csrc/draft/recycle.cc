// SPDX-License-Identifier: Apache-2.0
#include "draft/recycle.h"

#include "core/check.h"
#include "core/execute.h"
#include "fewstep/draft.h"

namespace fewstep::draft {
namespace {

constexpr KernelSet<RecycleFn> kRecycle = FEWSTEP_KERNELS(recycle);
constexpr const char* kFunction = "fewstep_draft_recycle";

void check_entries(const ArgCheck& check, const RecycleProblem& p) {
  for (int64_t n = 0; n < p.N; ++n) {
    const int32_t token = p.tokens[n * p.tokens_stride];
    if (token < 0 || token >= p.V) {
      check.fail("tokens", format("must lie in [0, %lld)", static_cast<long long>(p.V)),
                 format("%d at %lld", int(token), static_cast<long long>(n)));
    }
    for (int64_t k = 0; k < p.K; ++k) {
      const int32_t id = p.top_ids[n * p.top_ids_stride + k];
      if (id >= -1 && id < p.V) continue;
      check.fail("top_ids", format("must lie in [-1, %lld)", static_cast<long long>(p.V)),
                 format("%d at [%lld, %lld]", int(id), static_cast<long long>(n),
                        static_cast<long long>(k)));
    }
  }
}

void run_recycle(const fewstep_context* ctx, const fewstep_tensor* table,
                 const fewstep_tensor* tokens, const fewstep_tensor* top_ids) {
  ArgCheck check(kFunction, ctx);
  const View t = check.out("table", table, only(DType::kI32), "V K");
  const View n = check.in("tokens", tokens, only(DType::kI32), "N");
  const View ids = check.in("top_ids", top_ids, only(DType::kI32), "N K");
  check.no_overlap();
  RecycleFn& kernel = kRecycle.pick(check.device(), kFunction);
  RecycleProblem p{check.dim('V'),
                   check.dim('K'),
                   check.dim('N'),
                   t.as<int32_t>(),
                   n.as<const int32_t>(),
                   ids.as<const int32_t>(),
                   t.stride,
                   n.stride,
                   ids.stride,
                   nullptr};
  if (check.can_read()) check_entries(check, p);
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::draft

extern "C" fewstep_status fewstep_draft_recycle(const fewstep_context* ctx,
                                                const fewstep_tensor* table,
                                                const fewstep_tensor* tokens,
                                                const fewstep_tensor* top_ids) {
  return fewstep::guard([&] { fewstep::draft::run_recycle(ctx, table, tokens, top_ids); });
}
