// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "decoder/pass.h"

namespace fewstep::decoder {
namespace {

// Requests of attention: those of the call, or the parts of chains that are long, each of which has
// the rows before it as its prefix.
struct Requests {
  int64_t count;
  kv::Ints indptr, kv_len, table;
};

Requests requests_of(const Pass& p) {
  int32_t* kv_len = reinterpret_cast<int32_t*>(p.scratch + p.layout.kv_len);
  int32_t* indptr = reinterpret_cast<int32_t*>(p.scratch + p.layout.indptr);
  int32_t* table = reinterpret_cast<int32_t*>(p.scratch + p.layout.table);
  bool is_long = false;
  for (int64_t b = 0; b < p.B; ++b) is_long = is_long || p.rows_of(b) > kBlockRows;
  if (p.bits || !is_long) {
    for (int64_t b = 0; b < p.B; ++b) kv_len[b] = int32_t(kv::at(p.length, b) + p.rows_of(b));
    return {p.B, p.indptr, {kv_len, 1}, p.pages.table};
  }
  int64_t count = 0;
  indptr[0] = 0;
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t first = kv::at(p.indptr, b), end = kv::at(p.indptr, b + 1);
    for (int64_t n = first; n < end; n += kBlockRows, ++count) {
      const int64_t stop = n + kBlockRows < end ? n + kBlockRows : end;
      kv_len[count] = int32_t(kv::at(p.length, b) + stop - first);
      indptr[count + 1] = int32_t(stop);
      for (int64_t c = 0; c < p.C; ++c) {
        table[count * p.C + c] =
            p.pages.table.data ? p.pages.table.data[b * p.pages.table.stride + c] : int32_t(b);
      }
    }
  }
  return {count, {indptr, 1}, {kv_len, 1}, {table, p.C}};
}

linear::Rows scratch_rows(const Pass& p, int64_t offset, int64_t width) {
  return {p.scratch + offset, width * size_of(p.d.type), p.d.type};
}

linear::Rows from_row(const linear::Rows& r, int64_t row) {
  return {r.data ? r.data + row * r.stride_bytes : nullptr, r.stride_bytes, r.type};
}

void run_linear(const Pass& p, linear::RunFn& kernel, linear::RunProblem problem, int64_t rows,
                const linear::Rows& x, const linear::Rows& out, const linear::Rows& residual) {
  problem.in.workspace = p.scratch + p.layout.activations;
  problem.threads = p.threads;
  for (int64_t first = 0; first < rows; first += kBlockRows) {
    problem.in.M = rows - first < kBlockRows ? rows - first : kBlockRows;
    problem.in.x = from_row(x, first);
    problem.out = from_row(out, first);
    problem.residual = from_row(residual, first);
    kernel(problem);
  }
}

kv::AppendProblem append_of(const Pass& p, const linear::Rows& qkv) {
  const fewstep_decoder& d = p.d;
  int32_t* positions = reinterpret_cast<int32_t*>(p.scratch + p.layout.positions);
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t n = kv::at(p.indptr, b); n < kv::at(p.indptr, b + 1); ++n) {
      positions[n] = int32_t(p.position(b, n));
    }
  }
  const int64_t unit = size_of(d.type), head = d.D * unit;
  kv::AppendProblem out{};
  out.B = p.B;
  out.N = p.N;
  out.G = d.G;
  out.D = d.D;
  out.in = d.type;
  out.out = d.cache_type;
  out.in_bytes = unit;
  out.out_bytes = size_of(d.cache_type);
  out.k = {qkv.data + d.H * head, qkv.stride_bytes, head, {}, {}};
  out.v = {qkv.data + (d.H + d.G) * head, qkv.stride_bytes, head, {}, {}};
  out.q = {qkv.data, d.H, qkv.stride_bytes, head, {}};
  out.indptr = p.indptr;
  out.length = p.length;
  out.pages = p.pages;
  out.rope = 1;
  out.pairs = p.pairs;
  out.cos = p.cos;
  out.sin = p.sin;
  out.cos_stride = p.cos_stride;
  out.sin_stride = p.sin_stride;
  out.positions = {positions, 1};
  out.threads = p.threads;
  return out;
}

tree::AttentionProblem attention_of(const Pass& p, const linear::Rows& qkv,
                                    const linear::Rows& attended) {
  const fewstep_decoder& d = p.d;
  const Requests requests = requests_of(p);
  const int64_t head = d.D * size_of(d.type);
  tree::AttentionProblem out{};
  out.B = requests.count;
  out.N = p.N;
  out.H = int32_t(d.H);
  out.G = int32_t(d.G);
  out.D = int32_t(d.D);
  out.ratio = int32_t(d.H / d.G);
  out.q_type = d.type;
  out.kv_type = d.cache_type;
  out.out_type = d.type;
  out.q = {qkv.data, qkv.stride_bytes, head};
  out.out = {attended.data, attended.stride_bytes, head};
  out.page_table = requests.table.data;
  out.table_stride = requests.table.stride;
  out.page_tokens = d.T;
  out.indptr = requests.indptr.data;
  out.indptr_stride = requests.indptr.stride;
  out.kv_len = requests.kv_len.data;
  out.kv_len_stride = requests.kv_len.stride;
  out.block = p.block.data;
  out.block_stride = p.block.stride;
  out.bits = p.bits;
  out.bits_stride = p.bits_stride;
  out.depth = p.depth.data;
  out.depth_stride = p.depth.stride;
  out.draft = tree::Draft::kInCache;
  out.deterministic = d.deterministic;
  out.scale = d.scale;
  out.partial = reinterpret_cast<float*>(p.scratch + p.layout.partial);
  out.threads = p.threads;
  tree::split_keys(&out);
  return out;
}

tree::Tokens tokens_of(const kv::Cache& c) { return {c.data, c.page, c.token, c.head}; }

tree::Scales scales_of(const kv::Cache& c) {
  constexpr int64_t kUnit = sizeof(float);
  return {reinterpret_cast<const float*>(c.data), c.page / kUnit, c.token / kUnit, c.head / kUnit};
}

// The rows that are wanted, one after the other, in scratch.
linear::Rows gathered(const Pass& p, const linear::Rows& from, int64_t width, int64_t offset) {
  const linear::Rows out = scratch_rows(p, offset, width);
  for (int64_t m = 0; m < p.M; ++m) {
    std::memcpy(out.data + m * out.stride_bytes,
                from.data + p.rows[m * p.rows_stride] * from.stride_bytes,
                size_t(out.stride_bytes));
  }
  return out;
}

// What follows attention.
void run_mlp(const Pass& p, linear::RunFn& multiply, const Layer& layer, int64_t rows,
             const linear::Rows& attended, const linear::Rows& x) {
  const linear::Rows middle = scratch_rows(p, p.layout.middle, p.d.E);
  const linear::Rows gated = scratch_rows(p, p.layout.gated, p.d.I);
  run_linear(p, multiply, layer.o, rows, attended, middle, x);
  run_linear(p, multiply, layer.gate, rows, middle, gated, {});
  run_linear(p, multiply, layer.down, rows, gated, x, middle);
}

// Whether the last layer need not run what nobody reads.
bool ends_early(const Pass& p) { return p.scratch_x && p.rows && p.M < p.N; }

void run_layers(const Pass& p, linear::RunFn& multiply, const char* function) {
  const fewstep_decoder& d = p.d;
  kv::AppendFn& append = kv::append_kernel(d.device, function);
  tree::AttentionFn& attend = tree::attention_kernel(d.device, function);
  const linear::Rows none{};
  const linear::Rows qkv = scratch_rows(p, p.layout.qkv, d.qkv());
  const linear::Rows attended = scratch_rows(p, p.layout.attended, d.H * d.D);
  kv::AppendProblem rows = append_of(p, qkv);
  tree::AttentionProblem attention = attention_of(p, qkv, attended);
  for (const Layer& layer : d.layers) {
    linear::Rows part = qkv;
    for (int i = 0; i < layer.n_projections; ++i) {
      run_linear(p, multiply, layer.projections[i], p.N, p.x, part, none);
      part.data += layer.projections[i].O * size_of(d.type);
    }
    rows.k.cache = layer.k;
    rows.v.cache = layer.v;
    rows.k.scale = layer.k_scale;
    rows.v.scale = layer.v_scale;
    rows.k_norm = layer.k_norm;
    rows.q.norm = layer.q_norm;
    append(rows);
    const bool is_partial = &layer == &d.layers.back() && ends_early(p);
    if (is_partial && p.M == 0) return;
    attention.k = tokens_of(layer.k);
    attention.v = tokens_of(layer.v);
    attention.k_scale = scales_of(layer.k_scale);
    attention.v_scale = scales_of(layer.v_scale);
    attention.window = layer.window;
    attend(attention);
    if (is_partial) {
      // Queries, keys and values are used up: their memory has room.
      const linear::Rows few = gathered(p, attended, d.H * d.D, p.layout.qkv);
      run_mlp(p, multiply, layer, p.M, few, gathered(p, p.x, d.E, p.layout.wanted));
    } else {
      run_mlp(p, multiply, layer, p.N, attended, p.x);
    }
  }
}

void embed(const Pass& p, const char* function) {
  const Embedding& e = p.d.embedding;
  const int64_t bytes = p.d.E * size_of(p.d.type);
  if (e.dense) {
    for (int64_t n = 0; n < p.N; ++n) {
      const char* row = e.dense + p.tokens[n * p.tokens_stride] * e.stride_bytes;
      std::memcpy(p.x.data + n * p.x.stride_bytes, row, size_t(bytes));
    }
    return;
  }
  linear::UnpackProblem rows = e.packed;
  rows.O = p.N;
  rows.stride_bytes = p.x.stride_bytes;
  rows.out = p.x.data;
  rows.index = p.tokens;
  rows.index_stride = p.tokens_stride;
  rows.threads = p.threads;
  linear::unpack_kernel(p.d.device, function)(rows);
}

void run_head(const Pass& p, linear::RunFn& multiply) {
  linear::Rows x = p.x;
  if (ends_early(p)) {
    x = scratch_rows(p, p.layout.wanted, p.d.E);
  } else if (p.rows) {
    x = gathered(p, p.x, p.d.E, p.layout.wanted);
  }
  run_linear(p, multiply, p.d.head, p.M, x, p.logits, {});
}

}  // namespace

void forward(const Pass& p, const char* function) {
  linear::RunFn& multiply = linear::run_kernel(p.d.device, function);
  if (p.tokens) embed(p, function);
  run_layers(p, multiply, function);
  if (p.logits.data) run_head(p, multiply);
}

}  // namespace fewstep::decoder
