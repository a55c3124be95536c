/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_SOLVER_H_
#define FEWSTEP_SOLVER_H_

#include "base.h"
#include "context.h"
#include "plan.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tensors of fewstep_solver_step. NULL where the rows in use do not need one. */
typedef struct fewstep_solver_step_args {
  uint32_t size; /* sizeof(fewstep_solver_step_args) */
  int32_t row;   /* row of every sample when `rows` is NULL */
  int32_t n_slots;
  int32_t n_models;
  const fewstep_tensor* rows;                         /* [B] i32, on the op's device */
  const fewstep_tensor* slots[FEWSTEP_MAX_SLOTS];     /* [B, N...] f32, read and written */
  const fewstep_tensor* models[FEWSTEP_MAX_GUIDANCE]; /* [mB, N...]: m model outputs each */
  const fewstep_tensor* seeds;                        /* [B] i64 or u64 */
  const fewstep_tensor* guidance;    /* [B, G] f32: weights instead of the plan's */
  const fewstep_tensor* known;       /* [B, N...] f32 */
  const fewstep_tensor* mask;        /* [B, N...] or [1, N...] f32 */
  const fewstep_tensor* model_input; /* [cB, N...]: written c times */
  const fewstep_tensor* clip;        /* [B, 2] f32: limit and factor instead of the plan's clip */
} fewstep_solver_step_args;

#define FEWSTEP_SOLVER_STEP_ARGS_INIT \
  {sizeof(fewstep_solver_step_args),  \
   0,                                 \
   0,                                 \
   0,                                 \
   NULL,                              \
   {NULL},                            \
   {NULL},                            \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL}

/* Advances every sample by one row of a plan in one pass over memory.
 *
 *   g = sum_j gamma_j M_j,  h = clamp(p * slot0 + q * g),  output_r = sum_k a_rk input_k + noise
 *   (fewstep_plan_row has the whole formula). Sample b follows row rows[b]; a negative row leaves
 *   the sample as it is. With `clip`, h = clip[b, 1] * clamp(p * slot0 + q * g, -clip[b, 0],
 *   clip[b, 0]) in rows that clamp: dynamic thresholding.
 *
 * Shapes   rows [B]  slots [B, N...] each  models [mB, N...]  seeds [B]  guidance [B, G]
 *          known [B, N...]  mask [B, N...] or [1, N...]  model_input [cB, N...]  clip [B, 2];
 *          0 <= m, c
 *          several models, or one of m * B rows (sample b of output j at row j * B + b), fill
 *          M_0 .. M_{G-1} in order
 * Types    rows: i32; slots, known, mask, guidance, clip: f32; seeds: i64 or u64;
 *          models, model_input: each one of f32 f16 bf16; arithmetic f32 with fma, coefficients
 *          rounded once from f64
 * Layout   dimensions after the first contiguous, batch strided
 * Alias    slots are updated in place; any overlap between tensors is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads each input once, writes each output once; an output to
 *          model_input is skipped when that is NULL
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Random   the normals of fewstep_noise_normal at (seed, noise_stream[z], noise_step[z])
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; on CUDA `rows`
 *          and `guidance` need fewstep_plan_prepare, and a row past the table, or one of which
 *          a tensor was not given, leaves its sample as it is
 * Source   the rows' solvers: csrc/solver/README.md
 */
FEWSTEP_API fewstep_status fewstep_solver_step(const fewstep_context* ctx, const fewstep_plan* plan,
                                               const fewstep_solver_step_args* args);

/* Tensors of fewstep_solver_gram. */
typedef struct fewstep_solver_gram_args {
  uint32_t size; /* sizeof(fewstep_solver_gram_args) */
  int32_t n_arrays;
  const fewstep_tensor* arrays[4]; /* [mB, N...]: m arrays each */
  const fewstep_tensor* out;       /* [B, K + 1, K + 1] f64 */
  const fewstep_tensor* workspace; /* [W] i64 */
} fewstep_solver_gram_args;

#define FEWSTEP_SOLVER_GRAM_ARGS_INIT {sizeof(fewstep_solver_gram_args), 0, {NULL}, NULL, NULL}

/* Bytes of workspace that fewstep_solver_gram needs for K arrays. */
FEWSTEP_API int64_t fewstep_solver_gram_workspace_bytes(int64_t B, int64_t N, int32_t K);

/* Sums, squared norms and inner products of up to 4 arrays per sample, in one pass over memory.
 *
 *   out[b, j, k] = sum_n u_j[b, n] u_k[b, n]   with u_0 = 1 and u_1 .. u_K the arrays
 *
 * Shapes   arrays [mB, N...] each  out [B, K + 1, K + 1]  workspace [W];  1 <= K <= 4
 *          several arrays, or one of m * B rows (sample b of array j at row j * B + b), are
 *          u_1 .. u_K in order
 * Types    arrays: each one of f32 f16 bf16; out: f64; workspace: i64; every product is exact in
 *          f64 and every sum is taken in it, because guidance subtracts entries that nearly cancel
 * Layout   dimensions after the first contiguous, batch strided; workspace contiguous
 * Alias    out and workspace overlap nothing; arrays may overlap each other
 * Memory   allocates nothing; reads each array once; workspace holds the pieces' sums,
 *          fewstep_solver_gram_workspace_bytes
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across devices, ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR
 * Source   pairwise summation: Higham 1993, "The accuracy of floating point summation"; the order
 *          is in csrc/solver/strands.h
 */
FEWSTEP_API fewstep_status fewstep_solver_gram(const fewstep_context* ctx,
                                               const fewstep_solver_gram_args* args);

/* Arguments of fewstep_solver_quantile. */
typedef struct fewstep_solver_quantile_args {
  uint32_t size;                   /* sizeof(fewstep_solver_quantile_args) */
  int32_t magnitude;               /* 1: the quantile of |x| */
  double q;                        /* 0 to 1 */
  const fewstep_tensor* x;         /* [B, N...] */
  const fewstep_tensor* out;       /* [B] f32 */
  const fewstep_tensor* workspace; /* [W] i64 */
} fewstep_solver_quantile_args;

#define FEWSTEP_SOLVER_QUANTILE_ARGS_INIT \
  {sizeof(fewstep_solver_quantile_args), 1, 0.5, NULL, NULL, NULL}

/* Bytes of workspace that fewstep_solver_quantile needs. */
FEWSTEP_API int64_t fewstep_solver_quantile_workspace_bytes(int64_t B, int64_t N);

/* The exact q-quantile of each sample, or of its magnitudes, without sorting.
 *
 *   out[b] = y_k + f (y_{k+1} - y_k)   with y the elements in ascending order, k + f = q (N - 1),
 *                                      k whole and 0 <= f < 1
 *
 * A sample that holds a NaN has the quantile NaN.
 *
 * Shapes   x [B, N...]  out [B]  workspace [W];  1 <= N < 2^32
 * Types    x: f32 f16 bf16; out: f32; workspace: i64; position and interpolation in f64, rounded
 *          once
 * Layout   dimensions after the first contiguous, batch strided; workspace contiguous
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads x three times; workspace holds histograms,
 *          fewstep_solver_quantile_workspace_bytes
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across devices, ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR
 * Source   radix selection on the bits of a float: Alabi, Blanchard, Gordon, Steinbach 2012, "Fast
 *          k-selection algorithms for graphics processing units"; definition 7 of Hyndman, Fan 1996
 */
FEWSTEP_API fewstep_status fewstep_solver_quantile(const fewstep_context* ctx,
                                                   const fewstep_solver_quantile_args* args);

/* How the tolerances of fewstep_solver_error_norm combine. */
typedef enum fewstep_tolerance {
  FEWSTEP_TOLERANCE_SUM = 0, /* atol + rtol * size */
  FEWSTEP_TOLERANCE_MAX = 1  /* max(atol, rtol * size) */
} fewstep_tolerance;

/* Arguments of fewstep_solver_error_norm. */
typedef struct fewstep_solver_error_norm_args {
  uint32_t size;                   /* sizeof(fewstep_solver_error_norm_args) */
  int32_t tolerance;               /* fewstep_tolerance */
  double atol, rtol;               /* atol > 0, rtol >= 0 */
  const fewstep_tensor* error;     /* [B, N...] */
  const fewstep_tensor* minus;     /* [B, N...], or NULL for none */
  const fewstep_tensor* before;    /* [B, N...] */
  const fewstep_tensor* after;     /* [B, N...] */
  const fewstep_tensor* out;       /* [B] f64 */
  const fewstep_tensor* workspace; /* [W] i64 */
} fewstep_solver_error_norm_args;

#define FEWSTEP_SOLVER_ERROR_NORM_ARGS_INIT \
  {sizeof(fewstep_solver_error_norm_args),  \
   FEWSTEP_TOLERANCE_SUM,                   \
   1e-6,                                    \
   1e-3,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL,                                    \
   NULL}

/* Bytes of workspace that fewstep_solver_error_norm needs. */
FEWSTEP_API int64_t fewstep_solver_error_norm_workspace_bytes(int64_t B, int64_t N);

/* The scaled error of an adaptive step, per sample; at most 1 where the step may be accepted.
 *
 *   out[b] = sqrt(mean_n(((error - minus) / s)^2)),  s = atol + rtol max(|before|, |after|), or the
 *            maximum of the two terms
 *
 * NaN where an element of any input is not finite; 0 for samples without elements.
 *
 * Shapes   error, minus, before, after [B, N...] each  out [B]  workspace [W]
 * Types    error, minus, before, after: each one of f32 f16 bf16; out: f64; workspace: i64;
 *          arithmetic f64
 * Layout   dimensions after the first contiguous, batch strided; workspace contiguous
 * Alias    out and workspace overlap nothing; inputs may overlap each other
 * Memory   allocates nothing; reads each input once; workspace holds the pieces' sums,
 *          fewstep_solver_error_norm_workspace_bytes
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across devices, ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR
 * Source   Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4, eq. 4.11;
 *          the maximum: Jolicoeur-Martineau et al. 2021, "Gotta go fast", arXiv 2105.14080
 */
FEWSTEP_API fewstep_status fewstep_solver_error_norm(const fewstep_context* ctx,
                                                     const fewstep_solver_error_norm_args* args);

#ifdef __cplusplus
}
#endif

#endif
