/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_LINEAR_H_
#define FEWSTEP_LINEAR_H_

#include "base.h"
#include "context.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How packed weights are stored. Quantised kinds are symmetric:
 *
 *   int8   w = s q per output,               s = max |w| / 127, q = round(w / s) in [-127, 127]
 *   int4   w = s q per output and group of   s = m / -8 rounded to bfloat16, m the weight of
 *          32 or 64 inputs                   largest magnitude; q = round(w / s) in [-8, 7]
 */
typedef enum fewstep_linear_kind {
  FEWSTEP_LINEAR_F32 = 0,
  FEWSTEP_LINEAR_F16 = 1,
  FEWSTEP_LINEAR_BF16 = 2,
  FEWSTEP_LINEAR_INT8 = 3,
  FEWSTEP_LINEAR_INT4 = 4
} fewstep_linear_kind;

/* Bytes of a packed weight [O, I]: a multiple of 32 outputs, and of 2 inputs (bf16, int8) or a
 * group (int4). 0 for arguments that fewstep_linear_pack refuses. `group` counts for int4 alone. */
FEWSTEP_API int64_t fewstep_linear_packed_bytes(int64_t O, int64_t I, int32_t kind, int32_t group);

/* Arguments of fewstep_linear_pack. */
typedef struct fewstep_linear_pack_args {
  uint32_t size;                /* sizeof(fewstep_linear_pack_args) */
  int32_t kind;                 /* fewstep_linear_kind */
  int32_t group;                /* 32 or 64 for int4 */
  const fewstep_tensor* weight; /* [O, I] */
  const fewstep_tensor* out;    /* [P] u8 */
} fewstep_linear_pack_args;

#define FEWSTEP_LINEAR_PACK_ARGS_INIT \
  {sizeof(fewstep_linear_pack_args), FEWSTEP_LINEAR_F32, 32, NULL, NULL}

/* Packs a weight for fewstep_linear_run.
 *
 * Shapes   weight [O, I]  out [P];  1 <= O, I;  P = fewstep_linear_packed_bytes(O, I, kind, group)
 * Types    weight: f32 f16 bf16; out: u8; of the same type a weight keeps its bits, else it is
 *          rounded once; quantisation in f32
 * Layout   rows of weight contiguous, the rest strided; out contiguous, best at a multiple of 64
 *          bytes; what it holds is documented in csrc/linear/layout.h and is the same on every ISA
 *          and on CUDA
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads weight once, quantising twice
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs and thread counts, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; a weight that is
 *          not finite makes the quantised outputs it belongs to NaN or infinite
 * Source   panels: Goto, van de Geijn 2008, "Anatomy of high-performance matrix multiplication"
 */
FEWSTEP_API fewstep_status fewstep_linear_pack(const fewstep_context* ctx,
                                               const fewstep_linear_pack_args* args);

/* Arguments of fewstep_linear_unpack. */
typedef struct fewstep_linear_unpack_args {
  uint32_t size;                /* sizeof(fewstep_linear_unpack_args) */
  int32_t kind;                 /* fewstep_linear_kind */
  int32_t group;                /* 32 or 64 for int4 */
  const fewstep_tensor* packed; /* [P] u8 */
  const fewstep_tensor* out;    /* [O, I] */
} fewstep_linear_unpack_args;

#define FEWSTEP_LINEAR_UNPACK_ARGS_INIT \
  {sizeof(fewstep_linear_unpack_args), FEWSTEP_LINEAR_F32, 32, NULL, NULL}

/* The weight that was packed, or what stands for it where the kind is quantised.
 *
 * Shapes   packed [P]  out [O, I];  1 <= O, I;  P = fewstep_linear_packed_bytes(O, I, kind, group)
 * Types    packed: u8; out: the kind's type; of quantised kinds f32 f16 bf16, rounded once
 * Layout   packed contiguous; rows of out contiguous, the rest strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads packed once
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs and thread counts, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR
 * Source   the inverse of fewstep_linear_pack
 */
FEWSTEP_API fewstep_status fewstep_linear_unpack(const fewstep_context* ctx,
                                                 const fewstep_linear_unpack_args* args);

/* Bytes of workspace that fewstep_linear_run needs for M rows. */
FEWSTEP_API int64_t fewstep_linear_run_workspace_bytes(int64_t M, int64_t I, int32_t kind,
                                                       int32_t group);

/* Arguments of fewstep_linear_run. */
typedef struct fewstep_linear_run_args {
  uint32_t size;                   /* sizeof(fewstep_linear_run_args) */
  int32_t kind;                    /* fewstep_linear_kind, of packed and up */
  int32_t group;                   /* 32 or 64 for int4 */
  double norm_eps;                 /* 0 or more; used with norm alone */
  const fewstep_tensor* x;         /* [M, I] */
  const fewstep_tensor* packed;    /* [P] u8 */
  const fewstep_tensor* up;        /* [P] u8, or NULL */
  const fewstep_tensor* bias;      /* [O], or NULL */
  const fewstep_tensor* residual;  /* [M, O], or NULL */
  const fewstep_tensor* norm;      /* [I], or NULL */
  const fewstep_tensor* out;       /* [M, O] */
  const fewstep_tensor* workspace; /* [W] i64 */
} fewstep_linear_run_args;

#define FEWSTEP_LINEAR_RUN_ARGS_INIT \
  {sizeof(fewstep_linear_run_args),  \
   FEWSTEP_LINEAR_F32,               \
   32,                               \
   1e-6,                             \
   NULL,                             \
   NULL,                             \
   NULL,                             \
   NULL,                             \
   NULL,                             \
   NULL,                             \
   NULL,                             \
   NULL}

/* A linear layer for the few rows of decoding and verification, its neighbours fused in.
 *
 *   z = x W^T + bias,  y = silu(z) * (x Up^T) with up, else z,  out = y + residual
 *   with norm, x is x / sqrt(mean(x^2) + norm_eps) * norm of each row first
 *
 * Shapes   x [M, I]  packed [P]  up [P]  bias [O]  residual [M, O]  norm [I]  out [M, O]
 *          workspace [W];  0 <= M, 1 <= O, I;  P = fewstep_linear_packed_bytes(O, I, kind, group)
 * Types    x, bias, residual, norm, out: each one of f32 f16 bf16; packed, up: u8; workspace: i64;
 *          sums, gate and residual in f32, rounded to out's type once. Where x is of the kind's
 *          16-bit type, so is the normed x. With quantised kinds, x is quantised to 16 bits in
 *          blocks of 512 inputs, rounded to multiples of max |x| / 32639 of the block, and products
 *          with the weights' integers are summed exactly
 * Layout   rows contiguous, the first dimension strided; packed, up, bias, norm and workspace
 *          contiguous; on CUDA packed and up at multiples of 16 bytes, and I below 2^29
 * Alias    out may be residual; any other overlap with out or workspace is
 *          FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads packed and up from memory once for up to 70 rows, x twice;
 *          on CUDA once for up to 32 rows (8 in f32, 16 quantised), from the second cache for
 *          more, in one launch, or two where x is to be normalised, quantised or converted;
 *          workspace holds the prepared x, fewstep_linear_run_workspace_bytes; 18 KiB of stack
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   a row's result depends on nothing but the row: not on M, thread counts or batch
 *          composition, bit for bit, so that verification equals decoding. Across ISAs too, but
 *          for avx512_bf16 with x and kind bf16, which takes subnormal numbers for zeros, and for
 *          CUDA with x of the kind's 16-bit type, whose products are tensor cores': their sums have
 *          an order of their own, in eight strands of units of 32 inputs
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; a row of x that is
 *          not finite has an output that is not
 * Source   blocks: Goto, van de Geijn 2008; SwiGLU: Shazeer 2020, arXiv 2002.05202, eq. 5; RMSNorm:
 *          Zhang, Sennrich 2019, arXiv 1910.07467, eq. 4
 */
FEWSTEP_API fewstep_status fewstep_linear_run(const fewstep_context* ctx,
                                              const fewstep_linear_run_args* args);

#ifdef __cplusplus
}
#endif

#endif
