// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <span>

#include "solver/generate.h"

namespace fewstep::solver {

// A numeric option that only some solvers have.
struct NumberOption {
  const char* name = nullptr;
  double value = 0, low = 0, high = 0;             // the default, and the bounds, both included
  enum { kNumber, kWhole, kList } kind = kNumber;  // a list's entries are given one by one
};

enum : unsigned {
  kFlowOnly = 1,    // alpha = 1 - sigma
  kDraws = 2,       // injects noise whatever eta: takes s_noise
  kAnyOrder = 8,    // down to 1, though the default is the highest
  kKeepsOrder = 4,  // lower_order_final is off unless asked for, as the method is published
};

struct Solver {
  const char* name;
  void (*function)(Generator*);
  int default_order, max_order;
  double default_eta;    // NaN: takes no eta
  double max_eta;        // above it a step would remove more than the old noise
  const char* variants;  // space separated, the default first; "" takes none
  const char* parities;
  unsigned flags = 0;
  std::array<NumberOption, 4> numbers{};
};

constexpr char kAnyText[] = "*";  // the solver reads its variant itself

// The table of solvers.
std::span<const Solver> solvers();

}  // namespace fewstep::solver
