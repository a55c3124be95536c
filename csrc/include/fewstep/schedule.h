/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_SCHEDULE_H_
#define FEWSTEP_SCHEDULE_H_

#include <math.h>

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x = alpha * x0 + sigma * noise. VP: alpha^2 + sigma^2 = 1; VE: alpha = 1;
 * FLOW: alpha + sigma = 1. */
typedef enum fewstep_process {
  FEWSTEP_PROCESS_VP = 0,
  FEWSTEP_PROCESS_VE = 1,
  FEWSTEP_PROCESS_FLOW = 2
} fewstep_process;

/* A schedule: steps + 1 nodes from noise to data, in float64; immutable. */
typedef struct fewstep_schedule fewstep_schedule;

/* What is read depends on the name; fields that a name does not read are ignored.
 *
 *   name             reads
 *   "vp_linear"      beta_start, beta_end, train_steps, spacing   betas linear (DDPM); VP
 *   "scaled_linear"  the same                                     sqrt(beta) linear; VP
 *   "cosine"         train_steps, spacing                         Nichol, Dhariwal 2021; VP
 *   "karras"         sigma_min, sigma_max, rho, process           EDM, eq. 5
 *   "exponential"    sigma_min, sigma_max, process                uniform in log(sigma)
 *   "log_snr"        sigma_min, sigma_max, process                uniform in log(alpha / sigma)
 *   "flow"           sigma_min, sigma_max, shift                  rectified flow, alpha = 1 - sigma
 *   "sigmas"         sigmas, n_sigmas, process                    any decreasing array
 *
 * sigma_min, sigma_max and sigmas are sigma / alpha for VP and VE, and sigma for FLOW. NaN means
 * 0.002 and 80, for FLOW 0.002 and 1; "flow" itself then spaces its nodes evenly down to zero.
 * spacing (the discrete-time VP names) places nodes at training steps: "linspace", "leading" (plus
 * steps_offset), "trailing"; or at any sigma / alpha, with the model time interpolated linearly in
 * its logarithm: "karras" (reads rho), "exponential" (the same as "log_snr"), "sigmas" (reads
 * sigmas). An array has steps + 1 entries, of which the last may be 0; final_zero does not touch
 * it. */
typedef struct fewstep_schedule_params {
  uint32_t size;
  int32_t process; /* fewstep_process */
  const char* spacing;
  double beta_start, beta_end;
  double sigma_min, sigma_max, rho, shift;
  int32_t train_steps;
  int32_t final_zero;   /* 1: the last node is sigma = 0, after steps nodes; 0: steps + 1 nodes */
  int32_t steps_offset; /* added to the training steps of spacing "leading" */
  const double* sigmas;
  int64_t n_sigmas;
} fewstep_schedule_params;

#define FEWSTEP_SCHEDULE_PARAMS_INIT \
  {sizeof(fewstep_schedule_params),  \
   FEWSTEP_PROCESS_VE,               \
   "linspace",                       \
   1e-4,                             \
   0.02,                             \
   (double)NAN,                      \
   (double)NAN,                      \
   7.0,                              \
   1.0,                              \
   1000,                             \
   1,                                \
   0,                                \
   NULL,                             \
   0}

typedef struct fewstep_node {
  double t;      /* what the model is told: the training step of a discrete-time model (-1 at
                    sigma = 0), else sigma as above */
  double alpha;  /* signal scale */
  double sigma;  /* noise scale */
  double lambda; /* log(alpha / sigma): -inf without signal, +inf without noise */
} fewstep_node;

/* Errors: an unknown name or spacing, steps < 1, a non-finite or out-of-range parameter, nodes that
 * are not strictly decreasing in sigma / alpha: FEWSTEP_INVALID_ARGUMENT naming the field. */
FEWSTEP_API fewstep_status fewstep_schedule_create(const char* name, int32_t steps,
                                                   const fewstep_schedule_params* params,
                                                   fewstep_schedule** out);
FEWSTEP_API void fewstep_schedule_destroy(fewstep_schedule* schedule);
FEWSTEP_API int32_t fewstep_schedule_steps(const fewstep_schedule* schedule);
FEWSTEP_API int32_t fewstep_schedule_process(const fewstep_schedule* schedule);
/* Node 0 <= i <= steps. */
FEWSTEP_API fewstep_status fewstep_schedule_node(const fewstep_schedule* schedule, int32_t i,
                                                 fewstep_node* out);

#ifdef __cplusplus
}
#endif

#endif
