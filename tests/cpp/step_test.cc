// SPDX-License-Identifier: Apache-2.0
// Random rows over buffers of exactly the size that a step may touch, so that the sanitizers see
// every element read or written beside them.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "fewstep/fewstep.h"

namespace {

using Random = std::mt19937;

struct PlanOwner {
  explicit PlanOwner(const fewstep_plan_row& row) {
    REQUIRE(fewstep_plan_from_rows(&row, 1, "random", &plan) == FEWSTEP_OK);
  }
  ~PlanOwner() { fewstep_plan_destroy(plan); }
  PlanOwner(const PlanOwner&) = delete;
  fewstep_plan* plan = nullptr;
};

int below(Random& random, int limit) { return int(random() % uint32_t(limit)); }

// A [rows, n] tensor on the heap, f32 or bf16, with small exact values.
struct Array {
  Array(Random& random, int64_t rows, int64_t n, bool brain)
      : bytes(size_t(rows * n) * (brain ? 2 : 4)), data(new char[bytes]), dims{rows, n} {
    for (size_t i = 0; i < size_t(rows * n); ++i) {
      const float value = float(below(random, 17) - 8) / 4;
      values.push_back(value);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint16_t high = uint16_t(bits >> 16);
      if (brain)
        std::memcpy(data.get() + 2 * i, &high, 2);
      else
        std::memcpy(data.get() + 4 * i, &value, 4);
    }
    tensor.data = data.get();
    tensor.device = {1, 0};
    tensor.ndim = 2;
    tensor.dtype = {uint8_t(brain ? 4 : 2), uint8_t(brain ? 16 : 32), 1};
    tensor.shape = dims;
  }
  Array(const Array&) = delete;
  float at(size_t i) const {
    float value;
    std::memcpy(&value, data.get() + 4 * i, 4);
    return value;
  }

  size_t bytes;
  std::unique_ptr<char[]> data;
  int64_t dims[2];
  std::vector<float> values;  // before the step
  fewstep_tensor tensor{};
};

constexpr int kSlots = 3;

fewstep_plan_row random_row(Random& random) {
  static const int kInputs[] = {
      0, 1, 2, FEWSTEP_GUIDED, FEWSTEP_MODEL, FEWSTEP_CONVERTED, FEWSTEP_KNOWN};
  static const int kOutputs[] = {0, 1, 2, FEWSTEP_MODEL_INPUT};
  fewstep_plan_row row{};
  const auto coefficient = [&] {
    return below(random, 4) == 0 ? 0.0 : double(below(random, 9) - 4) / 4;
  };
  for (int input : kInputs) {
    if (below(random, 2)) row.input[row.n_inputs++] = input;
  }
  for (int output : kOutputs) {
    if (below(random, 2)) row.output[row.n_outputs++] = output;
  }
  if (row.n_outputs == 0) row.output[row.n_outputs++] = 1;
  row.n_guidance = 1 + below(random, 3);
  row.evaluates = 1;
  for (int j = 0; j < row.n_guidance; ++j) row.gamma[j] = coefficient();
  row.p = coefficient();
  row.q = coefficient();
  row.clip = below(random, 2) ? 1.0 : double(INFINITY);
  for (int r = 0; r < row.n_outputs; ++r) {
    row.role[r] = FEWSTEP_ROLE_OTHER;
    row.blend[r] = below(random, 2);
    row.known[r] = coefficient();
    for (int k = 0; k < row.n_inputs; ++k) row.a[r][k] = coefficient();
  }
  return row;
}

}  // namespace

TEST_CASE("random rows over buffers of exact size") {
  Random random(11);
  const int sizes[] = {1, 3, 8, 15, 16, 17, 33, 64, 65, 129, 511, 513, 1100};
  for (int round = 0; round < 300; ++round) {
    const fewstep_plan_row row = random_row(random);
    const PlanOwner owner(row);
    const int64_t B = 1 + below(random, 3), N = sizes[below(random, 13)];
    const bool brain = below(random, 2);
    std::vector<std::unique_ptr<Array>> slots, models;
    fewstep_solver_step_args args = FEWSTEP_SOLVER_STEP_ARGS_INIT;
    args.n_slots = kSlots;
    for (int s = 0; s < kSlots; ++s) {
      slots.push_back(std::make_unique<Array>(random, B, N, false));
      args.slots[s] = &slots.back()->tensor;
    }
    args.n_models = row.n_guidance;
    for (int j = 0; j < row.n_guidance; ++j) {
      models.push_back(std::make_unique<Array>(random, B, N, brain));
      args.models[j] = &models.back()->tensor;
    }
    Array known(random, B, N, false), mask(random, below(random, 2) ? B : 1, N, false);
    Array input(random, 2 * B, N, brain);
    args.known = &known.tensor;
    if (below(random, 2)) args.mask = &mask.tensor;
    if (below(random, 2)) args.model_input = &input.tensor;
    REQUIRE(fewstep_solver_step(nullptr, owner.plan, &args) == FEWSTEP_OK);

    for (int r = 0; r < row.n_outputs; ++r) {
      if (row.output[r] >= kSlots) continue;
      for (size_t i = 0; i < size_t(B * N); ++i) {
        double g = 0;
        for (int j = 0; j < row.n_guidance; ++j)
          g += row.gamma[j] * double(models[size_t(j)]->values[i]);
        double h = row.p * double(slots[0]->values[i]) + row.q * g;
        h = std::fmin(std::fmax(h, -row.clip), row.clip);
        double u = 0;
        for (int k = 0; k < row.n_inputs; ++k) {
          const int code = row.input[k];
          u += row.a[r][k] * (code < kSlots               ? double(slots[size_t(code)]->values[i])
                              : code == FEWSTEP_GUIDED    ? g
                              : code == FEWSTEP_CONVERTED ? h
                              : code == FEWSTEP_KNOWN     ? double(known.values[i])
                                                          : double(models[0]->values[i]));
        }
        if (args.mask && row.blend[r]) {
          const double m = double(mask.values[mask.dims[0] == 1 ? i % size_t(N) : i]);
          u = m * u + (1 - m) * row.known[r] * double(known.values[i]);
        }
        // Every number is a small multiple of 2^-10 or so: float32 holds it exactly.
        REQUIRE(double(slots[size_t(row.output[r])]->at(i)) == u);
      }
    }
  }
}
