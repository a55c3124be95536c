// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fewstep/schedule.h"

namespace fewstep::solver {

// x = alpha * x0 + sigma * noise, with rho = sigma / alpha and lambda = -log(rho).
struct Node {
  double t = 0, alpha = 1, sigma = 0, lambda = 0;
  double prior = 0;  // of x = alpha * x0 + prior * y + sigma * noise
  double rho() const { return sigma / alpha; }
};

// Model time against lambda: linear between the training steps of a discrete-time model, which is
// the interpolation of log sigma that public samplers use. Empty for other processes.
class Clock {
 public:
  Clock() = default;
  explicit Clock(std::vector<double> lambda) : lambda_(std::move(lambda)) {}

  bool empty() const { return lambda_.empty(); }
  int steps() const { return static_cast<int>(lambda_.size()); }
  // lambda at training step t; fractional t between two steps.
  double lambda(double t) const;
  // The time at lambda, clamped to the training steps.
  double time(double lambda) const;
  // Values of lambda at the training steps strictly between two values.
  std::vector<double> knots(double lambda_from, double lambda_to) const;

 private:
  std::vector<double> lambda_;  // [training steps], decreasing
};

// Nodes from noise to data. Immutable once made.
class Schedule {
 public:
  static Schedule create(const char* name, int32_t steps, const fewstep_schedule_params& params);

  int32_t steps() const { return static_cast<int32_t>(nodes_.size()) - 1; }
  int32_t process() const { return process_; }
  const Node& node(int i) const { return nodes_[static_cast<size_t>(i)]; }
  const Clock& clock() const { return clock_; }
  // The node of this process at a noise-to-signal ratio, for stages between two nodes.
  Node at_rho(double rho) const;

 private:
  int32_t process_ = FEWSTEP_PROCESS_VE;
  std::vector<Node> nodes_;
  Clock clock_;
  std::function<Node(double rho)> path_;  // the node at a ratio, where the process does not say it
};

// alpha and sigma of a process at a noise-to-signal ratio, infinity included; t is left at 0.
Node node_of_process(int32_t process, double rho);

}  // namespace fewstep::solver

struct fewstep_schedule {
  fewstep::solver::Schedule schedule;
};
