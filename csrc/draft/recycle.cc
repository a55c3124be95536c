// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "core/check.h"
#include "fewstep/draft.h"

namespace fewstep::draft {
namespace {

constexpr const char* kFunction = "fewstep_draft_recycle";

// A copy of rows, for which no ISA has more to offer than memcpy.
void run_recycle(const fewstep_context* ctx, const fewstep_tensor* table,
                 const fewstep_tensor* tokens, const fewstep_tensor* top_ids) {
  ArgCheck check(kFunction, ctx);
  const View t = check.out("table", table, only(DType::kI32), "V K");
  const View n = check.in("tokens", tokens, only(DType::kI32), "N");
  const View ids = check.in("top_ids", top_ids, only(DType::kI32), "N K");
  check.no_overlap();
  if (check.device().type != kCpu) {
    throw Error(FEWSTEP_UNSUPPORTED,
                format("%s: this build has no kernel for device type %d (1 is CPU, 2 CUDA)",
                       kFunction, int(check.device().type)));
  }
  const int64_t V = check.dim('V'), K = check.dim('K'), N = check.dim('N');
  const auto* token = n.as<const int32_t>();
  const auto* id = ids.as<const int32_t>();
  for (int64_t i = 0; i < N; ++i) {
    const int32_t v = token[i * n.stride];
    if (v < 0 || v >= V) {
      check.fail("tokens", format("must lie in [0, %lld)", static_cast<long long>(V)),
                 format("%d at %lld", int(v), static_cast<long long>(i)));
    }
    for (int64_t k = 0; k < K; ++k) {
      const int32_t s = id[i * ids.stride + k];
      if (s >= -1 && s < V) continue;
      check.fail("top_ids", format("must lie in [-1, %lld)", static_cast<long long>(V)),
                 format("%d at [%lld, %lld]", int(s), static_cast<long long>(i),
                        static_cast<long long>(k)));
    }
  }
  for (int64_t i = 0; i < N; ++i) {
    std::memcpy(t.as<int32_t>() + token[i * n.stride] * t.stride, id + i * ids.stride,
                size_t(K) * sizeof(int32_t));
  }
}

}  // namespace
}  // namespace fewstep::draft

extern "C" fewstep_status fewstep_draft_recycle(const fewstep_context* ctx,
                                                const fewstep_tensor* table,
                                                const fewstep_tensor* tokens,
                                                const fewstep_tensor* top_ids) {
  return fewstep::guard([&] { fewstep::draft::run_recycle(ctx, table, tokens, top_ids); });
}
