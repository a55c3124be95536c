// SPDX-License-Identifier: Apache-2.0
#include "kv/copy_pages.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/kv.h"
#include "kv/layers.h"

namespace fewstep::kv {
namespace {

constexpr KernelSet<CopyPagesFn> kCopyPages = FEWSTEP_KERNELS(copy_pages);
constexpr const char* kFunction = "fewstep_kv_copy_pages";

void check_pages(const ArgCheck& check, const CopyPagesProblem& p) {
  const std::string must = format("must lie in [0, P=%lld)", static_cast<long long>(p.P));
  for (int64_t n = 0; n < p.N; ++n) {
    const int32_t source = at(p.source, n), target = at(p.target, n);
    if (source == -1) continue;
    if (source < 0 || source >= p.P) {
      check.fail({"source", int(n)}, must + " or be -1", std::to_string(source));
    }
    if (target < 0 || target >= p.P) check.fail({"target", int(n)}, must, std::to_string(target));
    if (target == source) {
      check.fail({"target", int(n)}, "must be another page than its source",
                 std::to_string(target));
    }
  }
}

void run_copy_pages(const fewstep_context* ctx, const fewstep_kv_copy_pages_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_KV_COPY_PAGES_ARGS_INIT");
  CopyPagesProblem p{};
  p.source = ints_of(check.in("source", args->source, only(DType::kI32), "N"));
  p.target = ints_of(check.in("target", args->target, only(DType::kI32), "N"));
  Layers layers;
  read_layers(check, args->caches, true, &layers);
  p.L = layers.L;
  p.N = check.dim('N');
  p.P = check.dim('P');
  p.T = check.dim('T');
  p.G = check.dim('G');
  p.parts = layers.parts;
  p.layers = layers.layer;
  row_bytes(check, layers, p.bytes);
  check_thread_settings();
  CopyPagesFn& kernel = kCopyPages.pick(check.device(), kFunction);
  if (check.can_read()) check_pages(check, p);
  if (p.N > 0 && p.T > 0 && p.G > 0 && p.bytes[0] > 0) execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_copy_pages(const fewstep_context* ctx,
                                                const fewstep_kv_copy_pages_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_copy_pages(ctx, args); });
}
