// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace fewstep::generate {

constexpr int32_t kMostRows = 1 << 24;  // of a call: a curve has a number for each

// A point of the curve.
struct Point {
  int32_t rows;
  double seconds;
};

// See fewstep_call_cost.
class CallCost {
 public:
  void add(int32_t rows, double seconds);
  int32_t count(int32_t rows) const;
  // The seconds of 0, 1, .. `most` rows and more; empty of fewer than two sizes.
  const std::vector<double>& curve(int32_t most);

 private:
  struct Size {
    std::vector<double> recent;  // kRecent at most, in a ring
    std::size_t next = 0;
    int64_t last = 0;  // the call that was measured last
  };

  std::vector<Point> points() const;
  void draw(int32_t most);

  std::map<int32_t, Size> sizes_;  // by rows
  int64_t calls_ = 0;
  std::vector<double> curve_;  // of a few calls ago
};

}  // namespace fewstep::generate

struct fewstep_call_cost {
  fewstep::generate::CallCost measured;
};
