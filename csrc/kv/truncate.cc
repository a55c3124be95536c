// SPDX-License-Identifier: Apache-2.0
#include "kv/truncate.h"

#include "core/check.h"
#include "core/execute.h"
#include "fewstep/kv.h"
#include "kv/checks.h"

namespace fewstep::kv {
namespace {

constexpr KernelSet<TruncateFn> kTruncate = FEWSTEP_KERNELS(truncate);
constexpr const char* kFunction = "fewstep_kv_truncate";

void check_kept(const ArgCheck& check, const TruncateProblem& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    const int32_t length = p.length[b * p.length_stride], kept = at(p.kept, b);
    if (kept >= 0 && kept <= length) continue;
    check.fail({"kept", int(b)}, format("must lie in [0, %d], the length", int(length)),
               std::to_string(kept));
  }
}

void run_truncate(const fewstep_context* ctx, const fewstep_tensor* length,
                  const fewstep_tensor* kept) {
  ArgCheck check(kFunction, ctx);
  const View out = check.out("length", length, only(DType::kI32), "B");
  const Ints keep = ints_of(check.in("kept", kept, only(DType::kI32), "B"));
  check.no_overlap();
  TruncateFn& kernel = kTruncate.pick(check.device(), kFunction);
  TruncateProblem p{check.dim('B'), out.as<int32_t>(), out.stride, keep, nullptr};
  if (check.can_read()) check_kept(check, p);
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_truncate(const fewstep_context* ctx,
                                              const fewstep_tensor* length,
                                              const fewstep_tensor* kept) {
  return fewstep::guard([&] { fewstep::kv::run_truncate(ctx, length, kept); });
}
