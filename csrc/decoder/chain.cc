// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "core/cpu/parallel.h"
#include "decoder/checks.h"
#include "fewstep/decoder.h"
#include "tree/expand.h"

namespace fewstep::decoder {
namespace {

constexpr const char* kFunction = "fewstep_decoder_chain";

using Args = fewstep_decoder_chain_args;

// Bytes behind those of `run`: what lies between levels, of which the first has N rows and each
// that follows up to B.
struct ChainLayout {
  Layout run;
  int64_t x, logits;                // [max(N, B), E], [B, V]
  int64_t tokens, rows;             // int64 [B]
  int64_t indptr, length, request;  // int32 [B + 1], [B], [B]: of the rows of a level
  int64_t ids, logp, above;         // of a level's rows, [B]
  int64_t total;
};

ChainLayout chain_layout(const fewstep_decoder& d, int64_t N, int64_t B, int64_t C) {
  ChainLayout out;
  const int64_t rows = std::max(N, B);
  out.run = layout_of(d, rows, B, B, C);
  Places places;
  places.add(out.run.total);
  const int64_t unit = size_of(d.type);
  out.x = places.add(rows * d.E * unit);
  out.logits = places.add(B * d.V * unit);
  out.tokens = places.add(8 * B);
  out.rows = places.add(8 * B);
  out.indptr = places.add(4 * (B + 1));
  out.length = places.add(4 * B);
  out.request = places.add(4 * B);
  out.ids = places.add(4 * B);
  out.logp = places.add(4 * B);
  out.above = places.add(4 * B);
  out.total = places.total();
  return out;
}

// A call, checked, and where it has got to.
struct Chain {
  explicit Chain(const fewstep_decoder& decoder) : first(decoder) {}

  Pass first;  // the requests' rows
  kv::Ints levels{};
  kv::Ints d2t{};  // no data: ids are those of the logits
  double least = 0.0;
  int32_t* ids = nullptr;  // [B, K]
  float* logp = nullptr;   // [B, K]
  int64_t K = 0, ids_stride = 0, logp_stride = 0;
  ChainLayout at{};

  template <class T>
  T* scratch(int64_t offset) const {
    return reinterpret_cast<T*>(first.scratch + offset);
  }
};

void read_outputs(const Args& a, ArgCheck& check, Chain* c) {
  c->levels = kv::ints_of(check.in("levels", a.levels, only(DType::kI32), "B"));
  if (a.d2t) {
    check.set_dim('V', c->first.d.V);
    c->d2t = kv::ints_of(check.in("d2t", a.d2t, only(DType::kI32), "V"));
  }
  if (!(a.least >= 0.0 && std::isfinite(a.least))) {
    check.fail("least", "must be finite and 0 or more", number(a.least));
  }
  c->least = a.least;
  const View ids = check.out("ids", a.ids, only(DType::kI32), "B K");
  const View logp = check.out("logp", a.logp, only(DType::kF32), "B K");
  c->K = check.dim('K');
  c->ids = ids.as<int32_t>();
  c->ids_stride = ids.stride;
  c->logp = logp.as<float>();
  c->logp_stride = logp.stride;
}

// Every column of the logits is a token that the decoder looks up.
void check_columns(const ArgCheck& check, const Chain& c) {
  const int64_t V = c.first.d.V, tokens = c.first.d.embedding.n_tokens;
  if (!c.d2t.data && V > tokens) {
    check.fail("d2t",
               format("must be given for V=%lld of %lld tokens", static_cast<long long>(V),
                      static_cast<long long>(tokens)),
               "none");
  }
  check_index(check, "d2t", c.d2t.data, c.d2t.stride, V, tokens);
}

// The values of the integers.
void check_values(const ArgCheck& check, const kv::SlotCheck& slots, const Chain& c) {
  const Pass& p = c.first;
  check_index(check, "tokens", p.tokens, p.tokens_stride, p.N, p.d.embedding.n_tokens);
  check_columns(check, c);
  kv::check_indptr(check, p.indptr, p.B, p.N);
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t length = kv::at(p.length, b), rows = p.rows_of(b), levels = kv::at(c.levels, b);
    if (length < 0) check.fail({"length", int(b)}, "must be 0 or more", std::to_string(length));
    if (rows == 0) {
      check.fail({"indptr", int(b + 1)}, "must give each request a row",
                 std::to_string(kv::at(p.indptr, b + 1)));
    }
    if (levels < 1 || levels > c.K) {
      check.fail({"levels", int(b)}, format("must lie in [1, K=%lld]", static_cast<long long>(c.K)),
                 std::to_string(levels));
    }
    const int64_t end = length + rows + levels - 1;
    slots.range("levels", b, 0, end);
    check_position(check, "cos", p, end - 1);
  }
}

// The pass of a level's rows, and the likeliest token after each.
void run_level(const Chain& c, const Pass& p, int64_t rows) {
  forward(p, kFunction);
  tree::ExpandProblem out{};
  out.K = 1;
  out.rows = {rows, p.d.V, p.logits.data, p.logits.stride_bytes, p.d.type, nullptr, 0, {}};
  out.cum_logp = c.scratch<float>(c.at.above);
  out.cum_logp_stride = 1;
  out.d2t = c.d2t.data;
  out.d2t_stride = c.d2t.stride;
  out.ids = c.scratch<int32_t>(c.at.ids);
  out.ids_stride = 1;
  out.logp = c.scratch<float>(c.at.logp);
  out.logp_stride = 1;
  out.threads = p.threads;
  tree::expand_kernel(p.d.device, kFunction)(out);
}

// The pass of the requests' own rows.
Pass first_pass(const Chain& c) {
  Pass p = c.first;
  const int64_t bytes = p.d.E * size_of(p.d.type);
  p.x = {p.scratch + c.at.x, bytes, p.d.type};
  p.logits = {p.scratch + c.at.logits, p.d.V * size_of(p.d.type), p.d.type};
  int64_t* last = c.scratch<int64_t>(c.at.rows);
  for (int64_t b = 0; b < p.B; ++b) {
    c.scratch<int32_t>(c.at.request)[b] = int32_t(b);
    c.scratch<float>(c.at.above)[b] = 0.0f;
    last[b] = kv::at(p.indptr, b + 1) - 1;
  }
  p.M = p.B;
  p.rows = last;
  p.rows_stride = 1;
  p.scratch_x = true;
  p.layout = c.at.run;
  return p;
}

// Writes the ids of level k, and the rows of the one that follows; returns how many those are.
int64_t next_rows(const Chain& c, int64_t rows, int64_t k) {
  const Pass& first = c.first;
  int32_t* request = c.scratch<int32_t>(c.at.request);
  float* above = c.scratch<float>(c.at.above);
  const int32_t* ids = c.scratch<int32_t>(c.at.ids);
  const float* logp = c.scratch<float>(c.at.logp);
  int64_t* tokens = c.scratch<int64_t>(c.at.tokens);
  int64_t count = 0;
  double chance = 0.0;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t b = request[r];
    c.ids[b * c.ids_stride + k] = ids[r];
    c.logp[b * c.logp_stride + k] = logp[r];
    if (ids[r] < 0 || k + 1 >= kv::at(c.levels, b)) continue;
    chance += std::exp(double(logp[r]));
    request[count] = b;
    above[count] = logp[r];
    tokens[count++] = ids[r];
  }
  if (count == 0 || chance <= c.least) return 0;
  int32_t* indptr = c.scratch<int32_t>(c.at.indptr);
  int32_t* length = c.scratch<int32_t>(c.at.length);
  for (int64_t b = 0, r = 0; b < first.B; ++b) {
    indptr[b] = int32_t(r);
    length[b] = int32_t(kv::at(first.length, b) + first.rows_of(b) + k);
    if (r < count && request[r] == b) ++r;
  }
  indptr[first.B] = int32_t(count);
  return count;
}

void draft(const Chain& c) {
  for (int64_t b = 0; b < c.first.B; ++b) {
    std::fill_n(c.ids + b * c.ids_stride, c.K, -1);
    std::fill_n(c.logp + b * c.logp_stride, c.K, -INFINITY);
  }
  Pass p = first_pass(c);
  int64_t rows = p.B;
  for (int64_t k = 0; rows > 0; ++k) {
    run_level(c, p, rows);
    rows = next_rows(c, rows, k);
    p.tokens = c.scratch<int64_t>(c.at.tokens);
    p.tokens_stride = 1;
    p.indptr = {c.scratch<int32_t>(c.at.indptr), 1};
    p.length = {c.scratch<int32_t>(c.at.length), 1};
    p.rows = nullptr;
    p.N = p.M = rows;
  }
}

void run_chain(const fewstep_context* ctx, const fewstep_decoder* decoder, const Args* args) {
  ArgCheck check(kFunction, ctx);
  if (!decoder) check.fail("decoder", "must be given", "NULL");
  check.sized("args", args, "FEWSTEP_DECODER_CHAIN_ARGS_INIT");
  if (decoder->V == 0) check.fail("decoder", "must have a head", "none");
  if (decoder->embedding.n_tokens == 0) check.fail("decoder", "must have an embedding", "none");
  Chain c(*decoder);
  Pass& p = c.first;
  take_tokens(check, args->tokens, &p);
  p.N = check.dim('N');
  take_requests(check, args->length, args->indptr, &p);
  const kv::SlotCheck slots = take_pages(check, args->page_table, &p);
  take_rope(check, args->cos, args->sin, &p);
  read_outputs(*args, check, &c);
  c.at = chain_layout(p.d, p.N, p.B, p.C);
  p.scratch = take_workspace(check, args->workspace, c.at.total);
  check.no_overlap();
  check_thread_settings();
  check_host(check);  // data is read from here on
  check_values(check, slots, c);
  p.threads = execution_of(ctx).threads;
  with_team(
      team_size(p.d, c.K, p.threads), [](void* chain) { draft(*static_cast<Chain*>(chain)); }, &c);
}

}  // namespace
}  // namespace fewstep::decoder

extern "C" int64_t fewstep_decoder_chain_workspace_bytes(const fewstep_decoder* decoder, int64_t N,
                                                         int64_t B, int64_t C) {
  if (!decoder || N < 0 || B < 0 || C < 0) return 0;
  return fewstep::decoder::chain_layout(*decoder, N, B, C).total;
}

extern "C" fewstep_status fewstep_decoder_chain(const fewstep_context* ctx,
                                                const fewstep_decoder* decoder,
                                                const fewstep_decoder_chain_args* args) {
  return fewstep::guard([&] { fewstep::decoder::run_chain(ctx, decoder, args); });
}
