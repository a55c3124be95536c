/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_PLAN_H_
#define FEWSTEP_PLAN_H_

#include <math.h>

#include "base.h"
#include "context.h"
#include "schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  FEWSTEP_MAX_SLOTS = 16,
  FEWSTEP_MAX_INPUTS = 8,
  FEWSTEP_MAX_OUTPUTS = 4,
  FEWSTEP_MAX_NOISES = 3,
  FEWSTEP_MAX_GUIDANCE = 4
};

/* What a row reads and writes. Slot 0 always holds the sample at which the model is evaluated. */
typedef enum fewstep_operand {
  FEWSTEP_SLOT = 0,         /* 0 .. 15: a state slot */
  FEWSTEP_GUIDED = 16,      /* g = sum_j gamma_j M_j */
  FEWSTEP_MODEL = 17,       /* 17 .. 20: the raw model output M_j */
  FEWSTEP_CONVERTED = 21,   /* h = clamp(p * slot 0 + q * g, -clip, clip) */
  FEWSTEP_KNOWN = 22,       /* the caller's known image; y of a process with a prior */
  FEWSTEP_MODEL_INPUT = 23, /* output only: what the model is called with next */
  FEWSTEP_OPERANDS = 24
} fewstep_operand;

/* What an output is, for whoever inspects or validates a plan. */
typedef enum fewstep_role {
  FEWSTEP_ROLE_STATE = 0,   /* the sample at (next_alpha, next_sigma) */
  FEWSTEP_ROLE_HISTORY = 1, /* the frame's model quantity m at (alpha, sigma) */
  FEWSTEP_ROLE_ANCHOR = 2,  /* the sample at (alpha, sigma), kept for a later row */
  FEWSTEP_ROLE_INPUT = 3,   /* next_scale times the sample at (next_alpha, next_sigma) */
  FEWSTEP_ROLE_OTHER = 4
} fewstep_role;

/* The quantity m that is interpolated, so that the ODE reads dy = m dmu. */
typedef enum fewstep_frame {
  FEWSTEP_FRAME_X0 = 0,      /* y = x / sigma, dmu = d(alpha / sigma), m = x0 */
  FEWSTEP_FRAME_EPSILON = 1, /* y = x / alpha, dmu = d(sigma / alpha), m = noise */
  FEWSTEP_FRAME_VELOCITY = 2 /* y = x, dmu = d(sigma), m = noise - x0, flow only */
} fewstep_frame;

/* The variable of the interpolating polynomial. */
typedef enum fewstep_variable {
  FEWSTEP_VARIABLE_LAMBDA = 0,
  FEWSTEP_VARIABLE_RHO = 1, /* sigma / alpha */
  FEWSTEP_VARIABLE_SIGMA = 2,
  FEWSTEP_VARIABLE_TIME = 3,       /* model time */
  FEWSTEP_VARIABLE_INVERSE_RHO = 4 /* alpha / sigma */
} fewstep_variable;

/* One row: what happens between two model calls, per element.
 *
 *   g     = sum_j gamma[j] M_j
 *   h     = clamp(p * slot0 + q * g, -clip, clip)
 *   u_r   = sum_k a[r][k] input_k + sum_z noise[r][z] xi_z
 *   u_r   = mask * u_r + (1 - mask) * (known[r] * K + sum_z known_noise[r][z] xi_z)   if blend[r]
 *   output_r = u_r
 *
 * xi_z are the normals of (seed, noise_stream[z], noise_step[z]). Unused entries are zero, so rows
 * compare as bytes. */
typedef struct fewstep_plan_row {
  int32_t n_inputs, n_outputs, n_noises, n_guidance;
  int32_t input[FEWSTEP_MAX_INPUTS];   /* fewstep_operand */
  int32_t output[FEWSTEP_MAX_OUTPUTS]; /* fewstep_operand: a slot or FEWSTEP_MODEL_INPUT */
  int32_t role[FEWSTEP_MAX_OUTPUTS];   /* fewstep_role */
  int32_t blend[FEWSTEP_MAX_OUTPUTS];  /* 1: the output is blended where a mask is given */
  uint32_t noise_stream[FEWSTEP_MAX_NOISES];
  uint32_t noise_step[FEWSTEP_MAX_NOISES];
  int32_t evaluates; /* 1: the row consumes a model output */
  int32_t step;      /* number of the schedule interval it belongs to */
  int32_t frame, variable;
  int32_t order; /* polynomials m of lower degree are integrated exactly; 0: nothing is claimed */
  int32_t process;
  double gamma[FEWSTEP_MAX_GUIDANCE];
  double p, q, clip; /* x0 = p * slot0 + q * g; clip is +inf for none */
  double a[FEWSTEP_MAX_OUTPUTS][FEWSTEP_MAX_INPUTS];
  double noise[FEWSTEP_MAX_OUTPUTS][FEWSTEP_MAX_NOISES];
  double known[FEWSTEP_MAX_OUTPUTS];
  double known_noise[FEWSTEP_MAX_OUTPUTS][FEWSTEP_MAX_NOISES];
  double t, alpha, sigma, scale;                     /* the call it consumes: model(scale * x, t) */
  double next_t, next_alpha, next_sigma, next_scale; /* where slot 0 stands afterwards */
  double from_alpha, from_sigma;                     /* where the interval starts */
  double tau;                                        /* reverse-SDE strength */
  double prior, next_prior; /* weight of y in slot 0 before and after; process PRIOR only */
} fewstep_plan_row;

typedef enum fewstep_prediction {
  FEWSTEP_PREDICTION_EPSILON = 0,
  FEWSTEP_PREDICTION_X0 = 1,
  FEWSTEP_PREDICTION_V = 2,    /* alpha * noise - sigma * x0 */
  FEWSTEP_PREDICTION_FLOW = 3, /* noise - x0 */
  FEWSTEP_PREDICTION_EDM = 4   /* raw network F of EDM: x0 = c_skip x + c_out F, input c_in x */
} fewstep_prediction;

/* A numeric option that only some solvers have, by name; a list is given entry by entry. */
typedef struct fewstep_plan_number {
  const char* name;
  double value;
} fewstep_plan_number;

/* What fewstep_plan_create reads besides the solver's name. A zero or NaN means "the solver's own
 * default"; an option that the solver does not take is FEWSTEP_INVALID_ARGUMENT. */
typedef struct fewstep_plan_params {
  uint32_t size;
  int32_t prediction;        /* fewstep_prediction */
  int32_t order;             /* 0: the solver's default */
  int32_t lower_order_final; /* -1: when steps < 15, as public solvers do; 0 never; 1 always */
  int32_t start;             /* first schedule interval, for image to image; 0: from pure noise */
  double eta;                /* noise of ddim, euler_ancestral (0 to 1), dpmpp_2m_sde (tau^2);
                                NaN: 0, 1, 1 */
  double clip;               /* clamp of x0; +inf or NaN: none */
  double sigma_data;         /* EDM preconditioning; NaN: 0.5 */
  double s_noise;            /* factor on the injected noise; NaN: 1 */
  const char* variant;       /* dpmpp_2m, dpmpp_2m_sde: "midpoint" (default), "heun" (exact);
                                unipc: "bh2" (default), "bh1"; deis: "lambda" (default), "rho",
                                "time", the interpolation variable; others: csrc/solver/README.md;
                                NULL: default */
  const char* parity;        /* that library's rows where they differ from the method: "diffusers"
                                (dpm_3m, dpmpp_3m, dpm_3s, dpmpp_3s, unipc, ipndm, lcm, sa,
                                dpmpp_3m_sde), "k-diffusion" (dpm_3m, dpmpp_3m, dpmpp_3m_sde);
                                NULL: none */
  const fewstep_plan_number* numbers; /* the solver's own options (csrc/solver/README.md) */
  int32_t n_numbers;
} fewstep_plan_params;

#define FEWSTEP_PLAN_PARAMS_INIT \
  {sizeof(fewstep_plan_params),  \
   FEWSTEP_PREDICTION_EPSILON,   \
   0,                            \
   -1,                           \
   0,                            \
   (double)NAN,                  \
   (double)NAN,                  \
   (double)NAN,                  \
   (double)NAN,                  \
   NULL,                         \
   NULL,                         \
   NULL,                         \
   0}

/* An immutable table of rows. Safe to share between threads. */
typedef struct fewstep_plan fewstep_plan;

/* solver: a name of csrc/solver/README.md, such as "dpmpp_2m"; fewstep_plan_solver(i) lists them.
 */
FEWSTEP_API fewstep_status fewstep_plan_create(const char* solver, const fewstep_schedule* schedule,
                                               const fewstep_plan_params* params,
                                               fewstep_plan** out);
/* Name of the i-th solver; NULL past the end. */
FEWSTEP_API const char* fewstep_plan_solver(int32_t i);

/* From rows of the caller's own. name is kept as provenance. */
FEWSTEP_API fewstep_status fewstep_plan_from_rows(const fewstep_plan_row* rows, int32_t n_rows,
                                                  const char* name, fewstep_plan** out);

/* Explicit Runge-Kutta over each interval in the given frame and variable mu (see fewstep_frame):
 * a [stages, stages] strictly lower triangular, b [stages], row-major. order is what it claims. */
FEWSTEP_API fewstep_status fewstep_plan_from_tableau(const double* a, const double* b,
                                                     int32_t stages, int32_t order, int32_t frame,
                                                     const fewstep_schedule* schedule,
                                                     const fewstep_plan_params* params,
                                                     fewstep_plan** out);

/* A one-row plan that places a sample at the model call of `row`:
 * slot 0 = alpha * known + sigma * xi(FEWSTEP_STREAM_START), or, without a known image
 * (with_known = 0), xi times the schedule's initial scale; and the first model input. A process
 * with a prior begins at (alpha + prior) * y + sigma * xi, y being the known tensor. */
FEWSTEP_API fewstep_status fewstep_plan_start(const fewstep_plan* plan, int32_t row,
                                              int32_t with_known, fewstep_plan** out);

/* One table from several plans: plan i's rows begin at the sum of the earlier plans' rows. */
FEWSTEP_API fewstep_status fewstep_plan_concat(const fewstep_plan* const* plans, int32_t n_plans,
                                               fewstep_plan** out);

/* The same plan with guidance weights [n_rows or 1, n_guidance] over the raw model outputs. */
FEWSTEP_API fewstep_status fewstep_plan_with_guidance(const fewstep_plan* plan,
                                                      const double* weights, int32_t n_weight_rows,
                                                      int32_t n_guidance, fewstep_plan** out);

/* Copies the plan's table to the context's device, where fewstep_solver_step reads it when `rows`
 * or `guidance` are there. Allocates, waits for the copy, and cannot be part of a captured graph:
 * call it once before; calling it again, or for the CPU, does nothing. The copy lives as long as
 * the plan, which must outlive the work enqueued with it and the graphs that hold such work. */
FEWSTEP_API fewstep_status fewstep_plan_prepare(const fewstep_plan* plan,
                                                const fewstep_context* ctx);

FEWSTEP_API void fewstep_plan_destroy(fewstep_plan* plan);
FEWSTEP_API int32_t fewstep_plan_rows(const fewstep_plan* plan);
FEWSTEP_API int32_t fewstep_plan_slots(const fewstep_plan* plan);
/* Number of model calls. */
FEWSTEP_API int32_t fewstep_plan_calls(const fewstep_plan* plan);
FEWSTEP_API const char* fewstep_plan_name(const fewstep_plan* plan);
FEWSTEP_API fewstep_status fewstep_plan_row_at(const fewstep_plan* plan, int32_t i,
                                               fewstep_plan_row* out);

/* Checks every row: its slots were written before; constant x0 and noise are carried to next_alpha
 * and next_sigma (with fresh noise, the variance is); a model whose m is a polynomial of degree
 * below `order` is integrated exactly (not tested in the variable TIME, whose grid is not in the
 * rows); history, kept samples, known images and model inputs are what their role says. residual,
 * if not NULL, receives the largest relative residual; above 1e-9 the plan is refused with
 * FEWSTEP_INVALID_ARGUMENT naming the row and the condition. */
FEWSTEP_API fewstep_status fewstep_plan_validate(const fewstep_plan* plan, double* residual);

/* JSON with shortest round-trip numbers. *needed receives the length with the final zero; text is
 * written when capacity suffices. */
FEWSTEP_API fewstep_status fewstep_plan_to_json(const fewstep_plan* plan, char* text,
                                                size_t capacity, size_t* needed);
FEWSTEP_API fewstep_status fewstep_plan_from_json(const char* text, size_t length,
                                                  fewstep_plan** out);
/* Equality and hash are over the rows' bytes; the name does not count. */
FEWSTEP_API int32_t fewstep_plan_equal(const fewstep_plan* a, const fewstep_plan* b);
FEWSTEP_API uint64_t fewstep_plan_hash(const fewstep_plan* plan);

#ifdef __cplusplus
}
#endif

#endif
