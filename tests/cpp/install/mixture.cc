// SPDX-License-Identifier: Apache-2.0
// Samples a Gaussian mixture with fewstep from C++, with the mixture's exact noise prediction as
// the model, and compares the samples' mean and covariance with the mixture's own.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fewstep/fewstep.hpp>
#include <vector>

namespace {

constexpr int kDims = 2;
constexpr int64_t kSamples = 20000;
using Point = std::array<double, kDims>;

struct Component {
  double weight;
  Point mean;
  double variance;
};
constexpr std::array<Component, 3> kMixture = {
    {{0.5, {-1.5, 0.5}, 0.04}, {0.3, {1.0, 1.0}, 0.09}, {0.2, {0.5, -2.0}, 0.25}}};

// E[noise | x] for x = alpha * x0 + sigma * noise.
Point predict_noise(const Point& x, double alpha, double sigma) {
  std::array<double, kMixture.size()> log_weight;
  double largest = -INFINITY;
  for (size_t k = 0; k < kMixture.size(); ++k) {
    const Component& c = kMixture[k];
    const double v = alpha * alpha * c.variance + sigma * sigma;
    double square = 0;
    for (int d = 0; d < kDims; ++d) square += std::pow(x[d] - alpha * c.mean[d], 2);
    log_weight[k] = std::log(c.weight) - 0.5 * kDims * std::log(v) - 0.5 * square / v;
    largest = std::max(largest, log_weight[k]);
  }
  double total = 0;
  Point noise{};
  for (size_t k = 0; k < kMixture.size(); ++k) {
    const Component& c = kMixture[k];
    const double v = alpha * alpha * c.variance + sigma * sigma;
    const double responsibility = std::exp(log_weight[k] - largest);
    total += responsibility;
    for (int d = 0; d < kDims; ++d) {
      noise[d] += responsibility * sigma * (x[d] - alpha * c.mean[d]) / v;
    }
  }
  for (double& value : noise) value /= total;
  return noise;
}

// The loop every host writes: start, then one model call and one fused step per row.
std::vector<float> sample(const fewstep::Plan& plan) {
  std::vector<std::vector<float>> state(size_t(plan.slots()), std::vector<float>(kSamples * kDims));
  std::vector<float> input(kSamples * kDims), output(kSamples * kDims);
  std::vector<uint64_t> seeds(kSamples);
  for (size_t i = 0; i < seeds.size(); ++i) seeds[i] = i;

  std::vector<fewstep::TensorRef> slots;
  for (auto& slot : state)
    slots.emplace_back(slot.data(), std::initializer_list<int64_t>{kSamples, kDims});
  const fewstep::TensorRef seeds_ref(seeds);
  const fewstep::TensorRef input_ref(input.data(), {kSamples, kDims});
  const fewstep::TensorRef output_ref(output.data(), {kSamples, kDims});

  fewstep::solver::step(plan.start(),
                        {.slots = slots, .seeds = &seeds_ref, .model_input = &input_ref});
  for (int i = 0; i < plan.rows(); ++i) {
    const fewstep_plan_row row = plan.row(i);
    std::span<const fewstep::TensorRef> models;
    if (row.evaluates) {
      for (int64_t b = 0; b < kSamples; ++b) {
        Point x;
        for (int d = 0; d < kDims; ++d) x[d] = double(input[b * kDims + d]) / row.scale;
        const Point noise = predict_noise(x, row.alpha, row.sigma);
        for (int d = 0; d < kDims; ++d) output[b * kDims + d] = float(noise[d]);
      }
      models = {&output_ref, 1};
    }
    fewstep::solver::step(plan, {.row = i,
                                 .slots = slots,
                                 .models = models,
                                 .seeds = &seeds_ref,
                                 .model_input = &input_ref});
  }
  return state[0];
}

struct Moments {
  Point mean{};
  std::array<Point, kDims> covariance{};
};

Moments exact() {
  Moments m;
  for (const Component& c : kMixture) {
    for (int d = 0; d < kDims; ++d) m.mean[d] += c.weight * c.mean[d];
  }
  for (const Component& c : kMixture) {
    for (int d = 0; d < kDims; ++d) {
      m.covariance[d][d] += c.weight * c.variance;
      for (int e = 0; e < kDims; ++e) {
        m.covariance[d][e] += c.weight * (c.mean[d] - m.mean[d]) * (c.mean[e] - m.mean[e]);
      }
    }
  }
  return m;
}

Moments measured(const std::vector<float>& x) {
  Moments m;
  for (int64_t b = 0; b < kSamples; ++b) {
    for (int d = 0; d < kDims; ++d) m.mean[d] += x[b * kDims + d] / double(kSamples);
  }
  for (int64_t b = 0; b < kSamples; ++b) {
    for (int d = 0; d < kDims; ++d) {
      for (int e = 0; e < kDims; ++e) {
        m.covariance[d][e] +=
            (x[b * kDims + d] - m.mean[d]) * (x[b * kDims + e] - m.mean[e]) / double(kSamples);
      }
    }
  }
  return m;
}

// The mean of 20,000 samples with standard deviations of 1.2 is good to 0.009 (one sigma), their
// covariances to 0.014; 0.05 is five and three and a half of these, and far below what a wrong
// coefficient does.
bool check(const char* name, const fewstep::Plan& plan) {
  constexpr double kTolerance = 0.05;
  const Moments got = measured(sample(plan)), want = exact();
  bool right = true;
  for (int d = 0; d < kDims; ++d) {
    right = right && std::abs(got.mean[d] - want.mean[d]) < kTolerance;
    for (int e = 0; e < kDims; ++e) {
      right = right && std::abs(got.covariance[d][e] - want.covariance[d][e]) < kTolerance;
    }
  }
  std::printf(
      "%-14s %2d calls  mean (%.3f, %.3f), exact (%.3f, %.3f)  variance (%.3f, %.3f), "
      "exact (%.3f, %.3f)  %s\n",
      name, plan.calls(), got.mean[0], got.mean[1], want.mean[0], want.mean[1],
      got.covariance[0][0], got.covariance[1][1], want.covariance[0][0], want.covariance[1][1],
      right ? "ok" : "WRONG");
  return right;
}

}  // namespace

int main() {
  try {
    std::printf("fewstep %s, %s kernels\n", fewstep::version(), fewstep::cpu_isa().c_str());
    const fewstep::Schedule karras("karras", 24);
    const fewstep::Schedule fine("karras", 80);
    bool right = check("unipc", fewstep::Plan("unipc", karras));
    right = check("dpmpp_2m", fewstep::Plan("dpmpp_2m", fine)) && right;
    right = check("dpmpp_2m_sde", fewstep::Plan("dpmpp_2m_sde", fine)) && right;
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const fewstep::error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return EXIT_FAILURE;
  }
}
