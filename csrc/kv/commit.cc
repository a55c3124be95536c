// SPDX-License-Identifier: Apache-2.0
#include "kv/commit.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/cuda/device.h"
#include "fewstep/kv.h"
#include "kv/layers.h"

namespace fewstep::kv {
namespace {

constexpr KernelSet<CommitFn> kCommit = FEWSTEP_KERNELS(commit);
constexpr const char* kFunction = "fewstep_kv_commit";

// Every path increases and stays within its request's slots.
void check_paths(const ArgCheck& check, const SlotCheck& slots, const MoveProblem& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t base = at(p.base, b), count = at(p.count, b);
    if (base < 0) check.fail({"base", int(b)}, "must be 0 or more", std::to_string(base));
    check_count(check, {"accepted", int(b)}, count, p.M);
    const int32_t* path = p.source.data + b * p.source.stride;
    check_ascending(check, "path", int(b), path, count, p.first);
    slots.range("base", b, base + p.first, base + p.first + count);
    if (count == 0) continue;
    const int64_t end = base + path[count - 1] + 1;
    if (end > slots.capacity()) slots.range("path", b, base, end);
    for (int64_t i = 0; i < count; ++i) slots.page_of(b, base + path[i]);
  }
}

void run_commit(const fewstep_context* ctx, const fewstep_kv_commit_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_KV_COMMIT_ARGS_INIT");
  if (args->first < 0) check.fail("first", "must be 0 or more", std::to_string(args->first));
  MoveProblem p{};
  p.first = args->first;
  const DTypeSet i32 = only(DType::kI32);
  p.source = ints_of(check.in("path", args->path, i32, "B M"));
  p.count = ints_of(check.in("accepted", args->accepted, i32, "B"));
  p.base = ints_of(check.in("base", args->base, i32, "B"));
  View length;
  if (args->length) length = check.out("length", args->length, i32, "B");
  // The one written tensor so far; the caches are compared with all of these.
  check.no_overlap();
  Layers layers;
  read_layers(check, args->caches, true, &layers);
  set_rows(check, layers, &p);
  p.M = check.dim('M');
  View table;
  if (args->page_table) table = check.in("page_table", args->page_table, i32, "B C");
  const SlotCheck slots = slot_check(check, table);
  p.pages = slots.pages;
  p.room = slots.room();
  check.no_overlap();
  check_thread_settings();
  CommitFn& kernel = kCommit.pick(check.device(), kFunction);
  if (check.can_read()) check_paths(check, slots, p);
  p.length = length.as<int32_t>();
  p.length_stride = length.stride;
  run_moves(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_commit(const fewstep_context* ctx,
                                            const fewstep_kv_commit_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_commit(ctx, args); });
}
