// SPDX-License-Identifier: Apache-2.0
#include "tree/attention.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/cpu/processor.h"
#include "core/cuda/device.h"
#include "core/execute.h"
#include "fewstep/attention.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<AttentionFn> kAttention = FEWSTEP_BF16_KERNELS(attention);
constexpr const char* kFunction = "fewstep_tree_attention";

std::string text_of(int64_t value) { return std::to_string(value); }

// Keys of a part when the work, keys times blocks of rows, is split into about kParts.
int64_t part_of(int64_t work) {
  const int64_t keys = (work / kParts + kTileKeys - 1) / kTileKeys * kTileKeys;
  return keys > kSmallestPart ? keys : kSmallestPart;
}

// Rows of a block of warpgroups where B requests have N tokens of that many heads for each of keys;
// 0 where these are too few to keep them busy.
int32_t warpgroup_rows_of(int64_t N, int64_t ratio, int64_t D, int64_t B) {
  const int64_t rows = N * ratio;
  if (rows < 64 * B || (D != 64 && D != 128 && D != 256)) return 0;
  return rows > 128 * B && D < 256 ? 256 : 128;
}

// Parts that CUDA splits a request's keys into to have as many blocks of threads as are aimed at.
int64_t most_cuda_parts(int64_t N, int64_t H, int64_t G, int64_t B, int32_t warpgroup_rows) {
  const int64_t rows = N * (H / G);
  if (warpgroup_rows > 0) {
    const int64_t blocks = G * std::max(B, (rows + warpgroup_rows - 1) / warpgroup_rows);
    return std::max(kWarpgroupBlocks / blocks, int64_t(1));
  }
  return std::max(kCudaBlocks / (G * std::max(B, rows / kCudaRows + 1)), int64_t(1));
}

void check_options(const fewstep_tree_attention_args& a, const ArgCheck& check,
                   AttentionProblem* p) {
  if (a.draft < FEWSTEP_DRAFT_IN_CACHE || a.draft > FEWSTEP_DRAFT_NONE) {
    check.fail("draft", "must be 0 (in the cache), 1 (separate) or 2 (none)", text_of(a.draft));
  }
  if (!(a.scale >= 0.0 && std::isfinite(a.scale))) {
    check.fail("scale", "must be finite and 0 or more", number(a.scale));
  }
  if (!(a.softcap >= 0.0 && std::isfinite(a.softcap))) {
    check.fail("softcap", "must be finite and 0 or more", number(a.softcap));
  }
  if (a.window < 0) check.fail("window", "must be 0 or more", text_of(a.window));
  p->draft = static_cast<Draft>(a.draft);
  p->softcap = static_cast<float>(a.softcap);
  p->window = a.window;
  p->deterministic = a.deterministic != 0;
}

Tokens cache_of(const StridedView& v) {
  const int64_t bytes = size_of(v.dtype);
  return {v.as<const char>(), v.strides[0] * bytes, v.strides[1] * bytes, v.strides[2] * bytes};
}

void check_cache(const fewstep_tree_attention_args& a, ArgCheck& check, AttentionProblem* p) {
  const StridedView k = check.in_strided("k", a.k, only(p->q_type) | kScaledBytes, "P T G D");
  const StridedView v = check.in_strided("v", a.v, only(k.dtype), "P T G D");
  p->k = cache_of(k);
  p->v = cache_of(v);
  p->kv_type = k.dtype;
  const bool is_scaled = contains(kScaledBytes, p->kv_type);
  if (!is_scaled && (a.k_scale || a.v_scale)) {
    check.fail(a.k_scale ? "k_scale" : "v_scale",
               "must be left out unless the cache is int8 or float8_e4m3fn",
               "a " + std::string(name_of(p->kv_type)) + " cache");
  }
  if (is_scaled) {
    const StridedView ks = check.in_strided("k_scale", a.k_scale, only(DType::kF32), "P T G");
    const StridedView vs = check.in_strided("v_scale", a.v_scale, only(DType::kF32), "P T G");
    p->k_scale = {ks.as<const float>(), ks.strides[0], ks.strides[1], ks.strides[2]};
    p->v_scale = {vs.as<const float>(), vs.strides[0], vs.strides[1], vs.strides[2]};
  }
  p->page_tokens = check.dim('T');
}

void check_heads(const ArgCheck& check, AttentionProblem* p) {
  const int64_t H = check.dim('H'), G = check.dim('G'), D = check.dim('D');
  if (D < 16 || D > kMaxHeadDim || D % 16 != 0) {
    check.fail("q", "must have a head dim that is a multiple of 16 from 16 to 256", text_of(D));
  }
  if (G < 1 || H % G != 0 || H < G || H > kMaxRatio * G) {
    check.fail("q",
               format("must have 1 to 16 times as many heads as the cache, which has %lld",
                      static_cast<long long>(G)),
               text_of(H));
  }
  p->H = int32_t(H);
  p->G = int32_t(G);
  p->D = int32_t(D);
  p->ratio = int32_t(H / G);
}

// indptr: from 0 to N and never less.
void check_indptr(const ArgCheck& check, const AttentionProblem& p) {
  if (first_of(p, 0) != 0) check.fail({"indptr", 0}, "must be 0", text_of(first_of(p, 0)));
  for (int64_t b = 0; b < p.B; ++b) {
    if (first_of(p, b + 1) < first_of(p, b)) {
      check.fail({"indptr", int(b + 1)}, "must not be below the element before it",
                 text_of(first_of(p, b + 1)));
    }
  }
  if (first_of(p, p.B) != p.N) {
    check.fail({"indptr", int(p.B)},
               format("must be the number of rows, %lld", static_cast<long long>(p.N)),
               text_of(first_of(p, p.B)));
  }
}

void check_rows(const fewstep_tree_attention_args& a, ArgCheck& check, AttentionProblem* p) {
  const View length = check.in("kv_len", a.kv_len, only(DType::kI32), "B");
  const View indptr = check.in("indptr", a.indptr, only(DType::kI32), "B+1");
  p->B = check.dim('B');
  p->kv_len = length.as<const int32_t>();
  p->kv_len_stride = length.stride;
  p->indptr = indptr.as<const int32_t>();
  p->indptr_stride = indptr.stride;
  if (check.can_read()) check_indptr(check, *p);
}

// Lengths and the pages that they reach.
void check_lengths(const ArgCheck& check, const AttentionProblem& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t length = p.kv_len[b * p.kv_len_stride];
    const int64_t least = p.draft == Draft::kInCache ? tokens_of(p, b) : 0;
    if (length < least || length > p.capacity) {
      check.fail({"kv_len", int(b)},
                 format("must lie in [%lld, %lld], from the request's rows in the cache to the "
                        "cache's capacity",
                        static_cast<long long>(least), static_cast<long long>(p.capacity)),
                 text_of(length));
    }
    if (!p.page_table) continue;
    const int32_t* pages = p.page_table + b * p.table_stride;
    for (int64_t i = 0; i * p.page_tokens < length; ++i) {
      if (pages[i] >= 0 && pages[i] < p.pages) continue;
      check.fail("page_table",
                 format("must hold pages in [0, %lld)", static_cast<long long>(p.pages)),
                 format("%d for page %lld of request %lld", int(pages[i]),
                        static_cast<long long>(i), static_cast<long long>(b)));
    }
  }
}

void check_pages(const fewstep_tree_attention_args& a, ArgCheck& check, AttentionProblem* p) {
  p->pages = check.dim('P');
  p->capacity = p->page_tokens;
  if (a.page_table) {
    const StridedView table =
        check.in_strided("page_table", a.page_table, only(DType::kI32), "B M");
    p->page_table = table.as<const int32_t>();
    p->table_stride = table.strides[0];
    p->capacity *= check.dim('M');
  } else if (p->pages != p->B) {
    check.fail("k",
               format("must have one page per request, %lld, without a page table",
                      static_cast<long long>(p->B)),
               text_of(p->pages));
  }
  if (check.can_read()) check_lengths(check, *p);
}

Tokens drafts_of(const StridedView& v) {
  const int64_t bytes = size_of(v.dtype);
  return {v.as<const char>(), 0, v.strides[0] * bytes, v.strides[1] * bytes};
}

void check_block(const fewstep_tree_attention_args& a, ArgCheck& check, AttentionProblem* p) {
  if (p->draft != Draft::kInCache) {
    check.fail("block", "must be left out unless the draft block is in the cache", "a tensor");
  }
  const View block = check.in("block", a.block, only(DType::kI32), "B");
  p->block = block.as<const int32_t>();
  p->block_stride = block.stride;
  for (int64_t b = 0; check.can_read() && b < p->B; ++b) {
    const int64_t rows = tokens_of(*p, b), cached = p->kv_len[b * p->kv_len_stride];
    if (block_of(*p, b) >= rows && block_of(*p, b) <= cached) continue;
    check.fail(
        {"block", int(b)},
        format("must lie in [%lld, %lld], from the request's rows to its tokens in the cache",
               static_cast<long long>(rows), static_cast<long long>(cached)),
        text_of(block_of(*p, b)));
  }
}

void check_draft(const fewstep_tree_attention_args& a, ArgCheck& check, AttentionProblem* p) {
  if (p->draft == Draft::kSeparate) {
    p->draft_k = drafts_of(check.in_strided("draft_k", a.draft_k, only(p->q_type), "N G D"));
    p->draft_v = drafts_of(check.in_strided("draft_v", a.draft_v, only(p->q_type), "N G D"));
  } else if (a.draft_k || a.draft_v) {
    check.fail(a.draft_k ? "draft_k" : "draft_v",
               "must be left out unless the draft block is separate", "a tensor");
  }
  if (a.block) check_block(a, check, p);
  if (a.bits) {
    const StridedView bits = check.in_strided("bits", a.bits, kBitWords, "N W");
    p->bits = bits.as<const uint32_t>();
    p->bits_stride = bits.strides[0];
    p->bit_words = check.dim('W');
    for (int64_t b = 0; check.can_read() && b < p->B; ++b) {
      if (block_of(*p, b) <= 32 * p->bit_words) continue;
      check.fail(
          "bits",
          format("must have a bit for each of request %lld's %lld %s", static_cast<long long>(b),
                 static_cast<long long>(block_of(*p, b)), p->block ? "tokens" : "rows"),
          format("%lld words", static_cast<long long>(p->bit_words)));
    }
  }
  if (a.depth) {
    const View depth = check.in("depth", a.depth, only(DType::kI32), "N");
    p->depth = depth.as<const int32_t>();
    p->depth_stride = depth.stride;
  }
}

void check_outputs(const fewstep_tree_attention_args& a, ArgCheck& check, AttentionProblem* p) {
  if (a.sinks) {
    const View sinks = check.in("sinks", a.sinks, only(DType::kF32), "H");
    p->sinks = sinks.as<const float>();
    p->sinks_stride = sinks.stride;
  }
  const StridedView out = check.out_strided("out", a.out, only(p->q_type) | DType::kF32, "N H D");
  const int64_t bytes = size_of(out.dtype);
  p->out_type = out.dtype;
  p->out = {out.as<char>(), out.strides[0] * bytes, out.strides[1] * bytes};
  if (a.lse) {
    const StridedView lse = check.out_strided("lse", a.lse, only(DType::kF32), "N H");
    p->lse = lse.as<float>();
    p->lse_stride = lse.strides[0];
  }
}

// The most keys of a request, as far as the host knows.
int64_t longest_of(const ArgCheck& check, const AttentionProblem& p) {
  if (!check.can_read()) return p.capacity + (p.draft == Draft::kSeparate ? p.N : 0);
  int64_t longest = 0;
  for (int64_t b = 0; b < p.B; ++b) longest = std::max(longest, keys_of(p, b));
  return longest;
}

uint64_t bits_of(const Tokens& x) {
  return reinterpret_cast<uintptr_t>(x.data) | uint64_t(x.page | x.token | x.head);
}

// What the choice of a CUDA kernel depends on.
void look_at_layout(const ArgCheck& check, AttentionProblem* p) {
  const uint64_t q = reinterpret_cast<uintptr_t>(p->q.data) | uint64_t(p->q.row | p->q.head);
  const Tokens caches[] = {p->k, p->v, p->draft_k, p->draft_v};
  uint64_t any = q;
  for (const Tokens& x : caches) any |= bits_of(x);
  p->is_wide = any % 16 == 0;
  const bool is_half = p->kv_type == DType::kBF16 || p->kv_type == DType::kF16;
  if (!p->is_wide || !is_half || p->deterministic) return;
  if (!gpu::has_warpgroups(kFunction, check.device())) return;
  p->warpgroup_rows = warpgroup_rows_of(p->N, p->ratio, p->D, p->B);
}

// split_keys for the CUDA kernels.
int64_t split_cuda_keys(AttentionProblem* p, int64_t longest) {
  int64_t parts = 1;
  if (p->deterministic) {
    parts = (longest + kFixedPart - 1) / kFixedPart;
  } else if (p->N > 0) {
    const int64_t most = (longest + kSmallestCudaPart - 1) / kSmallestCudaPart;
    parts = std::min(most, most_cuda_parts(p->N, p->H, p->G, p->B, p->warpgroup_rows));
  }
  p->cuda_parts = int32_t(std::max(parts, int64_t(1)));
  if (p->cuda_parts == 1) return 0;
  return p->cuda_parts * p->N * p->H * partial_floats(*p) * int64_t(sizeof(float));
}

// Splits the keys, and finds room for the parts' sums.
void check_workspace(const fewstep_tree_attention_args& a, ArgCheck& check, AttentionProblem* p) {
  const int64_t bytes =
      check.is_for_cuda() ? split_cuda_keys(p, longest_of(check, *p)) : split_keys(p);
  if (!a.workspace && bytes == 0) return;
  const View w = check.out("workspace", a.workspace, only(DType::kI64), "X");
  if (w.rows > 1 && w.stride != 1) {
    check.fail("workspace", "must be contiguous", "a strided layout");
  }
  const int64_t needed = (bytes + 7) / 8;
  if (w.rows < needed) {
    check.fail("workspace",
               format("must have %lld elements or more", static_cast<long long>(needed)),
               text_of(w.rows));
  }
  p->partial = w.as<float>();
}

void run_attention(const fewstep_context* ctx, const fewstep_tree_attention_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_ATTENTION_ARGS_INIT");
  AttentionProblem p{};
  check_options(*args, check, &p);
  const StridedView q = check.in_strided("q", args->q, kFloating, "N H D");
  p.q_type = q.dtype;
  const int64_t bytes = size_of(q.dtype);
  p.q = {q.as<char>(), q.strides[0] * bytes, q.strides[1] * bytes};
  p.N = check.dim('N');
  AttentionFn& kernel = attention_kernel(check.device(), kFunction);
  check_cache(*args, check, &p);
  check_heads(check, &p);
  check_rows(*args, check, &p);
  check_pages(*args, check, &p);
  check_draft(*args, check, &p);
  check_outputs(*args, check, &p);
  if (check.is_for_cuda()) look_at_layout(check, &p);
  check_workspace(*args, check, &p);
  check.no_overlap();
  check_thread_settings();
  p.scale = static_cast<float>(args->scale > 0.0 ? args->scale : 1.0 / std::sqrt(double(p.D)));
  p.large_first_cache = first_level_cache_bytes() > 32 << 10;
  p.prefetched = wants_streams_prefetched();
  execute(ctx, check, kernel, &p);
}

}  // namespace

AttentionFn& attention_kernel(Device device, const char* function) {
  return kAttention.pick(device, function);
}

int64_t split_keys(AttentionProblem* p) {
  int64_t work = 0, rows = 0;
  for (int64_t b = 0; b < p->B; ++b) {
    if (tokens_of(*p, b) > 0) work += keys_of(*p, b) * p->G * blocks_of(*p, b);
  }
  p->part = p->deterministic ? kFixedPart : part_of(work);
  for (int64_t b = 0; b < p->B; ++b) {
    if (parts_of(*p, b) > 1) rows += parts_of(*p, b) * tokens_of(*p, b) * p->H;
  }
  return rows * partial_floats(*p) * int64_t(sizeof(float));
}

}  // namespace fewstep::tree

extern "C" int64_t fewstep_tree_attention_workspace_bytes(int64_t N, int32_t H, int32_t G,
                                                          int32_t D, int64_t S,
                                                          int32_t deterministic) {
  using namespace fewstep::tree;
  if (N <= 0 || H <= 0 || G <= 0 || D <= 0) return 0;
  const int64_t row = int64_t(D + 2) * int64_t(sizeof(float));
  if (deterministic) {
    const int64_t parts = (S + kFixedPart - 1) / kFixedPart;
    return parts > 1 ? (N * H * parts * row + 7) / 8 * 8 : 0;
  }
  // kParts parts and one more for each block of rows; a block has up to kBlockRows of them.
  const int64_t rows = std::min(N * (H / G), int64_t(kBlockRows));
  int64_t cuda = most_cuda_parts(N, H, G, 1, 0);
  cuda = std::max(cuda, most_cuda_parts(N, H, G, 1, warpgroup_rows_of(N, H / G, D, 1)));
  if (cuda == 1) cuda = 0;
  return (std::max(kParts * rows + N * H, cuda * N * H) * row + 7) / 8 * 8;
}

extern "C" fewstep_status fewstep_tree_attention(const fewstep_context* ctx,
                                                 const fewstep_tree_attention_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_attention(ctx, args); });
}
