// SPDX-License-Identifier: Apache-2.0
#include "noise/brownian.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/noise.h"

namespace fewstep::noise {
namespace {

constexpr KernelSet<BrownianFn> kBrownian = FEWSTEP_KERNELS(brownian);
constexpr const char* kFunction = "fewstep_noise_brownian";

void check_params(const ArgCheck& check, const fewstep_noise_brownian_params* params) {
  check.sized("params", params, "FEWSTEP_NOISE_BROWNIAN_PARAMS_INIT");
  if (!std::isfinite(params->scale)) {
    check.fail("scale", "must be finite", number(params->scale));
  }
  if (!std::isfinite(params->t_min)) {
    check.fail("t_min", "must be finite", number(params->t_min));
  }
  if (!std::isfinite(params->t_max) || params->t_max <= params->t_min) {
    check.fail("t_max", "must be finite and above t_min=" + number(params->t_min),
               number(params->t_max));
  }
  if (params->depth < 1 || params->depth > kMaxDepth) {
    check.fail("depth", "must lie in [1, 30]", std::to_string(params->depth));
  }
}

void check_time(const ArgCheck& check, const char* name, double t,
                const fewstep_noise_brownian_params& params) {
  if (t >= params.t_min && t <= params.t_max) return;
  check.fail(
      name,
      "must lie in [t_min, t_max] = [" + number(params.t_min) + ", " + number(params.t_max) + "]",
      number(t));
}

// The times of an array, where they can be looked at.
void check_times(const ArgCheck& check, const char* name, const View& t,
                 const fewstep_noise_brownian_params& params) {
  if (!check.can_read()) return;
  const double* values = t.as<const double>();
  for (int64_t b = 0; b < t.rows; ++b) check_time(check, name, values[b * t.stride], params);
}

void run_brownian(const fewstep_context* ctx, const fewstep_tensor* seeds, const fewstep_tensor* t0,
                  const fewstep_tensor* t1, const fewstep_noise_brownian_params* params,
                  const fewstep_tensor* out) {
  ArgCheck check(kFunction, ctx);
  check_params(check, params);
  BrownianProblem p;
  const View s = check.in("seeds", seeds, kSeeds, "B");
  View from, to;  // without data where one number serves all samples
  if (t0) {
    from = check.in("t0", t0, only(DType::kF64), "B");
    check_times(check, "t0", from, *params);
  } else {
    check_time(check, "t0", params->start, *params);
  }
  if (t1) {
    to = check.in("t1", t1, only(DType::kF64), "B");
    check_times(check, "t1", to, *params);
  } else {
    check_time(check, "t1", params->stop, *params);
  }
  const View o = check.out("out", out, kFloating, "B N...");
  check.no_overlap();
  check_thread_settings();
  BrownianFn& kernel = kBrownian.pick(check.device(), kFunction);
  p.B = check.dim('B');
  p.N = check.dim('N');
  p.seeds = s.as<const uint64_t>();
  p.seed_stride = s.stride;
  p.t0 = from.as<const double>();
  p.t0_stride = from.stride;
  p.t1 = to.as<const double>();
  p.t1_stride = to.stride;
  p.start = params->start;
  p.stop = params->stop;
  p.t_min = params->t_min;
  p.t_max = params->t_max;
  p.depth = params->depth;
  p.normalized = params->normalized != 0;
  p.out = o.data;
  p.out_stride = o.stride;
  p.dtype = o.dtype;
  p.stream = params->stream;
  p.scale = params->scale;
  if (p.B > 0 && p.N > 0) execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::noise

extern "C" fewstep_status fewstep_noise_brownian(const fewstep_context* ctx,
                                                 const fewstep_tensor* seeds,
                                                 const fewstep_tensor* t0, const fewstep_tensor* t1,
                                                 const fewstep_noise_brownian_params* params,
                                                 const fewstep_tensor* out) {
  return fewstep::guard([&] { fewstep::noise::run_brownian(ctx, seeds, t0, t1, params, out); });
}
