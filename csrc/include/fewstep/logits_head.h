/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_LOGITS_HEAD_H_
#define FEWSTEP_LOGITS_HEAD_H_

#include "base.h"
#include "context.h"
#include "linear.h"
#include "logits.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of workspace that fewstep_logits_head_top_k needs for M rows, O packed rows of I inputs and
 * lists of K tokens. */
FEWSTEP_API int64_t fewstep_logits_head_top_k_workspace_bytes(int64_t M, int64_t O, int64_t I,
                                                              int32_t kind, int32_t group,
                                                              int64_t K);

typedef struct fewstep_logits_head_top_k_args {
  uint32_t size;                /* sizeof(fewstep_logits_head_top_k_args) */
  int32_t kind;                 /* fewstep_linear_kind, of packed */
  int32_t group;                /* 32 or 64 for int4 */
  int32_t normalise;            /* 1: values are log-probabilities, 0: logits */
  int64_t outputs;              /* O */
  double norm_eps;              /* 0 or more; used with norm alone */
  const fewstep_tensor* x;      /* [M, I] */
  const fewstep_tensor* packed; /* [P] u8 */
  const fewstep_tensor* bias;   /* [O], or NULL */
  const fewstep_tensor* norm;   /* [I], or NULL */
  const fewstep_tensor* tokens; /* [O], or NULL: packed row v is token v */
  const fewstep_tensor* ids;
  const fewstep_tensor* values;
  const fewstep_tensor* log_normaliser; /* or NULL */
  const fewstep_tensor* status;         /* or NULL */
  const fewstep_tensor* workspace;
} fewstep_logits_head_top_k_args;

#define FEWSTEP_LOGITS_HEAD_TOP_K_ARGS_INIT \
  {sizeof(fewstep_logits_head_top_k_args),  \
   FEWSTEP_LINEAR_F32,                      \
   32,                                      \
   0,                                       \
   0,                                       \
   1e-6,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL}

/* The K best tokens of a language model's head, whose logits are never in memory as a whole.
 *
 *   l = x W^T + bias, with norm of the normalised x, as fewstep_linear_run in f32; then as
 *   fewstep_logits_top_k. W may hold the rows of a subset of the tokens (FR-Spec): tokens says
 * which
 *
 * Shapes   x [M, I]  packed [P]  bias, tokens [O]  norm [I]  ids, values [M, K], K in [1, 1024]
 *          log_normaliser, status [M] or NULL  workspace [W];  0 <= M, 1 <= O, I;
 *          P = fewstep_linear_packed_bytes(O, I, kind, group)
 * Types    x, bias, norm: each one of f32 f16 bf16; packed: u8; tokens, ids, status: i32; values,
 *          log_normaliser: f32; workspace: i64
 * Layout   rows contiguous, the first dimension strided; packed, bias, norm, workspace contiguous;
 *          on CUDA as in fewstep_linear_run
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads packed from memory once for up to 70 rows, on CUDA for up to 8
 *          or 16, and from the second cache for more, in two launches or three; workspace holds the
 *          prepared x and K tokens for each 2048 packed rows, on CUDA for each 512,
 *          fewstep_logits_head_top_k_workspace_bytes; 36 KiB of stack
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   a row's result depends on nothing but the row: not on M, thread counts or batch
 *          composition, bit for bit. Across ISAs too, but for avx512_bf16 as in fewstep_linear_run;
 *          on CUDA logits as there, and the last bits of log_normaliser
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; rows without K
 *          tokens or without a law as in fewstep_logits_top_k; ties go to the lower token
 * Source   subset of the vocabulary: Zhao et al. 2025, FR-Spec, arXiv 2502.14856
 */
FEWSTEP_API fewstep_status fewstep_logits_head_top_k(const fewstep_context* ctx,
                                                     const fewstep_logits_head_top_k_args* args);

#ifdef __cplusplus
}
#endif

#endif
