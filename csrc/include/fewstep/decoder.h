/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_DECODER_H_
#define FEWSTEP_DECODER_H_

#include "base.h"
#include "context.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A packed weight of fewstep_linear_pack and its bias. */
typedef struct fewstep_decoder_weight {
  int32_t kind;                 /* fewstep_linear_kind */
  int32_t group;                /* 32 or 64 for int4 */
  const fewstep_tensor* packed; /* [P] u8 */
  const fewstep_tensor* bias;   /* [O], or NULL */
} fewstep_decoder_weight;

#define FEWSTEP_DECODER_WEIGHT_INIT {0, 32, NULL, NULL}

/* An RMSNorm: x / sqrt(mean(x^2) + eps) * weight. */
typedef struct fewstep_decoder_norm {
  double eps;
  const fewstep_tensor* weight; /* of as many elements as are normed */
} fewstep_decoder_norm;

#define FEWSTEP_DECODER_NORM_INIT {1e-6, NULL}

/* A decoder layer of the Llama kind and its cache. Weights are [outputs, inputs]. */
typedef struct fewstep_decoder_layer {
  int64_t window;                /* positions that a row sees, its own included; 0 for all */
  fewstep_decoder_weight q;      /* [H D, E]; or [(H + 2 G) D, E], of q, k and v together */
  fewstep_decoder_weight k, v;   /* [G D, E] each; packed NULL where they are part of q */
  fewstep_decoder_weight o;      /* [E, H D] */
  fewstep_decoder_weight gate;   /* [I, E] */
  fewstep_decoder_weight down;   /* [E, I] */
  const fewstep_tensor* up;      /* [I, E], packed as gate is */
  fewstep_decoder_norm norm;     /* [E], of what q, k and v read */
  fewstep_decoder_norm mlp_norm; /* [E], of what gate and up read */
  fewstep_decoder_norm q_norm;   /* [D], of each head of queries; weight NULL for none */
  fewstep_decoder_norm k_norm;   /* [D], of each head of keys; weight NULL for none */
  const fewstep_tensor* k_cache; /* [P, T, G, D] */
  const fewstep_tensor* v_cache; /* [P, T, G, D] */
  const fewstep_tensor* k_scale; /* [P, T, G] f32, for int8 and float8 caches */
  const fewstep_tensor* v_scale; /* [P, T, G] f32, for int8 and float8 caches */
} fewstep_decoder_layer;

#define FEWSTEP_DECODER_LAYER_INIT \
  {0,                              \
   FEWSTEP_DECODER_WEIGHT_INIT,    \
   FEWSTEP_DECODER_WEIGHT_INIT,    \
   FEWSTEP_DECODER_WEIGHT_INIT,    \
   FEWSTEP_DECODER_WEIGHT_INIT,    \
   FEWSTEP_DECODER_WEIGHT_INIT,    \
   FEWSTEP_DECODER_WEIGHT_INIT,    \
   NULL,                           \
   FEWSTEP_DECODER_NORM_INIT,      \
   FEWSTEP_DECODER_NORM_INIT,      \
   FEWSTEP_DECODER_NORM_INIT,      \
   FEWSTEP_DECODER_NORM_INIT,      \
   NULL,                           \
   NULL,                           \
   NULL,                           \
   NULL}

/* Arguments of fewstep_decoder_create. */
typedef struct fewstep_decoder_create_args {
  uint32_t size;                       /* sizeof(fewstep_decoder_create_args) */
  int32_t n_layers;                    /* 1 or more */
  const fewstep_decoder_layer* layers; /* n_layers in a row, of equal sizes and cache types */
  int32_t heads;                       /* H */
  int32_t deterministic;               /* 1: attention gives a row the same bits in any batch */
  int64_t inner;                       /* I, the outputs of gate */
  double scale;                        /* of attention's logits; 0 for 1 / sqrt(D) */
  int64_t vocabulary;                  /* V, the outputs of head; 0 without one */
  fewstep_decoder_weight head;         /* [V, E]; packed NULL for none */
  fewstep_decoder_norm norm;           /* [E], of what the head reads */
  int64_t n_tokens;                    /* rows of embedding; 0 without one */
  fewstep_decoder_weight embedding;    /* packed [n_tokens, E], or a tensor [n_tokens, E]; NULL for
                                          none. A kind that is not quantised unpacks to
                                          the type of x */
} fewstep_decoder_create_args;

#define FEWSTEP_DECODER_CREATE_ARGS_INIT \
  {sizeof(fewstep_decoder_create_args),  \
   0,                                    \
   NULL,                                 \
   0,                                    \
   0,                                    \
   0,                                    \
   0.0,                                  \
   0,                                    \
   FEWSTEP_DECODER_WEIGHT_INIT,          \
   FEWSTEP_DECODER_NORM_INIT,            \
   0,                                    \
   FEWSTEP_DECODER_WEIGHT_INIT}

/* Weights and caches of a model, checked once for many calls. It holds what the tensors say of
 * their memory, and no memory of theirs: that has to stay where it is for as long as the decoder is
 * used, and may change its values between calls. Activations have the type of layers[0].norm. */
typedef struct fewstep_decoder fewstep_decoder;

FEWSTEP_API fewstep_status fewstep_decoder_create(const fewstep_decoder_create_args* args,
                                                  fewstep_decoder** out);
FEWSTEP_API void fewstep_decoder_destroy(fewstep_decoder* decoder);

/* Bytes of workspace that fewstep_decoder_run needs for N rows of B requests of which M are wanted,
 * with C columns of the page table (1 without one). */
FEWSTEP_API int64_t fewstep_decoder_run_workspace_bytes(const fewstep_decoder* decoder, int64_t N,
                                                        int64_t B, int64_t M, int64_t C);

/* Arguments of fewstep_decoder_run. */
typedef struct fewstep_decoder_run_args {
  uint32_t size;                    /* sizeof(fewstep_decoder_run_args) */
  const fewstep_tensor* x;          /* [N, E], in place */
  const fewstep_tensor* tokens;     /* [N] i64, or NULL: x is given */
  const fewstep_tensor* indptr;     /* [B + 1] i32 */
  const fewstep_tensor* length;     /* [B] i32, tokens before the rows */
  const fewstep_tensor* page_table; /* [B, C] i32, or NULL: P = B */
  const fewstep_tensor* cos;        /* [S, R / 2] f32 */
  const fewstep_tensor* sin;        /* [S, R / 2] f32 */
  const fewstep_tensor* bits;       /* [N, W] u32 or i32, or NULL for causal chains */
  const fewstep_tensor* depth;      /* [N] i32, with bits, or NULL: a row's slot is its position */
  const fewstep_tensor* block;      /* [B] i32, with bits, or NULL: its rows */
  const fewstep_tensor* rows;       /* [M] i64, with logits, or NULL: all rows */
  const fewstep_tensor* logits;     /* [M, V], or NULL */
  const fewstep_tensor* workspace;  /* [X] i64 */
  int32_t scratch_x;                /* 1: what x holds afterwards is of no use */
} fewstep_decoder_run_args;

#define FEWSTEP_DECODER_RUN_ARGS_INIT \
  {sizeof(fewstep_decoder_run_args),  \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   0}

/* A forward pass: rows of tokens through all layers of a decoder, and to logits.
 *
 *   x = embedding[tokens]                             where tokens are given
 *   q, k, v = norm(x) Wq^T, norm(x) Wk^T, norm(x) Wv^T      each with its bias; then, for each
 *   layer:   q, k normed by heads and rotated; k, v to the cache; a = attention of q to the cache
 *            x = x + a Wo^T
 *            x = x + (silu(mlp_norm(x) Wgate^T) * (mlp_norm(x) Wup^T)) Wdown^T
 *   logits = norm(x[rows]) Whead^T
 *
 * Row n = indptr[b] + i is token length[b] + i of request b: there go its key and value, and what
 * it sees is what fewstep_tree_attention with kv_len[b] = length[b] + rows lets it see. It lies at
 * the position length[b] + i, with depth at that of its block's first token plus depth[n]. `length`
 * stays as it is. With scratch_x = 1 and fewer `rows` than N the last layer runs those alone; of
 * the others it has keys and values.
 *
 * Shapes   x [N, E]  tokens [N]  indptr [B + 1]  length [B]  page_table [B, C]
 *          cos, sin [S, R / 2]  bits [N, W]  depth [N]  block [B]  rows [M]  logits [M, V]
 *          workspace [X]; R <= D, D a multiple of 16 up to 256; H = 1 to 16 times G;
 *          32 W >= tokens of every block; rows <= block <= length + rows
 * Types    x: as the decoder has it, f32 f16 bf16; logits: f32 f16 bf16; cos, sin: f32; bits: u32
 *          or i32; tokens, rows, workspace: i64; the others i32; arithmetic f32, rounded to x's
 *          type after each sum of the formulas above and after silu(..) * (..)
 * Layout   rows of x, logits, bits and the tables contiguous, the rest strided; workspace
 *          contiguous
 * Alias    x, logits and workspace overlap no other of these tensors, and must not overlap what
 *          the decoder holds
 * Memory   allocates nothing; reads each weight once per 256 rows, as fewstep_linear_run does, and
 *          the cache as fewstep_tree_attention does; workspace holds what lies between,
 *          fewstep_decoder_run_workspace_bytes
 * Order    CUDA: no kernel yet; CPU: done on return
 * Repeat   that of fewstep_linear_run and fewstep_tree_attention, whose bits these are: with
 *          deterministic = 1 a row has the same bits in every batch and on any number of threads
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also a slot beyond the cache, a
 *          page that is not in the table, a position outside of the tables, a token or row that
 *          there is not; FEWSTEP_UNSUPPORTED
 * Source   Touvron et al. 2023, "LLaMA", arXiv 2302.13971, sec. 2.2; norms of heads: Qwen3, arXiv
 *          2505.09388, sec. 2
 */
FEWSTEP_API fewstep_status fewstep_decoder_run(const fewstep_context* ctx,
                                               const fewstep_decoder* decoder,
                                               const fewstep_decoder_run_args* args);

/* Bytes of workspace that fewstep_decoder_chain needs for N rows of B requests, with C columns of
 * the page table (1 without one). */
FEWSTEP_API int64_t fewstep_decoder_chain_workspace_bytes(const fewstep_decoder* decoder, int64_t N,
                                                          int64_t B, int64_t C);

/* Arguments of fewstep_decoder_chain. */
typedef struct fewstep_decoder_chain_args {
  uint32_t size;                    /* sizeof(fewstep_decoder_chain_args) */
  const fewstep_tensor* tokens;     /* [N] i64 */
  const fewstep_tensor* indptr;     /* [B + 1] i32 */
  const fewstep_tensor* length;     /* [B] i32, tokens before the rows */
  const fewstep_tensor* page_table; /* [B, C] i32, or NULL: P = B */
  const fewstep_tensor* cos;        /* [S, R / 2] f32 */
  const fewstep_tensor* sin;        /* [S, R / 2] f32 */
  const fewstep_tensor* levels;     /* [B] i32, ids wanted of each request: 1 to K */
  double least;                     /* no further level where its chances sum to this or less */
  const fewstep_tensor* d2t;        /* [V] i32, tokens that columns stand for, or NULL: their own */
  const fewstep_tensor* ids;        /* [B, K] i32 */
  const fewstep_tensor* logp;       /* [B, K] f32 */
  const fewstep_tensor* workspace;  /* [X] i64 */
} fewstep_decoder_chain_args;

#define FEWSTEP_DECODER_CHAIN_ARGS_INIT \
  {sizeof(fewstep_decoder_chain_args),  \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   0.0,                                 \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL}

/* The chain of likeliest tokens behind each request's rows, as a draft model gives it: a pass of
 * the rows, then one of a row a request for each further token.
 *
 *   ids[b, 0] = argmax logits of the last row of b      logp[b, 0] = log softmax of it
 *   ids[b, k] = argmax logits after ids[b, k - 1]       logp[b, k] = logp[b, k - 1] + log softmax
 *
 * Ids are those of d2t where it is given; of equal logits the lower column. A request has levels[b]
 * ids, fewer where a row has no law (NaN or +inf) or where all end: before level k, when the exp of
 * logp[b, k - 1], summed over the requests that go on, is `least` or less. Behind its last id it
 * has -1 and -inf. Keys and values of the rows, and of all ids but a request's last, go to the
 * cache behind length[b]; `length` stays as it is.
 *
 * Shapes   tokens [N]  indptr [B + 1]  length, levels [B]  page_table [B, C]  cos, sin [S, R / 2]
 *          d2t [V]  ids, logp [B, K]  workspace [X]; R <= D; each request has a row
 * Types    logp, cos, sin: f32; tokens, workspace: i64; the others i32; arithmetic that of
 *          fewstep_decoder_run with logits of the decoder's type, and of fewstep_tree_expand
 * Layout   rows of ids, logp and the tables contiguous, the rest strided; workspace contiguous
 * Alias    ids, logp and workspace overlap no other of these tensors, and must not overlap what
 *          the decoder holds
 * Memory   allocates nothing; reads the weights once a level; workspace holds what lies between,
 *          fewstep_decoder_chain_workspace_bytes
 * Order    CUDA: no kernel yet; CPU: done on return
 * Repeat   the bits of fewstep_decoder_run and fewstep_tree_expand, level after level
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also a decoder without embedding
 *          or head, a slot beyond the cache, a page that is not in the table, a position outside of
 *          the tables, a token that there is not; FEWSTEP_UNSUPPORTED
 * Source   Leviathan et al. 2023, arXiv 2211.17192, alg. 1 (the draft loop, at temperature 0)
 */
FEWSTEP_API fewstep_status fewstep_decoder_chain(const fewstep_context* ctx,
                                                 const fewstep_decoder* decoder,
                                                 const fewstep_decoder_chain_args* args);

#ifdef __cplusplus
}
#endif

#endif
