/* SPDX-License-Identifier: Apache-2.0 */
/* The C ABI as a C11 host sees it. */
#include <fewstep/fewstep.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { kBatch = 3, kSize = 5, kMaxText = 1 << 20 };

static int failures = 0;

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      ++failures;                                                     \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                 \
  } while (0)

#define CHECK_OK(call)                                                                     \
  do {                                                                                     \
    const fewstep_status status_ = (call);                                                 \
    if (status_ != FEWSTEP_OK) {                                                           \
      ++failures;                                                                          \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, fewstep_last_error()); \
    }                                                                                      \
  } while (0)

static fewstep_tensor tensor(void* data, uint8_t code, uint8_t bits, int64_t* shape, int32_t ndim) {
  fewstep_tensor t;
  memset(&t, 0, sizeof t);
  t.data = data;
  t.device.device_type = 1;
  t.ndim = ndim;
  t.dtype.code = code;
  t.dtype.bits = bits;
  t.dtype.lanes = 1;
  t.shape = shape;
  return t;
}

static void test_context(void) {
  fewstep_context* ctx = NULL;
  const char* isa = NULL;
  CHECK(strcmp(fewstep_version(), FEWSTEP_VERSION) == 0);
  CHECK_OK(fewstep_cpu_isa(&isa));
  CHECK(isa && strlen(isa) > 0);
  CHECK_OK(fewstep_context_create(1, 0, &ctx));
  CHECK_OK(fewstep_context_set_num_threads(ctx, 2));
  CHECK(fewstep_context_set_num_threads(ctx, -1) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(strcmp(fewstep_last_error(),
               "fewstep_context_set_num_threads: 'threads' must be 0 or more, got -1") == 0);
  CHECK(fewstep_context_create(7, 0, &ctx) == FEWSTEP_UNSUPPORTED);
  CHECK(fewstep_context_create(1, 0, NULL) == FEWSTEP_INVALID_ARGUMENT);
  fewstep_context_destroy(ctx);
  fewstep_context_destroy(NULL);
  CHECK_OK(fewstep_set_num_threads(3));
  CHECK(fewstep_num_threads() == 3);
  CHECK_OK(fewstep_set_num_threads(0));
  CHECK(fewstep_num_threads() >= 1);
}

static void test_schedule(void) {
  fewstep_schedule_params params = FEWSTEP_SCHEDULE_PARAMS_INIT;
  fewstep_schedule* schedule = NULL;
  fewstep_node first, last;
  params.sigma_max = 20.0;
  CHECK_OK(fewstep_schedule_create("karras", 6, &params, &schedule));
  CHECK(fewstep_schedule_steps(schedule) == 6);
  CHECK(fewstep_schedule_process(schedule) == FEWSTEP_PROCESS_VE);
  CHECK_OK(fewstep_schedule_node(schedule, 0, &first));
  CHECK_OK(fewstep_schedule_node(schedule, 6, &last));
  CHECK(fabs(first.sigma - 20.0) < 1e-12 && first.alpha == 1.0);
  CHECK(last.sigma == 0.0 && isinf(last.lambda) && last.lambda > 0);
  CHECK(fewstep_schedule_node(schedule, 7, &last) == FEWSTEP_INVALID_ARGUMENT);
  fewstep_schedule_destroy(schedule);
  fewstep_schedule_destroy(NULL);
  CHECK(fewstep_schedule_create("caras", 6, &params, &schedule) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(strstr(fewstep_last_error(), "caras") != NULL);
  CHECK(fewstep_schedule_create("karras", 0, &params, &schedule) == FEWSTEP_INVALID_ARGUMENT);
}

static fewstep_plan* make_plan(const char* solver, int32_t steps) {
  fewstep_plan_params params = FEWSTEP_PLAN_PARAMS_INIT;
  fewstep_schedule_params schedule_params = FEWSTEP_SCHEDULE_PARAMS_INIT;
  fewstep_schedule* schedule = NULL;
  fewstep_plan* plan = NULL;
  CHECK_OK(fewstep_schedule_create("karras", steps, &schedule_params, &schedule));
  CHECK_OK(fewstep_plan_create(solver, schedule, &params, &plan));
  fewstep_schedule_destroy(schedule);
  return plan;
}

static void test_plan(void) {
  static char text[kMaxText];
  fewstep_plan* plan = make_plan("unipc", 6);
  fewstep_plan* same = make_plan("unipc", 6);
  fewstep_plan* read = NULL;
  fewstep_plan* both = NULL;
  const fewstep_plan* parts[2];
  double residual = -1.0;
  size_t needed = 0;
  int32_t solvers = 0;
  while (fewstep_plan_solver(solvers)) ++solvers;
  CHECK(solvers >= 13);
  CHECK(fewstep_plan_calls(plan) == 6);
  CHECK(fewstep_plan_equal(plan, same) == 1);
  CHECK(fewstep_plan_hash(plan) == fewstep_plan_hash(same));
  CHECK_OK(fewstep_plan_validate(plan, &residual));
  CHECK(residual >= 0.0 && residual < 1e-9);
  CHECK_OK(fewstep_plan_to_json(plan, NULL, 0, &needed));
  CHECK(needed > 2 && needed <= sizeof text);
  CHECK_OK(fewstep_plan_to_json(plan, text, sizeof text, &needed));
  CHECK(strlen(text) + 1 == needed);
  CHECK_OK(fewstep_plan_from_json(text, strlen(text), &read));
  CHECK(fewstep_plan_equal(plan, read) == 1);
  parts[0] = plan;
  parts[1] = read;
  CHECK_OK(fewstep_plan_concat(parts, 2, &both));
  CHECK(fewstep_plan_rows(both) == 2 * fewstep_plan_rows(plan));
  CHECK(fewstep_plan_equal(plan, both) == 0);
  fewstep_plan_destroy(plan);
  fewstep_plan_destroy(same);
  fewstep_plan_destroy(read);
  fewstep_plan_destroy(both);
  fewstep_plan_destroy(NULL);
}

/* One Euler step by the library against its row's coefficients, written out. */
static void test_step(void) {
  fewstep_plan* plan = make_plan("euler", 4);
  float x[kBatch][kSize], before[kBatch][kSize], noise[kBatch][kSize], input[kBatch][kSize];
  uint64_t seeds[kBatch] = {1, 2, 3};
  int64_t shape[2] = {kBatch, kSize};
  int64_t batch[1] = {kBatch};
  fewstep_tensor x_view = tensor(x, 2, 32, shape, 2);
  fewstep_tensor noise_view = tensor(noise, 2, 32, shape, 2);
  fewstep_tensor input_view = tensor(input, 2, 32, shape, 2);
  fewstep_tensor seeds_view = tensor(seeds, 1, 64, batch, 1);
  fewstep_noise_normal_params normal = FEWSTEP_NOISE_NORMAL_PARAMS_INIT;
  fewstep_solver_step_args args = FEWSTEP_SOLVER_STEP_ARGS_INIT;
  fewstep_plan_row row;
  int b, n;

  normal.scale = 80.0f;
  CHECK_OK(fewstep_noise_normal(NULL, &seeds_view, &normal, &x_view));
  normal.scale = 1.0f;
  normal.stream = FEWSTEP_STREAM_USER;
  CHECK_OK(fewstep_noise_normal(NULL, &seeds_view, &normal, &noise_view));
  memcpy(before, x, sizeof x);
  CHECK_OK(fewstep_plan_row_at(plan, 0, &row));

  args.n_slots = fewstep_plan_slots(plan);
  CHECK(args.n_slots == 1);
  args.slots[0] = &x_view;
  args.n_models = 1;
  args.models[0] = &noise_view;
  args.model_input = &input_view;
  CHECK_OK(fewstep_solver_step(NULL, plan, &args));
  for (b = 0; b < kBatch; ++b) {
    for (n = 0; n < kSize; ++n) {
      /* dx = noise * dsigma for x = x0 + sigma * noise */
      const double expected =
          (double)before[b][n] + (row.next_sigma - row.sigma) * (double)noise[b][n];
      CHECK(fabs((double)x[b][n] - expected) <= 1e-5 * (fabs(expected) + 80.0));
      CHECK(fabs((double)input[b][n] - row.next_scale * (double)x[b][n]) <=
            1e-5 * (fabs((double)x[b][n]) + 1e-3));
    }
  }

  /* A wrong call names the argument and touches nothing. */
  memcpy(before, x, sizeof x);
  args.row = 99;
  CHECK(fewstep_solver_step(NULL, plan, &args) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(strncmp(fewstep_last_error(), "fewstep_solver_step: 'row' must ", 32) == 0);
  args.row = 0;
  args.models[0] = &x_view;
  CHECK(fewstep_solver_step(NULL, plan, &args) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(strstr(fewstep_last_error(), "overlap") != NULL);
  CHECK(memcmp(before, x, sizeof x) == 0);
  fewstep_plan_destroy(plan);
}

int main(void) {
  test_context();
  test_schedule();
  test_plan();
  test_step();
  if (failures) fprintf(stderr, "%d checks failed\n", failures);
  return failures != 0;
}
