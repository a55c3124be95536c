// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "fewstep/kv.h"
#include "kv/checks.h"

namespace fewstep::kv {
namespace {

void run_truncate(const fewstep_context* ctx, const fewstep_tensor* length,
                  const fewstep_tensor* kept) {
  ArgCheck check("fewstep_kv_truncate", ctx);
  const View out = check.out("length", length, only(DType::kI32), "B");
  const Ints keep = ints_of(check.in("kept", kept, only(DType::kI32), "B"));
  check.no_overlap();
  check_on_cpu(check);
  const int64_t B = check.dim('B');
  int32_t* lengths = out.as<int32_t>();
  for (int64_t b = 0; b < B; ++b) {
    if (at(keep, b) >= 0 && at(keep, b) <= lengths[b * out.stride]) continue;
    check.fail({"kept", int(b)},
               format("must lie in [0, %d], the length", int(lengths[b * out.stride])),
               std::to_string(at(keep, b)));
  }
  for (int64_t b = 0; b < B; ++b) lengths[b * out.stride] = at(keep, b);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_truncate(const fewstep_context* ctx,
                                              const fewstep_tensor* length,
                                              const fewstep_tensor* kept) {
  return fewstep::guard([&] { fewstep::kv::run_truncate(ctx, length, kept); });
}
