/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_NOISE_H_
#define FEWSTEP_NOISE_H_

#include "base.h"
#include "context.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Streams keep draws for different purposes apart; a caller's own start at FEWSTEP_STREAM_USER. */
typedef enum fewstep_stream {
  FEWSTEP_STREAM_STEP = 0,     /* a solver's noise */
  FEWSTEP_STREAM_START = 1,    /* the first sample of a trajectory */
  FEWSTEP_STREAM_KNOWN = 2,    /* noise on the known image of a masked step */
  FEWSTEP_STREAM_BROWNIAN = 3, /* the nodes of a Brownian tree */
  FEWSTEP_STREAM_DRAFT = 4,    /* tokens that a drafter draws */
  FEWSTEP_STREAM_ACCEPT = 5,   /* whether a draft token is accepted */
  FEWSTEP_STREAM_RESIDUAL = 6, /* the token in place of a rejected one */
  FEWSTEP_STREAM_BONUS = 7,    /* the token after the last accepted one */
  FEWSTEP_STREAM_SAMPLE = 8,   /* plain sampling */
  FEWSTEP_STREAM_SUBSET = 9,   /* tokens drawn without replacement */
  FEWSTEP_STREAM_USER = 16
} fewstep_stream;

typedef struct fewstep_noise_normal_params {
  uint32_t size;   /* sizeof(fewstep_noise_normal_params) */
  uint32_t step;   /* draw number within the stream */
  uint32_t stream; /* fewstep_stream, or a caller's own */
  float scale;     /* standard deviation, finite */
} fewstep_noise_normal_params;

#define FEWSTEP_NOISE_NORMAL_PARAMS_INIT {sizeof(fewstep_noise_normal_params), 0u, 0u, 1.0f}

/* Fills each sample with normal variates that depend on its seed alone.
 *
 *   out[b, n] = scale * z(seeds[b], stream, step, n)
 *
 * Shapes   seeds [B]  out [B, N...]
 * Types    seeds: i64 or u64 (the same 64 bits); out: f32 f16 bf16
 * Layout   dimensions after the first contiguous, batch strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; writes B * N elements
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across devices, ISAs, thread counts and batch compositions, bit for bit
 * Random   Philox4x32-10, key (seed lo, seed hi), counter (n / 4 lo, n / 4 hi, step, stream);
 *          words (w0, w1) give normals 0 and 1 of the block by Box-Muller, (w2, w3) normals 2 and 3
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR
 * Source   Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; Box, Muller 1958
 */
FEWSTEP_API fewstep_status fewstep_noise_normal(const fewstep_context* ctx,
                                                const fewstep_tensor* seeds,
                                                const fewstep_noise_normal_params* params,
                                                const fewstep_tensor* out);

typedef struct fewstep_noise_brownian_params {
  uint32_t size;       /* sizeof(fewstep_noise_brownian_params) */
  uint32_t stream;     /* fewstep_stream, or a caller's own: one tree each */
  int32_t depth;       /* levels of the tree, 1 to 30: times are rounded to multiples of
                          (t_max - t_min) / 2^depth */
  int32_t normalized;  /* 1: divided by the square root of the (rounded) interval */
  double t_min, t_max; /* where the tree begins and ends */
  double start, stop;  /* t0 and t1 of every sample where these are NULL */
  float scale;         /* factor on the result, finite */
} fewstep_noise_brownian_params;

#define FEWSTEP_NOISE_BROWNIAN_PARAMS_INIT \
  {sizeof(fewstep_noise_brownian_params), FEWSTEP_STREAM_BROWNIAN, 20, 0, 0.0, 1.0, 0.0, 1.0, 1.0f}

/* Increments of a Brownian motion that depends on a sample's seed alone, over any interval.
 *
 *   out[b, n] = scale * (W(t1[b]) - W(t0[b])),  W of (seeds[b], stream, n), W(t_min) = 0
 *   W(t) = sum over nodes k of the dyadic tree of hat_k(t) xi_k; nothing is stored, so increments
 *   over the parts of an interval add up to that of the whole, whatever the order they are asked
 *   in, up to the rounding of sums in f32. t0 may lie behind t1: the increment is negative.
 *
 * Shapes   seeds [B]  t0, t1 [B] or NULL  out [B, N...]
 * Types    seeds: i64 or u64 (the same 64 bits); t0, t1: f64; out: f32 f16 bf16; sums in f32 with
 *          coefficients rounded once from f64
 * Layout   dimensions after the first contiguous, batch strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; writes B * N elements
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Random   the normals of fewstep_noise_normal at (seed, stream, step = node): 0 is the root,
 *          whose hat is (t - t_min) / sqrt(t_max - t_min); 2^l + k halves interval k of level l
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; on CUDA times in
 *          t0 and t1 outside of the tree are its ends
 * Source   Levy 1948, Ciesielski 1961 (the series); Li et al. 2020, arXiv 2001.01328, section 4
 *          (virtual Brownian tree)
 */
FEWSTEP_API fewstep_status fewstep_noise_brownian(const fewstep_context* ctx,
                                                  const fewstep_tensor* seeds,
                                                  const fewstep_tensor* t0,
                                                  const fewstep_tensor* t1,
                                                  const fewstep_noise_brownian_params* params,
                                                  const fewstep_tensor* out);

#ifdef __cplusplus
}
#endif

#endif
