// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "fewstep/fewstep.hpp"

using fewstep::Plan;
using fewstep::Schedule;
using fewstep::TensorRef;

namespace {

constexpr int64_t kBatch = 3, kSize = 6;

// Runs `plan` from the seeds with a model that predicts `factor * x` as the noise.
std::vector<float> run(const Plan& plan, int64_t batch, float factor,
                       const fewstep::Context* context = nullptr) {
  std::vector<float> memory(size_t(plan.slots() * batch * kSize)), input(size_t(batch * kSize));
  std::vector<int64_t> seeds(static_cast<size_t>(batch));
  for (size_t i = 0; i < seeds.size(); ++i) seeds[i] = int64_t(i) - 1;
  std::vector<TensorRef> slots;
  for (int s = 0; s < plan.slots(); ++s) {
    slots.emplace_back(memory.data() + s * batch * kSize,
                       std::initializer_list<int64_t>{batch, kSize});
  }
  const TensorRef seeds_ref(seeds), input_ref(input.data(), {batch, kSize});
  fewstep::solver::step(plan.start(),
                        {.slots = slots, .seeds = &seeds_ref, .model_input = &input_ref}, context);
  for (int i = 0; i < plan.rows(); ++i) {
    std::vector<float> output(input);
    for (float& value : output) value *= factor;
    const TensorRef models[] = {TensorRef(output.data(), {batch, kSize})};
    std::span<const TensorRef> used = models;
    if (!plan.row(i).evaluates) used = {};
    fewstep::solver::step(
        plan,
        {.row = i, .slots = slots, .models = used, .seeds = &seeds_ref, .model_input = &input_ref},
        context);
  }
  memory.resize(size_t(batch * kSize));
  return memory;
}

}  // namespace

TEST_CASE("an error carries the library's text and status") {
  try {
    Schedule("karras", -1);
    FAIL("a schedule of -1 steps");
  } catch (const fewstep::error& e) {
    CHECK(e.status() == FEWSTEP_INVALID_ARGUMENT);
    CHECK(std::string(e.what()).find("'steps'") != std::string::npos);
    CHECK(std::string(e.what()).ends_with("got -1"));
  }
  CHECK_THROWS_AS(Plan("eule", Schedule("karras", 4)), fewstep::error);
  float value = 0;
  CHECK_THROWS_AS(TensorRef(&value, {1, 1, 1, 1, 1, 1, 1, 1, 1}), fewstep::error);
  CHECK_THROWS_AS(TensorRef(&value, {1, 1}, {1}), fewstep::error);
}

TEST_CASE("a tensor describes what it was given") {
  std::vector<fewstep::bfloat16> values(24);
  TensorRef ref(values.data(), {2, 3, 4}, {12, 4, 1});
  const TensorRef copy = ref.on(2, 1);
  const fewstep_tensor t = copy.view();
  CHECK(t.data == values.data());
  CHECK(t.ndim == 3);
  CHECK(t.shape[2] == 4);
  CHECK(t.strides[0] == 12);
  CHECK(t.dtype.code == 4);
  CHECK(t.dtype.bits == 16);
  CHECK(t.device.device_type == 2);
  CHECK(t.device.device_id == 1);
  CHECK(TensorRef(values.data(), {24}).view().strides == nullptr);
  static_assert(!fewstep::Element<double> && fewstep::Element<const float>);
}

TEST_CASE("plans copy, compare, hash, and survive JSON") {
  const Schedule schedule("karras", 5);
  CHECK(schedule.steps() == 5);
  CHECK(schedule.node(5).sigma == 0.0);
  const Plan plan("dpmpp_2m", schedule);
  const Plan copy = plan;
  const Plan other("euler", schedule);
  CHECK(copy == plan);
  CHECK_FALSE(other == plan);
  CHECK(Plan::from_json(plan.to_json()) == plan);
  CHECK(std::unordered_set<Plan>{plan, copy, other}.size() == 2);
  CHECK(plan.validate() < 1e-9);
  plan.prepare(fewstep::Context::cpu());  // nothing to do there
  CHECK(plan.calls() == 5);
  const std::vector<Plan> parts = {plan, other};
  const Plan both = Plan::concat(parts);
  CHECK(both.rows() == plan.rows() + other.rows());
  CHECK(both.row(plan.rows()).sigma == other.row(0).sigma);
  std::vector<fewstep_plan_row> rows;
  for (int i = 0; i < plan.rows(); ++i) rows.push_back(plan.row(i));
  CHECK(Plan::from_rows(rows, "copied") == plan);
  CHECK(Plan::from_rows(rows, "copied").name() == "copied");
  const std::vector<double> weights = {3.0, -2.0};
  const Plan guided = plan.with_guidance(weights, 2);
  CHECK(guided.row(0).n_guidance == 2);
  CHECK(guided.row(4).gamma[1] == -2.0);
}

TEST_CASE("a tableau of one stage is Euler's method") {
  const Schedule schedule("karras", 4);
  const std::vector<double> a = {0.0}, b = {1.0};
  const Plan plan = Plan::from_tableau(a, b, 1, FEWSTEP_FRAME_EPSILON, schedule);
  const Plan euler("euler", schedule);
  const std::vector<float> x = run(plan, kBatch, 0.01f), y = run(euler, kBatch, 0.01f);
  for (size_t i = 0; i < x.size(); ++i) CHECK(x[i] == doctest::Approx(y[i]).epsilon(1e-5));
  const std::vector<double> wrong = {0.0, 0.0};
  CHECK_THROWS_AS(Plan::from_tableau(wrong, b, 1, FEWSTEP_FRAME_EPSILON, schedule), fewstep::error);
}

TEST_CASE("a step does not depend on batch or threads") {
  const Plan plan("dpmpp_2m_sde", Schedule("karras", 6));
  const fewstep::Context one = fewstep::Context::cpu(1), two = fewstep::Context::cpu(2);
  const std::vector<float> alone = run(plan, 1, 0.02f, &one);
  const std::vector<float> batch = run(plan, kBatch, 0.02f, &two);
  CHECK(std::vector<float>(batch.begin(), batch.begin() + kSize) == alone);
  CHECK(std::vector<float>(batch.begin() + kSize, batch.begin() + 2 * kSize) != alone);
}

TEST_CASE("Brownian increments add up") {
  const std::vector<int64_t> seeds = {3, 4};
  constexpr int64_t kSize = 37;
  std::vector<float> whole(2 * kSize), first(2 * kSize), second(2 * kSize);
  const TensorRef seeds_ref(seeds.data(), {2});
  fewstep_noise_brownian_params params = fewstep::noise::brownian_params();
  const auto draw = [&](double from, double to, std::vector<float>* out) {
    params.start = from;
    params.stop = to;
    fewstep::noise::brownian(seeds_ref, TensorRef(out->data(), {2, kSize}), params);
  };
  draw(0.1, 0.9, &whole);
  draw(0.1, 0.3, &first);
  draw(0.3, 0.9, &second);
  for (size_t i = 0; i < whole.size(); ++i) {
    CHECK(std::abs(whole[i] - first[i] - second[i]) < 1e-5f);
  }
  CHECK_THROWS_WITH_AS(draw(0.1, 1.5, &whole),
                       "fewstep_noise_brownian: 't1' must lie in [t_min, t_max] = [0, 1], got 1.5",
                       fewstep::error);
}

TEST_CASE("normals depend on seed, step and stream, and scale") {
  const std::vector<uint64_t> seeds = {5, 6};
  std::vector<float> z(2 * kSize), twice(2 * kSize), next(2 * kSize);
  const TensorRef seeds_ref(seeds);
  fewstep::noise::normal(seeds_ref, TensorRef(z.data(), {2, kSize}));
  fewstep::noise::normal(seeds_ref, TensorRef(twice.data(), {2, kSize}), {.scale = 2.0f});
  fewstep::noise::normal(seeds_ref, TensorRef(next.data(), {2, kSize}), {.step = 1});
  for (size_t i = 0; i < z.size(); ++i) CHECK(twice[i] == 2.0f * z[i]);
  CHECK(z != next);
  CHECK(z[0] != z[kSize]);
}

TEST_CASE("an unknown FEWSTEP_CPU_ISA is refused" * doctest::skip()) {
  try {
    fewstep::cpu_isa();
    FAIL("sse9 was accepted");
  } catch (const fewstep::error& e) {
    CHECK(e.status() == FEWSTEP_UNSUPPORTED);
    CHECK(std::string(e.what()).ends_with("on this machine, got 'sse9'"));
  }
}
