// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/parallel.h"
#include "decoder/checks.h"
#include "fewstep/decoder.h"

namespace fewstep::decoder {
namespace {

constexpr const char* kFunction = "fewstep_decoder_run";

using Args = fewstep_decoder_run_args;

std::string text_of(int64_t value) { return std::to_string(value); }

void read_batch(const Args& a, ArgCheck& check, Pass* p) {
  check.set_dim('E', p->d.E);
  p->x = rows_of(check.out("x", a.x, only(p->d.type), "N E"));
  p->N = check.dim('N');
  if (a.tokens) take_tokens(check, a.tokens, p);
  take_requests(check, a.length, a.indptr, p);
}

void read_trees(const Args& a, ArgCheck& check, Pass* p) {
  if (!a.bits) {
    if (a.depth) check.fail("depth", "must be left out without bits", "one");
    if (a.block) check.fail("block", "must be left out without bits", "one");
    return;
  }
  const StridedView bits = check.in_strided("bits", a.bits, kBitWords, "N W");
  p->bits = bits.as<const uint32_t>();
  p->bits_stride = bits.strides[0];
  p->words = check.dim('W');
  const DTypeSet i32 = only(DType::kI32);
  if (a.depth) p->depth = kv::ints_of(check.in("depth", a.depth, i32, "N"));
  if (a.block) p->block = kv::ints_of(check.in("block", a.block, i32, "B"));
}

void read_head(const Args& a, ArgCheck& check, Pass* p) {
  if (!a.logits) {
    if (a.rows) check.fail("rows", "must be left out without logits", "one");
    return;
  }
  if (p->d.V == 0) check.fail("logits", "must be left out for a decoder without head", "one");
  if (a.rows) {
    const View rows = check.in("rows", a.rows, only(DType::kI64), "M");
    p->rows = rows.as<const int64_t>();
    p->rows_stride = rows.stride;
  } else {
    check.set_dim('M', p->N);
  }
  check.set_dim('V', p->d.V);
  p->M = check.dim('M');
  p->logits = rows_of(check.out("logits", a.logits, kFloating, "M V"));
}

void check_tree(const ArgCheck& check, const Pass& p, int64_t b) {
  const int64_t rows = p.rows_of(b), block = p.block_of(b);
  if (p.block.data && (block < rows || block > kv::at(p.length, b) + rows)) {
    check.fail(
        {"block", int(b)},
        format("must lie in [%lld, %lld], from the request's rows to its tokens",
               static_cast<long long>(rows), static_cast<long long>(kv::at(p.length, b) + rows)),
        text_of(block));
  }
  if (block <= 32 * p.words) return;
  check.fail("bits",
             format("must have a bit for each of request %lld's %lld tokens",
                    static_cast<long long>(b), static_cast<long long>(block)),
             format("%lld words", static_cast<long long>(p.words)));
}

// The values of the integers.
void check_values(const ArgCheck& check, const kv::SlotCheck& slots, const Pass& p) {
  check_index(check, "tokens", p.tokens, p.tokens_stride, p.N, p.d.embedding.n_tokens);
  check_index(check, "rows", p.rows, p.rows_stride, p.M, p.N);
  kv::check_indptr(check, p.indptr, p.B, p.N);
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t length = kv::at(p.length, b), rows = p.rows_of(b);
    if (length < 0) check.fail({"length", int(b)}, "must be 0 or more", text_of(length));
    if (rows == 0) continue;
    slots.range("x", b, 0, length + rows);
    if (p.bits) check_tree(check, p, b);
    for (int64_t n = kv::at(p.indptr, b); n < kv::at(p.indptr, b + 1); ++n) {
      const ArgName name = p.depth.data ? ArgName("depth", int(n)) : ArgName("cos");
      check_position(check, name, p, p.position(b, n));
    }
  }
}

void run_decoder(const fewstep_context* ctx, const fewstep_decoder* decoder, const Args* args) {
  ArgCheck check(kFunction, ctx);
  if (!decoder) check.fail("decoder", "must be given", "NULL");
  check.sized("args", args, "FEWSTEP_DECODER_RUN_ARGS_INIT");
  Pass p(*decoder);
  read_batch(*args, check, &p);
  const kv::SlotCheck slots = take_pages(check, args->page_table, &p);
  take_rope(check, args->cos, args->sin, &p);
  read_trees(*args, check, &p);
  read_head(*args, check, &p);
  p.scratch_x = args->scratch_x != 0;
  p.layout = layout_of(p.d, p.N, p.B, p.M, p.C);
  p.scratch = take_workspace(check, args->workspace, p.layout.total);
  check.no_overlap();
  check_thread_settings();
  check_host(check);  // data is read from here on
  check_values(check, slots, p);
  if (p.N == 0) return;
  p.threads = execution_of(ctx).threads;
  const int32_t team = team_size(p.d, (4 + p.N) / 5, p.threads);
  with_team(team, [](void* pass) { forward(*static_cast<Pass*>(pass), kFunction); }, &p);
}

}  // namespace
}  // namespace fewstep::decoder

extern "C" fewstep_status fewstep_decoder_run(const fewstep_context* ctx,
                                              const fewstep_decoder* decoder,
                                              const fewstep_decoder_run_args* args) {
  return fewstep::guard([&] { fewstep::decoder::run_decoder(ctx, decoder, args); });
}
