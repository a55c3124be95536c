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
  explicit PlanOwner(const std::vector<fewstep_plan_row>& rows) {
    REQUIRE(fewstep_plan_from_rows(rows.data(), int32_t(rows.size()), "random", &plan) ==
            FEWSTEP_OK);
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

// A step of B samples with all that any random row may read or write.
struct Problem {
  Problem(Random& random, int64_t B, int64_t N, int n_models, bool brain)
      : known(random, B, N, false),
        mask(random, below(random, 2) ? B : 1, N, false),
        input(random, 2 * B, N, brain),
        guidance(random, B, n_models, false) {
    for (int s = 0; s < kSlots; ++s) {
      slots.push_back(std::make_unique<Array>(random, B, N, false));
      args.slots[s] = &slots.back()->tensor;
    }
    for (int j = 0; j < n_models; ++j) {
      models.push_back(std::make_unique<Array>(random, B, N, brain));
      args.models[j] = &models.back()->tensor;
    }
    args.n_slots = kSlots;
    args.n_models = n_models;
    args.known = &known.tensor;
    if (below(random, 2)) args.mask = &mask.tensor;
    if (below(random, 2)) args.model_input = &input.tensor;
    if (below(random, 2)) args.guidance = &guidance.tensor;
  }

  // Output r of a row at element n of sample b, exact in float64.
  double expected(const fewstep_plan_row& row, int r, size_t b, size_t n) const {
    const size_t N = size_t(known.dims[1]), i = b * N + n, G = models.size();
    double g = 0;
    for (size_t j = 0; j < G; ++j) {
      g += (args.guidance ? double(guidance.values[b * G + j]) : row.gamma[j]) *
           double(models[j]->values[i]);
    }
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
    if (!args.mask || !row.blend[r]) return u;
    const double m = double(mask.values[mask.dims[0] == 1 ? n : i]);
    return m * u + (1 - m) * row.known[r] * double(known.values[i]);
  }

  // Requires what the slots of sample b hold after a row, or without one what they held before.
  void check_sample(const fewstep_plan_row* row, size_t b) const {
    const size_t N = size_t(known.dims[1]);
    for (int s = 0; s < kSlots; ++s) {
      int r = 0;
      while (row && r < row->n_outputs && row->output[r] != s) ++r;
      const bool written = row && r < row->n_outputs;
      for (size_t n = 0; n < N; ++n) {
        const Array& slot = *slots[size_t(s)];
        // Every number is a small multiple of 2^-10 or so: float32 holds it exactly.
        const double value = written ? expected(*row, r, b, n) : double(slot.values[b * N + n]);
        REQUIRE(double(slot.at(b * N + n)) == value);
      }
    }
  }

  std::vector<std::unique_ptr<Array>> slots, models;
  Array known, mask, input, guidance;
  fewstep_solver_step_args args = FEWSTEP_SOLVER_STEP_ARGS_INIT;
};

// The lengths meet packs, vectors, turns of blocks and what is left of each.
constexpr int kSizes[] = {1, 3, 8, 15, 16, 17, 33, 64, 65, 129, 511, 513, 1100, 2049};

}  // namespace

TEST_CASE("random rows over buffers of exact size") {
  Random random(11);
  for (int round = 0; round < 300; ++round) {
    const fewstep_plan_row row = random_row(random);
    const PlanOwner owner({row});
    const int64_t B = 1 + below(random, 3), N = kSizes[below(random, 14)];
    Problem problem(random, B, N, row.n_guidance, below(random, 2));
    REQUIRE(fewstep_solver_step(nullptr, owner.plan, &problem.args) == FEWSTEP_OK);
    for (size_t b = 0; b < size_t(B); ++b) problem.check_sample(&row, b);
  }
}

TEST_CASE("each sample at a row of its own, or at none") {
  Random random(12);
  for (int round = 0; round < 300; ++round) {
    std::vector<fewstep_plan_row> rows = {random_row(random), random_row(random)};
    rows[1].n_guidance = rows[0].n_guidance;
    const PlanOwner owner(rows);
    const int64_t B = 1 + below(random, 5), N = kSizes[below(random, 14)];
    Problem problem(random, B, N, rows[0].n_guidance, below(random, 2));
    const std::unique_ptr<int32_t[]> chosen(new int32_t[size_t(B)]);
    for (int64_t b = 0; b < B; ++b) chosen[size_t(b)] = below(random, 3) - 1;
    fewstep_tensor tensor{};
    tensor.data = chosen.get();
    tensor.device = {1, 0};
    tensor.ndim = 1;
    tensor.dtype = {0, 32, 1};
    tensor.shape = problem.known.dims;
    problem.args.rows = &tensor;
    REQUIRE(fewstep_solver_step(nullptr, owner.plan, &problem.args) == FEWSTEP_OK);
    for (size_t b = 0; b < size_t(B); ++b) {
      problem.check_sample(chosen[b] < 0 ? nullptr : &rows[size_t(chosen[b])], b);
    }
  }
}
