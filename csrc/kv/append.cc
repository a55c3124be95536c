// SPDX-License-Identifier: Apache-2.0
#include "kv/append.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/kv.h"
#include "kv/checks.h"

namespace fewstep::kv {
namespace {

constexpr KernelSet<AppendFn> kAppend = FEWSTEP_KERNELS(append);
constexpr const char* kFunction = "fewstep_kv_append";

using Args = fewstep_kv_append_args;

void check_args(const ArgCheck& check, const Args* args) {
  check.sized("args", args, "FEWSTEP_KV_APPEND_ARGS_INIT");
  if (args->rope < FEWSTEP_ROPE_NONE || args->rope > FEWSTEP_ROPE_GPTJ) {
    check.fail("rope", "must lie in [0, 2]", std::to_string(args->rope));
  }
}

AppendRows rows_of(const StridedView& v) {
  const int64_t bytes = size_of(v.dtype);
  return {v.as<const char>(), v.strides[0] * bytes, v.strides[1] * bytes, {}, {}};
}

void read_rows(const Args& args, ArgCheck& check, AppendProblem* p) {
  const StridedView k = check.in_strided("k", args.k, kFloating, "N G D");
  const StridedView v = check.in_strided("v", args.v, only(k.dtype), "N G D");
  p->N = check.dim('N');
  p->G = check.dim('G');
  p->D = check.dim('D');
  if (p->D > kMaxHeadDim) {
    check.fail("k", "must have heads of at most 1024 elements", std::to_string(p->D));
  }
  p->in = k.dtype;
  p->in_bytes = size_of(k.dtype);
  p->k = rows_of(k);
  p->v = rows_of(v);
}

void read_rope(const Args& args, ArgCheck& check, AppendProblem* p) {
  p->rope = args.rope;
  if (args.rope == FEWSTEP_ROPE_NONE) {
    if (args.cos) check.fail("cos", "must be left out without rope", "one");
    if (args.sin) check.fail("sin", "must be left out without rope", "one");
    if (args.positions) check.fail("positions", "must be left out without rope", "one");
    return;
  }
  const View cos = check.in("cos", args.cos, only(DType::kF32), "S R");
  const View sin = check.in("sin", args.sin, only(DType::kF32), "S R");
  p->pairs = check.dim('R');
  p->S = check.dim('S');
  if (2 * p->pairs > p->D) {
    check.fail("cos",
               format("must have at most D/2=%lld columns", static_cast<long long>(p->D / 2)),
               std::to_string(p->pairs));
  }
  p->cos = cos.as<const float>();
  p->sin = sin.as<const float>();
  p->cos_stride = cos.stride;
  p->sin_stride = sin.stride;
  if (args.positions) {
    p->positions = ints_of(check.in("positions", args.positions, only(DType::kI32), "N"));
  }
}

// Caches are compared with each other apart: K and V may be interleaved in one tensor.
void read_caches(const Args& args, ArgCheck& check, AppendProblem* p) {
  const StridedView k = check.out_strided("k_cache", args.k_cache, kCacheTypes, "P T G D");
  p->out = k.dtype;
  p->out_bytes = size_of(k.dtype);
  p->k.cache = cache_of(k);
  p->v.cache = cache_of(check.out_strided("v_cache", args.v_cache, only(k.dtype), "P T G D"));
  if (contains(kScaledBytes, k.dtype)) {
    const DTypeSet f32 = only(DType::kF32);
    p->k.scale = cache_of(check.out_strided("k_scale", args.k_scale, f32, "P T G"));
    p->v.scale = cache_of(check.out_strided("v_scale", args.v_scale, f32, "P T G"));
    return;
  }
  if (args.k_scale) check.fail("k_scale", kNoScale, "one");
  if (args.v_scale) check.fail("v_scale", kNoScale, "one");
}

void check_positions(const ArgCheck& check, const AppendProblem& p, int64_t b) {
  const int64_t first = at(p.indptr, b), S = check.dim('S');
  for (int64_t n = first; n < at(p.indptr, b + 1); ++n) {
    const int64_t position = p.positions.data ? at(p.positions, n) : at(p.length, b) + (n - first);
    if (position >= 0 && position < S) continue;
    const ArgName name = p.positions.data ? ArgName("positions", int(n)) : ArgName("cos");
    const std::string must = p.positions.data
                                 ? format("must lie in [0, S=%lld)", static_cast<long long>(S))
                                 : "must have a row for every position";
    check.fail(name, must,
               p.positions.data ? std::to_string(position)
                                : format("%lld rows and position %lld", static_cast<long long>(S),
                                         static_cast<long long>(position)));
  }
}

// Where rows go, and that there is room.
void check_slots(const ArgCheck& check, const SlotCheck& slots, const AppendProblem& p) {
  check_indptr(check, p.indptr, p.B, p.N);
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t length = at(p.length, b), rows = at(p.indptr, b + 1) - at(p.indptr, b);
    if (length < 0) check.fail({"length", int(b)}, "must be 0 or more", std::to_string(length));
    if (rows == 0) continue;
    slots.range("k", b, length, length + rows);
    if (p.rope) check_positions(check, p, b);
  }
}

void run_append(const fewstep_context* ctx, const Args* args) {
  ArgCheck check(kFunction, ctx);
  check_args(check, args);
  AppendProblem p{};
  read_rows(*args, check, &p);
  read_rope(*args, check, &p);
  p.length = ints_of(check.in("length", args->length, only(DType::kI32), "B"));
  p.indptr = ints_of(check.in("indptr", args->indptr, only(DType::kI32), "B+1"));
  p.B = check.dim('B');
  read_caches(*args, check, &p);
  View table;
  if (args->page_table) table = check.in("page_table", args->page_table, only(DType::kI32), "B C");
  const SlotCheck slots = slot_check(check, table);
  p.pages = slots.pages;
  p.room = slots.room();
  check.no_overlap_with_inputs();
  check_apart(check, -1,
              {{"k_cache", args->k_cache},
               {"v_cache", args->v_cache},
               {"k_scale", args->k_scale},
               {"v_scale", args->v_scale}});
  check_thread_settings();
  AppendFn& kernel = append_kernel(check.device(), kFunction);
  if (check.can_read()) check_slots(check, slots, p);
  if (p.N == 0 || p.G == 0 || p.D == 0) return;
  execute(ctx, check, kernel, &p);
}

}  // namespace

AppendFn& append_kernel(Device device, const char* function) {
  return kAppend.pick(device, function);
}

}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_append(const fewstep_context* ctx,
                                            const fewstep_kv_append_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_append(ctx, args); });
}
