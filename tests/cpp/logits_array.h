// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "heap_array.h"

namespace heap {

// Vocabularies around the widths of vectors and blocks.
constexpr int64_t kVocabularies[] = {1, 2, 7, 16, 33, 64, 127, 513, 1030};

// Logits [R, V] in float32 or in 16 bits, which hold the same values.
struct Logits {
  Logits(Random& random, int64_t R, int64_t vocabulary, bool narrow)
      : V(vocabulary), values(quarters(random, size_t(R * V), 12)) {
    if (narrow) {
      brain.emplace(Shape{R, V});
      for (size_t i = 0; i < values.size(); ++i) (*brain)[i] = Brain::of(values[i]);
    } else {
      single.emplace(Shape{R, V}, values);
    }
  }
  const fewstep_tensor* tensor() const { return single ? single->tensor() : brain->tensor(); }
  const float* row(int64_t r) const { return values.data() + r * V; }
  // log p(v) of row r, of the `top_k` largest where that is above 0.
  double log_probability(int64_t r, int32_t v, int32_t top_k = 0) const {
    std::vector<double> x(row(r), row(r) + V);
    std::sort(x.rbegin(), x.rend());
    if (top_k > 0) x.resize(std::min(x.size(), size_t(top_k)));
    if (row(r)[v] < float(x.back())) return -HUGE_VAL;
    double sum = 0.0;
    for (const double each : x) sum += std::exp(each - x[0]);
    return double(row(r)[v]) - x[0] - std::log(sum);
  }

  int64_t V;
  std::vector<float> values;
  std::optional<Array<float>> single;
  std::optional<Array<Brain>> brain;
};

}  // namespace heap
