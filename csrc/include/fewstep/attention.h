/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_ATTENTION_H_
#define FEWSTEP_ATTENTION_H_

#include "base.h"
#include "context.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the keys of a request's draft block, its rows and what it drafted before them, lie. */
typedef enum fewstep_draft_block {
  FEWSTEP_DRAFT_IN_CACHE = 0, /* the cache's last tokens; kv_len counts them */
  FEWSTEP_DRAFT_SEPARATE = 1, /* draft_k and draft_v; kv_len counts the prefix alone */
  FEWSTEP_DRAFT_NONE = 2      /* there is none: rows see the prefix, kv_len tokens */
} fewstep_draft_block;

/* Arguments of fewstep_tree_attention. */
typedef struct fewstep_tree_attention_args {
  uint32_t size;                    /* sizeof(fewstep_tree_attention_args) */
  int32_t draft;                    /* fewstep_draft_block */
  int32_t deterministic;            /* 1: a row's bits do not depend on the rows beside it */
  double scale;                     /* of the logits; 0 for 1 / sqrt(D) */
  double softcap;                   /* c: logits become c tanh(logit / c); 0 for none */
  int64_t window;                   /* positions that a row sees, its own included; 0 for all */
  const fewstep_tensor* q;          /* [N, H, D] */
  const fewstep_tensor* k;          /* [P, T, G, D] */
  const fewstep_tensor* v;          /* [P, T, G, D] */
  const fewstep_tensor* k_scale;    /* [P, T, G] f32, with a cache of bytes */
  const fewstep_tensor* v_scale;    /* [P, T, G] f32, with a cache of bytes */
  const fewstep_tensor* page_table; /* [B, M] i32, or NULL: page b is request b's cache */
  const fewstep_tensor* kv_len;     /* [B] i32 */
  const fewstep_tensor* indptr;     /* [B + 1] i32 */
  const fewstep_tensor* draft_k;    /* [N, G, D], with FEWSTEP_DRAFT_SEPARATE */
  const fewstep_tensor* draft_v;    /* [N, G, D], with FEWSTEP_DRAFT_SEPARATE */
  const fewstep_tensor* block;      /* [B] i32, with FEWSTEP_DRAFT_IN_CACHE, or NULL: its rows */
  const fewstep_tensor* bits;       /* [N, W] u32 or i32, or NULL for a causal chain */
  const fewstep_tensor* depth;      /* [N] i32, or NULL */
  const fewstep_tensor* sinks;      /* [H] f32, or NULL */
  const fewstep_tensor* out;        /* [N, H, D] */
  const fewstep_tensor* lse;        /* [N, H] f32, or NULL */
  const fewstep_tensor* workspace;  /* [X] i64 */
} fewstep_tree_attention_args;

#define FEWSTEP_TREE_ATTENTION_ARGS_INIT \
  {sizeof(fewstep_tree_attention_args),  \
   FEWSTEP_DRAFT_IN_CACHE,               \
   0,                                    \
   0.0,                                  \
   0.0,                                  \
   0,                                    \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL}

/* Bytes of workspace that fewstep_tree_attention needs at most. S is the most keys that a request
 * has, its draft block included, and on CUDA has room for: a cache's tokens, and N where the draft
 * block is separate. It matters in the deterministic mode alone.
 */
FEWSTEP_API int64_t fewstep_tree_attention_workspace_bytes(int64_t N, int32_t H, int32_t G,
                                                           int32_t D, int64_t S,
                                                           int32_t deterministic);

/* Attention of the rows of token trees to a KV cache and to their own tree.
 *
 *   out[n, h] = sum_j w_j v_j / sum_j w_j,  w_j = exp(softcap(scale q[n, h] . k_j)),  over the keys
 *   of KV head h / (H / G) that row n sees, and sinks[h] as one more logit whose value is zero
 *
 * Rows indptr[b] .. indptr[b + 1] - 1 are request b's and see its whole prefix: the cached tokens
 * before the draft block. The block has block[b] tokens, the rows are the last of them; it is the
 * rows alone where block is left out. Of the block, row n sees token j where bit j of bits[n] is
 * set, or without bits the tokens up to itself. A row lies at position prefix + depth[n]; without
 * depth that is the number of set bits less 1, or the index in the block. A token of the block that
 * is no row lies as far behind a row as the row sees tokens of the block after it, as an ancestor
 * does. Keys whose position is `window` or more behind are not seen.
 *
 * Token i of request b is token i % T of page page_table[b, i / T]; without a page table, token i
 * of page b. A row that sees nothing has out 0 and lse -infinity.
 *
 * Shapes   q [N, H, D]  k, v [P, T, G, D]  k_scale, v_scale [P, T, G]  page_table [B, M]
 *          kv_len [B]  indptr [B + 1]  draft_k, draft_v [N, G, D]  block [B]  bits [N, W]
 *          depth [N]  sinks [H]  out [N, H, D]  lse [N, H]  workspace [X];
 *          D a multiple of 16 up to 256; H = 1 to 16 times G; 32 W >= tokens of every block;
 *          P = B without a page table; rows <= block <= kv_len
 * Types    q: f32 f16 bf16; k, v: q's, or int8 or float8_e4m3fn with scales, x = scale * number;
 *          draft_k, draft_v: q's; bits: u32 or i32; page_table, kv_len, indptr, block, depth: i32;
 *          sinks, k_scale, v_scale, lse: f32; out: q's or f32; workspace: i64; arithmetic f32; of a
 *          bf16 cache the kernels for AVX512-BF16 round the weights w to bf16 before the second
 *          product and take subnormals for zero; those for CUDA round them, with the scales that
 *          values have, to q's type where that has 16 bits
 * Layout   last dimension contiguous, the others strided, zero strides of inputs included;
 *          workspace contiguous
 * Alias    out, lse and workspace overlap nothing; inputs may overlap each other
 * Memory   allocates nothing; reads each key and value once per 128 rows of a KV head, on CUDA per
 *          64 or 16; workspace holds the parts' sums, fewstep_tree_attention_workspace_bytes
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across runs, thread counts and ISAs but avx512_bf16 for bf16, bit for bit; on CUDA
 *          across runs and GPUs of one architecture, whose tensor cores add in an order of their
 *          own. The keys of a request are split into parts whose size depends on the batch, on CUDA
 *          on B, N, H and G alone. With deterministic = 1 it does not, so that a row has the same
 *          bits in every batch, and the same in one block as when a chain's rows run one by one or
 *          a tree's level by level. Values that a row does not see but that lie in its request's
 *          cache or block are multiplied by zero, and have to be finite
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; on CUDA nobody
 *          reads indptr, lengths and pages before: a request that they do not fit is passed over,
 *          and a key on a page outside of [0, P) is not seen
 * Source   online softmax: Milakov, Gimelshein 2018, arXiv 1805.02867; tiles and split keys: Dao et
 *          al., arXiv 2205.14135, and Flash-Decoding; ancestor masks: Miao et al., arXiv
 *          2305.09781; sinks: gpt-oss, arXiv 2508.10925
 */
FEWSTEP_API fewstep_status fewstep_tree_attention(const fewstep_context* ctx,
                                                  const fewstep_tree_attention_args* args);

/* Most parts that one call of fewstep_tree_merge takes. */
#define FEWSTEP_MAX_MERGE 8

/* Arguments of fewstep_tree_merge. */
typedef struct fewstep_tree_merge_args {
  uint32_t size; /* sizeof(fewstep_tree_merge_args) */
  int32_t n_parts;
  const fewstep_tensor* parts[FEWSTEP_MAX_MERGE]; /* [N, H, D] each */
  const fewstep_tensor* lses[FEWSTEP_MAX_MERGE];  /* [N, H] f32 each */
  const fewstep_tensor* out;                      /* [N, H, D] */
  const fewstep_tensor* lse;                      /* [N, H] f32, or NULL */
} fewstep_tree_merge_args;

#define FEWSTEP_TREE_MERGE_ARGS_INIT \
  {sizeof(fewstep_tree_merge_args), 0, {NULL}, {NULL}, NULL, NULL}

/* Joins the results of attention to disjoint sets of keys, of split caches or devices, into that
 * of attention to all of them.
 *
 *   out = sum_i w_i parts[i],  w_i = exp(lses[i] - lse),  lse = log(sum_i exp(lses[i]))
 *
 * A part whose lse is -infinity counts for nothing, whatever its values; without any other out is 0
 * and lse -infinity. The result is a part again, for more than 8 of them.
 *
 * Shapes   parts [N, H, D] each  lses [N, H] each  out [N, H, D]  lse [N, H];
 *          1 to 8 parts
 * Types    parts, out: each one of f32 f16 bf16; lses, lse: f32; arithmetic f32
 * Layout   last dimension contiguous, the others strided
 * Alias    out and lse overlap nothing; parts and lses may overlap each other
 * Memory   allocates nothing; reads each part once
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit, and on CUDA but for the
 *          last bit of lse; the parts' order matters
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR
 * Source   Ye et al., FlashInfer, arXiv 2501.01005, section 2.2
 */
FEWSTEP_API fewstep_status fewstep_tree_merge(const fewstep_context* ctx,
                                              const fewstep_tree_merge_args* args);

#ifdef __cplusplus
}
#endif

#endif
