// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace fewstep::solver {

// A number with the fresh normals it holds, as what has been added since the interval's start.
struct Value {
  double mean = 0;
  std::vector<std::pair<uint64_t, double>> noise;

  void add(double factor, const Value& other) {
    if (factor == 0) return;
    mean += factor * other.mean;
    for (const auto& [key, of_other] : other.noise) add_noise(key, factor * of_other);
  }
  void add_noise(uint64_t key, double factor) {
    for (auto& [mine, value] : noise) {
      if (mine == key) {
        value += factor;
        return;
      }
    }
    noise.emplace_back(key, factor);
  }
  double variance() const {
    double sum = 0;
    for (const auto& [key, factor] : noise) sum += factor * factor;
    return sum;
  }
};

}  // namespace fewstep::solver
