// SPDX-License-Identifier: Apache-2.0
#include "noise/normal.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/noise.h"

namespace fewstep::noise {
namespace {

constexpr KernelSet<NormalFn> kNormal = FEWSTEP_KERNELS(normal);

void run_normal(const fewstep_context* ctx, const fewstep_tensor* seeds,
                const fewstep_noise_normal_params* params, const fewstep_tensor* out) {
  ArgCheck check("fewstep_noise_normal", ctx);
  check.sized("params", params, "FEWSTEP_NOISE_NORMAL_PARAMS_INIT");
  if (!std::isfinite(params->scale)) {
    check.fail("scale", "must be finite", number(params->scale));
  }
  const View s = check.in("seeds", seeds, kSeeds, "B");
  const View o = check.out("out", out, kFloating, "B N...");
  check.no_overlap();
  check_thread_settings();
  NormalFn& kernel = kNormal.pick(check.device(), check.function());
  NormalProblem p{
      check.dim('B'), check.dim('N'), s.as<const uint64_t>(), s.stride,      o.data, o.stride,
      o.dtype,        params->step,   params->stream,         params->scale, 0,      nullptr};
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::noise

extern "C" fewstep_status fewstep_noise_normal(const fewstep_context* ctx,
                                               const fewstep_tensor* seeds,
                                               const fewstep_noise_normal_params* params,
                                               const fewstep_tensor* out) {
  return fewstep::guard([&] { fewstep::noise::run_normal(ctx, seeds, params, out); });
}
