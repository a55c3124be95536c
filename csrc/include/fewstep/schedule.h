/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_SCHEDULE_H_
#define FEWSTEP_SCHEDULE_H_

#include <math.h>

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x = alpha * x0 + sigma * noise. VP: alpha^2 + sigma^2 = 1; VE: alpha = 1;
 * FLOW: alpha + sigma = 1. PRIOR: x = alpha * x0 + prior * y + sigma * noise with a tensor y that
 * the caller knows: a degraded image, noisy speech, the other end of a bridge. */
typedef enum fewstep_process {
  FEWSTEP_PROCESS_VP = 0,
  FEWSTEP_PROCESS_VE = 1,
  FEWSTEP_PROCESS_FLOW = 2,
  FEWSTEP_PROCESS_PRIOR = 3
} fewstep_process;

/* A schedule: steps + 1 nodes from noise to data, in float64; immutable. */
typedef struct fewstep_schedule fewstep_schedule;

/* What is read depends on the name; fields that a name does not read are ignored.
 *
 *   name               reads
 *   "vp_linear"        beta_start, beta_end, train_steps, spacing   betas linear (DDPM); VP
 *   "scaled_linear"    the same                                     sqrt(beta) linear; VP
 *   "cosine"           train_steps, spacing                         Nichol, Dhariwal 2021; VP
 *   "vp_sde"           beta_start, beta_end, t_min, rho             continuous VP; t^(1/rho)
 * uniform "karras"           sigma_min, sigma_max, rho, process           EDM, eq. 5 "exponential"
 * sigma_min, sigma_max, process                uniform in log(sigma) "polyexponential"  sigma_min,
 * sigma_max, rho, process           log(sigma) as a power rho "log_snr"          sigma_min,
 * sigma_max, process                uniform in log(alpha / sigma) "kl_optimal"       sigma_min,
 * sigma_max, process                uniform in atan(sigma) "beta"             sigma_min, sigma_max,
 * beta_a, beta_b, process   quantiles of Beta(a, b) "flow"             sigma_min, sigma_max, shift,
 * terminal, spacing  rectified flow "log_linear"       sigmas, n_sigmas, process a table resampled
 * to any steps "sigmas"           sigmas, n_sigmas, process                    any decreasing array
 *   "ornstein_uhlenbeck" stiffness, sigma_min, sigma_max, t_min, t_max   to y, sigma growing; PRIOR
 *   "mean_reverting" sigma_max, alpha_min, train_steps   to y, discrete time (IR-SDE); PRIOR
 *   "bridge" beta_start, beta_end, spacing, t_min, t_max   spacing "gmax" or "vp"; PRIOR
 *
 * sigma_min, sigma_max and sigmas are sigma / alpha for VP and VE, and sigma for FLOW. NaN means
 * 0.002 and 80, for FLOW 0.002 and 1; "flow" itself then spaces its nodes evenly down to zero.
 *
 * spacing of the discrete-time VP names places nodes at training steps: "linspace", "leading" (plus
 * steps_offset), "trailing", "simple", "ddim_uniform", "beta" (reads beta_a, beta_b); at fractional
 * training steps: "normal", "sgm_uniform"; or at any sigma / alpha between the first and the last,
 * with the model time interpolated linearly in its logarithm: "karras" and "polyexponential" (read
 * rho), "exponential" (the same as "log_snr"), "kl_optimal", "beta_sigma", "log_linear" and
 * "sigmas" (read sigmas). zero_terminal_snr rescales the betas so that the last training step has
 * no signal. "ddim_uniform" places one step more where train_steps leaves room for it, "beta" fewer
 * where quantiles round to one training step; fewstep_schedule_steps tells.
 *
 * spacing of "flow" is of sigma before the shift: "linspace", "beta", "linear_quadratic" (reads
 * threshold, linear_steps); or of its range after shift and terminal: "karras", "exponential",
 * "beta_sigma". terminal stretches 1 - sigma so that the last node before zero has that sigma.
 *
 * An array "sigmas" has steps + 1 entries, of which the last may be 0; final_zero does not touch
 * it. "log_linear" takes steps + 1 values of its table, of which final_zero replaces the last. */
typedef struct fewstep_schedule_params {
  uint32_t size;
  int32_t process; /* fewstep_process */
  const char* spacing;
  double beta_start, beta_end;
  double sigma_min, sigma_max, rho, shift;
  int32_t train_steps;
  int32_t final_zero;   /* 1: the last node is sigma = 0, after steps nodes; 0: steps + 1 nodes */
  int32_t steps_offset; /* added to the training steps of spacing "leading" */
  int32_t zero_terminal_snr;
  const double* sigmas;
  int64_t n_sigmas;
  double beta_a, beta_b; /* of the Beta distribution */
  double terminal;       /* between 0 and 1; NaN: no stretch */
  double threshold;      /* noise removed in the linear part of "linear_quadratic" */
  double t_min;          /* last time of "vp_sde", whose first is 1 */
  int32_t linear_steps;  /* of "linear_quadratic"; 0: half of the steps */
  double t_max;          /* first time of the PRIOR processes; NaN: 1, for "bridge" 0.9999 */
  double stiffness;      /* rate at which "ornstein_uhlenbeck" reverts to y */
  double alpha_min;      /* signal that "mean_reverting" ends with */
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
   0,                                \
   NULL,                             \
   0,                                \
   0.6,                              \
   0.6,                              \
   (double)NAN,                      \
   0.025,                            \
   1e-3,                             \
   0,                                \
   (double)NAN,                      \
   1.5,                              \
   0.005}

typedef struct fewstep_node {
  double t;      /* what the model is told: the training step of a discrete-time model (-1 at
                    sigma = 0), else sigma as above */
  double alpha;  /* signal scale */
  double sigma;  /* noise scale */
  double lambda; /* log(alpha / sigma): -inf without signal, +inf without noise */
  double prior;  /* weight of y; 0 but for PRIOR */
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
