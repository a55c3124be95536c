// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "core/cpu/parallel.h"
#include "fewstep/kv.h"
#include "kv/commit.h"
#include "kv/layers.h"

// Gathering in place is committing from slot 0 on, and has the same kernel.
namespace fewstep::kv {
namespace {

constexpr KernelSet<CommitFn> kGather = FEWSTEP_KERNELS(commit);
constexpr const char* kFunction = "fewstep_kv_gather";

using Args = fewstep_kv_gather_args;

// Either form of index and count; returns whether each layer has its own.
bool read_index(ArgCheck& check, const Args& args, MoveProblem* p) {
  const DTypeSet i32 = only(DType::kI32);
  const bool by_layer = args.index && args.index->ndim == 3;
  if (!by_layer) {
    p->source = ints_of(check.in("index", args.index, i32, "B M"));
    p->count = ints_of(check.in("count", args.count, i32, "B"));
    return false;
  }
  const StridedView index = check.in_strided("index", args.index, i32, "L B M");
  const StridedView count = check.in_strided("count", args.count, i32, "L B");
  p->source = {index.as<const int32_t>(), index.strides[1]};
  p->source_layer = index.strides[0];
  p->count = {count.as<const int32_t>(), 1};
  p->count_layer = count.strides[0];
  return true;
}

void check_index(const ArgCheck& check, const SlotCheck& slots, const MoveProblem& p, int64_t L) {
  for (int64_t layer = 0; layer < L; ++layer) {
    for (int64_t b = 0; b < p.B; ++b) {
      const int64_t count = p.count.data[layer * p.count_layer + b * p.count.stride];
      const int row = int(layer * p.B + b);
      check_count(check, {"count", row}, count, p.M);
      if (count == 0) continue;
      const int32_t* index = p.source.data + layer * p.source_layer + b * p.source.stride;
      check_ascending(check, "index", row, index, count, 0);
      slots.range("index", b, index[count - 1], int64_t(index[count - 1]) + 1);
      slots.range("index", b, 0, count);
      for (int64_t i = 0; i < count; ++i) slots.page_of(b, index[i]);
    }
  }
}

void run_gather(const fewstep_context* ctx, const Args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_KV_GATHER_ARGS_INIT");
  MoveProblem p{};
  const bool by_layer = read_index(check, *args, &p);
  View table;
  if (args->page_table) table = check.in("page_table", args->page_table, only(DType::kI32), "B C");
  Layers layers;
  read_layers(check, args->caches, true, &layers);
  set_rows(check, layers, &p);
  p.M = check.dim('M');
  if (by_layer && check.dim('L') != p.L) {
    check.fail("index", format("must have L=%lld layers", static_cast<long long>(p.L)),
               std::to_string(check.dim('L')));
  }
  const SlotCheck slots = slot_check(check, table);
  p.pages = slots.pages;
  p.room = slots.room();
  check_thread_settings();
  CommitFn& kernel = kGather.pick(check.device(), kFunction);
  if (check.can_read()) check_index(check, slots, p, by_layer ? p.L : 1);
  run_moves(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_gather(const fewstep_context* ctx,
                                            const fewstep_kv_gather_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_gather(ctx, args); });
}
