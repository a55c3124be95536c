// SPDX-License-Identifier: Apache-2.0
// What a schedule is asked for, and the two kinds of grid that answer it.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "solver/schedule.h"

namespace fewstep::solver {

[[noreturn]] inline void bad_schedule(const char* field, const std::string& must,
                                      const std::string& got) {
  throw Error(FEWSTEP_INVALID_ARGUMENT, format("fewstep_schedule_create: '%s' must %s, got %s",
                                               field, must.c_str(), got.c_str()));
}

inline void require(bool ok, const char* field, const char* must, double got) {
  if (!ok) bad_schedule(field, must, number(got));
}

// The request, with defaults filled in.
struct Request {
  const fewstep_schedule_params& params;
  std::string_view name;
  int32_t steps;
  int32_t process;

  // Number of nodes that a spacing places; a final zero is appended to them.
  int placed() const { return params.final_zero ? steps : steps + 1; }
  std::string_view spacing() const { return params.spacing ? params.spacing : "linspace"; }

  // The range in the process's sigma (FLOW) or sigma / alpha (VP, VE).
  double sigma_min() const { return std::isnan(params.sigma_min) ? 0.002 : params.sigma_min; }
  double sigma_max() const {
    if (!std::isnan(params.sigma_max)) return params.sigma_max;
    return process == FEWSTEP_PROCESS_FLOW ? 1.0 : 80.0;
  }

  void check_range() const;
  void check_rho() const;
  void check_beta() const;  // beta_a, beta_b
};

struct Grid {
  Clock clock;
  std::vector<Node> nodes;
  std::function<Node(double rho)> path;  // see Schedule
};

// Nodes of a training grid (vp_linear, scaled_linear, cosine), without the final zero.
Grid discrete_grid(const Request& r);
// Nodes of all other names, without the final zero.
Grid continuous_grid(const Request& r);
// Nodes of the processes with a prior.
bool has_prior(std::string_view name);
Grid prior_grid(const Request& r);
// The caller's array, strictly decreasing; the last may be 0.
std::vector<double> given_sigmas(const Request& r);
// The caller's table of positive values, resampled.
std::vector<double> resampled_sigmas(const Request& r);

template <size_t n>
bool contains(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool is_discrete(std::string_view name);
inline Node with_time(Node node, double t) {
  node.t = t;
  return node;
}

}  // namespace fewstep::solver
