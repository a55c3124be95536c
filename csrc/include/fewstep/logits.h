/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_LOGITS_H_
#define FEWSTEP_LOGITS_H_

#include "base.h"
#include "context.h"
#include "noise.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Why a row has no law, and so no token: id -1. */
typedef enum fewstep_logits_status {
  FEWSTEP_LOGITS_FINE = 0,
  FEWSTEP_LOGITS_NAN = 1,      /* a logit is NaN */
  FEWSTEP_LOGITS_INFINITE = 2, /* a logit is +infinity */
  FEWSTEP_LOGITS_EMPTY = 3     /* every token is masked or -infinity */
} fewstep_logits_status;

/* What becomes of a row's logits, in this order: divided by the temperature; the top_k largest
 * kept; of these, by probability, the fewest whose sum reaches top_p; those with min_p times the
 * largest probability; the fewest closest to the entropy whose sum reaches typical; those with
 * probability min(eta, sqrt(eta) exp(-entropy)). Each filter sees what the former left,
 * renormalised, and keeps at least one token; ties go to the lower id. The order is that of
 * transformers 5. A tensor, where given, holds a number for each row and stands for the number
 * before it. Sources: Fan et al. 2018, arXiv 1805.04833 (top-k); Holtzman et al. 2020, arXiv
 * 1904.09751 (top-p); Nguyen et al. 2024, arXiv 2407.01082 (min-p); Meister et al. 2023, arXiv
 * 2202.00666 (typical); Hewitt et al. 2022, arXiv 2210.15191 (eta).
 *
 * On CUDA nobody reads the tensors before: a number outside of its range is cut to it, and NaN
 * turns a filter off. Weights and their sums are those of the CPU bit for bit; logarithms, and the
 * sums by which filters are found in whole rows, are rounded otherwise. So another token than the
 * CPU's is drawn where a draw, or an edge of a filter, lies within the rounding of float64. */
typedef struct fewstep_logits_filters {
  float temperature;                  /* 0: the best token alone */
  int32_t top_k;                      /* 0: all */
  float top_p;                        /* (0, 1]; 1: all */
  float min_p;                        /* [0, 1]; 0: all */
  float typical;                      /* (0, 1]; 1: all */
  float eta;                          /* [0, 1); 0: all */
  const fewstep_tensor* temperatures; /* f32, as the others but top_ks: i32 */
  const fewstep_tensor* top_ks;
  const fewstep_tensor* top_ps;
  const fewstep_tensor* min_ps;
  const fewstep_tensor* typicals;
  const fewstep_tensor* etas;
} fewstep_logits_filters;

#define FEWSTEP_LOGITS_FILTERS_INIT \
  {1.0f, 0, 1.0f, 0.0f, 1.0f, 0.0f, NULL, NULL, NULL, NULL, NULL, NULL}

typedef struct fewstep_logits_sample_args {
  uint32_t size;   /* sizeof(fewstep_logits_sample_args) */
  uint32_t stream; /* fewstep_stream */
  uint32_t draw;   /* number of the draw at its position */
  fewstep_logits_filters filters;
  const fewstep_tensor* logits;
  const fewstep_tensor* bitmask; /* or NULL: all tokens are allowed */
  const fewstep_tensor* seeds;
  const fewstep_tensor* positions;
  const fewstep_tensor* out;
  const fewstep_tensor* logprobs; /* or NULL */
  const fewstep_tensor* status;   /* or NULL */
} fewstep_logits_sample_args;

#define FEWSTEP_LOGITS_SAMPLE_ARGS_INIT \
  {sizeof(fewstep_logits_sample_args),  \
   FEWSTEP_STREAM_SAMPLE,               \
   0u,                                  \
   FEWSTEP_LOGITS_FILTERS_INIT,         \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL}

/* Draws a token from each row of logits, filtered, without sorting a vocabulary.
 *
 *   out[r] = the first v with w(0) + .. + w(v) > u mass,  w(v) = exp((l(v) - max) / temperature)
 *   where v is kept, else 0; u the uniform number of (seeds[r], positions[r], stream, draw)
 *
 * Shapes   logits [R, V]  bitmask [R, ceil(V / 32)] or NULL  seeds [R]  positions [R]  out [R]
 *          logprobs [R] or NULL  status [R] or NULL
 * Types    logits: f32 f16 bf16; bitmask: i32 or u32, bit v % 32 of word v / 32 allows v; seeds:
 *          i64 or u64; positions, out, status: i32; logprobs: f32, of the filtered law. Weights in
 *          f32, sums in f64
 * Layout   rows contiguous, the first dimension strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads R * V elements once from memory, and again from the caches
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Random   Philox4x32-10, key (seed lo, seed hi), counter (0, draw, position, stream);
 *          u = (the upper 52 bits of words 1, 0 + 1/2) / 2^52
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; a row that has no
 *          law gives out -1, logprobs NaN and its fewstep_logits_status
 * Source   inversion: Devroye 1986, "Non-Uniform Random Variate Generation", II.2; filters: above
 */
FEWSTEP_API fewstep_status fewstep_logits_sample(const fewstep_context* ctx,
                                                 const fewstep_logits_sample_args* args);

/* What becomes of the logits of tokens that a history names. A tensor, where given, holds a number
 * for each row and stands for the number before it. */
typedef struct fewstep_logits_penalties {
  float repetition;                  /* above 0; 1: off */
  float presence;                    /* 0: off */
  float frequency;                   /* 0: off */
  const fewstep_tensor* repetitions; /* f32, as the others */
  const fewstep_tensor* presences;
  const fewstep_tensor* frequencies;
} fewstep_logits_penalties;

#define FEWSTEP_LOGITS_PENALTIES_INIT {1.0f, 0.0f, 0.0f, NULL, NULL, NULL}

typedef struct fewstep_logits_penalise_args {
  uint32_t size; /* sizeof(fewstep_logits_penalise_args) */
  fewstep_logits_penalties penalties;
  const fewstep_tensor* logits;
  const fewstep_tensor* tokens;      /* or NULL: no history */
  const fewstep_tensor* indptr;      /* with tokens */
  const fewstep_tensor* counts;      /* or NULL: each token counts once */
  const fewstep_tensor* bias_ids;    /* or NULL: no bias */
  const fewstep_tensor* bias_values; /* with bias_ids */
  const fewstep_tensor* bias_indptr; /* or NULL: the bias is every row's */
  const fewstep_tensor* out;
} fewstep_logits_penalise_args;

#define FEWSTEP_LOGITS_PENALISE_ARGS_INIT \
  {sizeof(fewstep_logits_penalise_args),  \
   FEWSTEP_LOGITS_PENALTIES_INIT,         \
   NULL,                                  \
   NULL,                                  \
   NULL,                                  \
   NULL,                                  \
   NULL,                                  \
   NULL,                                  \
   NULL,                                  \
   NULL}

/* Adds a sparse bias and penalises the tokens of a history; other logits stay, bit for bit.
 *
 *   x      = logits[r, v] + the sum of v's biases, in their order
 *   x      = x > 0 ? x / repetition : x * repetition     for v in the history
 *   out[r, v] = (x - frequency count(v)) - presence      the latter where count(v) > 0
 *
 * A token's count is how often row r's history names it, or the sum of its counts; one that counts
 * 0 times is penalised for repetition alone, as a prompt's tokens are.
 *
 * Shapes   logits [R, V]  tokens, counts [T]  indptr [R+1]  bias_ids, bias_values [M]
 *          bias_indptr [R+1]  out [R, V]; row r has tokens [indptr[r], indptr[r + 1])
 * Types    logits, out: f32 f16 bf16, the same; tokens, indptr, counts, bias_ids, bias_indptr: i32;
 *          bias_values: f32. Computed in f32, rounded once
 * Layout   rows contiguous, the first dimension strided
 * Alias    out may be logits, the same fewstep_tensor; any other overlap is
 *          FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; touches the named logits alone, and copies R * V elements where out
 *          is not logits
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; an id below 0 is
 *          passed over, one of V or more is an error; on CUDA nobody reads the lists before: such
 *          an id is passed over too, a count below 0 is 0, and a row that its indptr does not find
 *          in the list has no entries
 * Source   repetition: Keskar et al. 2019, arXiv 1909.05858, 4.1, for logits of either sign as in
 *          transformers; presence and frequency: OpenAI's API reference
 */
FEWSTEP_API fewstep_status fewstep_logits_penalise(const fewstep_context* ctx,
                                                   const fewstep_logits_penalise_args* args);

typedef struct fewstep_logits_top_k_args {
  uint32_t size;     /* sizeof(fewstep_logits_top_k_args) */
  int32_t normalise; /* 1: values are log-probabilities, 0: logits */
  const fewstep_tensor* logits;
  const fewstep_tensor* bitmask; /* or NULL: all tokens are allowed */
  const fewstep_tensor* ids;
  const fewstep_tensor* values;
  const fewstep_tensor* log_normaliser; /* or NULL */
  const fewstep_tensor* status;         /* or NULL */
} fewstep_logits_top_k_args;

#define FEWSTEP_LOGITS_TOP_K_ARGS_INIT \
  {sizeof(fewstep_logits_top_k_args), 0, NULL, NULL, NULL, NULL, NULL, NULL}

/* The K best tokens of each row, the largest logit first, of equal ones the lower id.
 *
 *   log_normaliser[r] = log(the sum of exp(l(v)))
 *   values[r, i]      = l(ids[r, i]), less log_normaliser[r] with normalise
 *
 * Shapes   logits [R, V]  bitmask [R, ceil(V / 32)] or NULL  ids, values [R, K], K in [1, 1024]
 *          log_normaliser [R] or NULL  status [R] or NULL
 * Types    logits: f32 f16 bf16; bitmask: i32 or u32, bit v % 32 of word v / 32 allows v; ids,
 *          status: i32; values, log_normaliser: f32, the sum in f64
 * Layout   rows contiguous, the first dimension strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads R * V elements once from memory, and where a sum is asked for
 *          again from the caches
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; where fewer than K
 *          tokens are above -infinity, ids -1 and values -infinity follow; a row that has no law
 *          gives ids -1, NaN and its fewstep_logits_status
 * Source   selection: Hoare 1961, "Algorithm 65: find", of what a rising threshold lets through
 */
FEWSTEP_API fewstep_status fewstep_logits_top_k(const fewstep_context* ctx,
                                                const fewstep_logits_top_k_args* args);

typedef struct fewstep_logits_gumbel_top_k_args {
  uint32_t size;   /* sizeof(fewstep_logits_gumbel_top_k_args) */
  uint32_t stream; /* fewstep_stream */
  uint32_t draw;   /* number of the draw at its position */
  fewstep_logits_filters filters;
  const fewstep_tensor* logits;
  const fewstep_tensor* bitmask; /* or NULL: all tokens are allowed */
  const fewstep_tensor* seeds;
  const fewstep_tensor* positions;
  const fewstep_tensor* ids;
  const fewstep_tensor* perturbed;
  const fewstep_tensor* logprobs; /* or NULL */
  const fewstep_tensor* status;   /* or NULL */
} fewstep_logits_gumbel_top_k_args;

#define FEWSTEP_LOGITS_GUMBEL_TOP_K_ARGS_INIT \
  {sizeof(fewstep_logits_gumbel_top_k_args),  \
   FEWSTEP_STREAM_SUBSET,                     \
   0u,                                        \
   FEWSTEP_LOGITS_FILTERS_INIT,               \
   NULL,                                      \
   NULL,                                      \
   NULL,                                      \
   NULL,                                      \
   NULL,                                      \
   NULL,                                      \
   NULL,                                      \
   NULL}

/* Draws K tokens without replacement from each row of logits, filtered, in the order drawn.
 *
 *   perturbed(v) = log p(v) - log(-log(u(v)))     p the filtered law
 *   ids[r]       = the K tokens of greatest perturbed(v), descending
 *
 * Shapes   logits [R, V]  bitmask [R, ceil(V / 32)] or NULL  seeds [R]  positions [R]
 *          ids, perturbed [R, K], K in [1, 1024]  logprobs [R, K] or NULL  status [R] or NULL
 * Types    logits: f32 f16 bf16; bitmask: i32 or u32, bit v % 32 of word v / 32 allows v; seeds:
 *          i64 or u64; positions, ids, status: i32; perturbed, logprobs: f32, decided in f64
 * Layout   rows contiguous, the first dimension strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads R * V elements once from memory, and again from the caches
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Random   Philox4x32-10, key (seed lo, seed hi), counter (v / 4, draw, position, stream);
 *          u(v) = (word v % 4 + 1/2) / 2^32
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; where the law has
 *          fewer than K tokens, ids -1 and the others -infinity follow; a row that has no law gives
 *          ids -1, NaN and its fewstep_logits_status
 * Source   Kool, van Hoof, Welling 2019, "Stochastic beams and where to find them", arXiv
 *          1903.06059, 2.3; filters: above
 */
FEWSTEP_API fewstep_status fewstep_logits_gumbel_top_k(
    const fewstep_context* ctx, const fewstep_logits_gumbel_top_k_args* args);

typedef struct fewstep_logits_renorm_args {
  uint32_t size; /* sizeof(fewstep_logits_renorm_args) */
  fewstep_logits_filters filters;
  const fewstep_tensor* logits;
  const fewstep_tensor* bitmask;       /* or NULL: all tokens are allowed */
  const fewstep_tensor* out;           /* or NULL: no dense law */
  const fewstep_tensor* ids;           /* or NULL: no list */
  const fewstep_tensor* probabilities; /* with ids */
  const fewstep_tensor* count;         /* with ids */
  const fewstep_tensor* status;        /* or NULL */
} fewstep_logits_renorm_args;

#define FEWSTEP_LOGITS_RENORM_ARGS_INIT \
  {sizeof(fewstep_logits_renorm_args),  \
   FEWSTEP_LOGITS_FILTERS_INIT,         \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL,                                \
   NULL}

/* The law that fewstep_logits_sample draws from: dense, or as a list of its tokens.
 *
 *   p(v) = w(v) / (the sum of w), w(v) = exp((l(v) - max) / temperature) where v is kept, else 0
 *   out[r, v] = p(v);  ids[r]: the likeliest tokens, of equal ones the lower id first;
 *   probabilities[r, i] = p(ids[r, i]);  count[r]: of all tokens with p(v) > 0
 *
 * Shapes   logits [R, V]  bitmask [R, ceil(V / 32)] or NULL  out [R, V] or NULL
 *          ids, probabilities [R, K], count [R], K in [1, 1024], or all three NULL
 *          status [R] or NULL
 * Types    logits: f32 f16 bf16; bitmask: i32 or u32, bit v % 32 of word v / 32 allows v; ids,
 *          count, status: i32; out, probabilities: f32. Weights in f32, sums in f64
 * Layout   rows contiguous, the first dimension strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads R * V elements once from memory, and again from the caches;
 *          writes R * V elements where out is given
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; behind a list
 *          shorter than K, ids are -1 and probabilities 0; of one longer than K, which count tells,
 *          the first K are there; a row that has no law gives NaN, ids -1, count 0 and its
 *          fewstep_logits_status
 * Source   filters: above
 */
FEWSTEP_API fewstep_status fewstep_logits_renorm(const fewstep_context* ctx,
                                                 const fewstep_logits_renorm_args* args);

typedef struct fewstep_logits_sample_arithmetic_args {
  uint32_t size; /* sizeof(fewstep_logits_sample_arithmetic_args) */
  fewstep_logits_filters filters;
  const fewstep_tensor* logits;
  const fewstep_tensor* bitmask; /* or NULL: all tokens are allowed */
  const fewstep_tensor* codes;
  const fewstep_tensor* out;
  const fewstep_tensor* next_codes;
  const fewstep_tensor* logprobs; /* or NULL */
  const fewstep_tensor* status;   /* or NULL */
} fewstep_logits_sample_arithmetic_args;

#define FEWSTEP_LOGITS_SAMPLE_ARITHMETIC_ARGS_INIT \
  {sizeof(fewstep_logits_sample_arithmetic_args),  \
   FEWSTEP_LOGITS_FILTERS_INIT,                    \
   NULL,                                           \
   NULL,                                           \
   NULL,                                           \
   NULL,                                           \
   NULL,                                           \
   NULL,                                           \
   NULL}

/* Decodes a token from each row's code: the sequences of evenly spaced codes are spread evenly over
 * all sequences, so they differ, and each has the law that plain sampling has.
 *
 *   W(v) = floor(2^(62 - b) w(v)), b the bits of V; M: the sum of W; C(v): of those before v
 *   out[r] = the v with C(v) <= x < C(v) + W(v),   x = codes[r] M / 2^64, a fraction
 *   next_codes[r] = floor(2^64 (x - C(v)) / W(v))
 *
 * Shapes   logits [R, V]  bitmask [R, ceil(V / 32)] or NULL  codes, next_codes [R]  out [R]
 *          logprobs [R] or NULL  status [R] or NULL
 * Types    logits: f32 f16 bf16; bitmask: i32 or u32, bit v % 32 of word v / 32 allows v; codes,
 *          next_codes: i64 or u64, the number code / 2^64 of [0, 1); out, status: i32; logprobs:
 *          f32, of the filtered law. Integers alone once weights are f32
 * Layout   rows contiguous, the first dimension strided
 * Alias    next_codes may be codes, the same fewstep_tensor; any other overlap is
 *          FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads R * V elements once from memory, and again from the caches
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; a row that has no
 *          law gives out -1, logprobs NaN, its code as it was and its fewstep_logits_status
 * Source   Vilnis et al. 2023, "Arithmetic sampling: parallel diverse decoding for large language
 *          models", arXiv 2210.15458, 3; filters: above
 */
FEWSTEP_API fewstep_status fewstep_logits_sample_arithmetic(
    const fewstep_context* ctx, const fewstep_logits_sample_arithmetic_args* args);

#ifdef __cplusplus
}
#endif

#endif
