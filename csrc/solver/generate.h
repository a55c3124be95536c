// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fewstep/plan.h"
#include "solver/expr.h"
#include "solver/schedule.h"
#include "solver/weights.h"

namespace fewstep::solver {

// fewstep_plan_params with the solver's defaults filled in.
struct Settings {
  int prediction = FEWSTEP_PREDICTION_EPSILON;
  int order = 1;
  bool lower_order_final = false;
  int start = 0;
  double eta = 0, clip = 0, sigma_data = 0.5, s_noise = 1;
  double boundary = 0;  // sigma where the network is the identity (consistency models)
  std::string variant, parity;
  std::vector<std::pair<std::string, double>> numbers;  // the solver's own, by name

  // All entries of an option that is a list.
  std::vector<double> list(std::string_view name) const {
    std::vector<double> values;
    for (const auto& [key, value] : numbers) {
      if (key == name) values.push_back(value);
    }
    return values;
  }

  double number(std::string_view name, double otherwise = 0) const {
    for (const auto& [key, value] : numbers) {
      if (key == name) return value;
    }
    return otherwise;
  }
};

// What a model call tells, as combinations of slot 0 and the guided model output.
struct Quantities {
  Expr x0, noise, velocity;

  const Expr& in(fewstep_frame frame) const {
    return frame == FEWSTEP_FRAME_X0 ? x0 : frame == FEWSTEP_FRAME_EPSILON ? noise : velocity;
  }
};

// Provenance of a row: the model call it consumes, where its interval starts, where slot 0 goes.
struct Place {
  int step;  // schedule interval
  Node at, from, next;
  fewstep_frame frame = FEWSTEP_FRAME_X0;
  fewstep_variable variable = FEWSTEP_VARIABLE_LAMBDA;
  int order = 1;  // polynomials m of lower degree are integrated exactly
  double tau = 0;
  bool evaluates = true;  // false: the row consumes no model output
};

// Collects the rows of a solver; finish() adds what all solvers share.
class Generator {
 public:
  Generator(const Schedule& schedule, const Settings& settings)
      : schedule_(schedule), settings_(settings) {}

  const Schedule& schedule() const { return schedule_; }
  const Settings& settings() const { return settings_; }
  int first() const { return settings_.start; }
  int steps() const { return schedule_.steps(); }
  const Node& node(int i) const { return schedule_.node(i); }
  // Nodes newest, newest - 1, ..., `count` of them.
  std::vector<Node> nodes(int newest, int count) const;
  // Order at a step: what history there is and, with lower_order_final, what is left to do.
  int order_at(int step) const;

  Quantities quantities(const Node& at) const;
  // The step's noise; a step that needs several numbers them.
  Expr step_noise(int step, uint32_t draw = 0) const;

  // Slot 0 becomes `state`. Outputs to other slots follow.
  void add(const Place& place, Expr state, std::vector<Output> others = {});

  // Rows with model inputs and mask blends, without writes that nobody reads.
  std::vector<fewstep_plan_row> finish();

 private:
  struct Pending {
    Place place;
    std::vector<Output> outputs;
  };

  void drop_dead_outputs();
  bool draws_noise() const;
  static void add_prior(const Place& place, Output* output);
  fewstep_plan_row row(const Pending& pending, bool last, bool stochastic) const;

  const Schedule& schedule_;
  const Settings& settings_;
  std::vector<Pending> pending_;
};

// x0 = p * (slot 0) + q * (model output), and the factor on the model's input.
struct Conversion {
  double p, q, scale;
};
Conversion conversion(const Settings& settings, int32_t process, const Node& at);
// Only the factor: defined at every node, also where no model is called.
double input_scale(const Settings& settings, int32_t process, const Node& at);

// Changes the weights of a step to a method's own rule. `nodes` are those of the step, newest
// first.
using Adjust = std::function<void(const Node& from, const Node& to, std::span<const Node> nodes,
                                  Weights* weights)>;

// Adams-Bashforth in a frame: `order` newest values of m, older ones kept in a ring of slots.
void multistep(Generator* g, Interpolation how, const Adjust& adjust = {});

// Rules that change the weights of two and of three nodes; see multistep.cc.
void midpoint(const Node& from, const Node& to, std::span<const Node> nodes, Weights* w);
void halve_second_difference(const Interpolation& how, const Node& from, const Node& to,
                             std::span<const Node> nodes, Weights* w);

// Explicit Runge-Kutta over each interval in the frame's mu: a [stages, stages], b [stages].
void runge_kutta(Generator* g, fewstep_frame frame, std::span<const double> a,
                 std::span<const double> b, int order);

// The one-node step of interval i, in the x0 frame.
void one_node_step(Generator* g, int i);

// One interval of it between any two nodes.
void runge_kutta_step(Generator* g, fewstep_frame frame, std::span<const double> a,
                      std::span<const double> b, int order, int i, const Node& from,
                      const Node& to);

// The one-node step, with the noise of DDIM's eta.
void first_order(Generator* g, double eta);

// The solvers, one function each; the table in generate.cc names them.
void euler(Generator* g);
void ddim(Generator* g);
void ddpm(Generator* g);
void flow_euler(Generator* g);
void lcm(Generator* g);
void heun(Generator* g);
void flow_heun(Generator* g);
void dpmpp_2m(Generator* g);
void dpmpp_3m(Generator* g);
void deis(Generator* g);
void dpm_2m(Generator* g);
void dpm_3m(Generator* g);
void lms(Generator* g);
void res_multistep(Generator* g);
void ipndm(Generator* g);
void gradient_estimation(Generator* g);
void hb(Generator* g);
void ghvb(Generator* g);
void pndm(Generator* g);
void dpm_single(Generator* g);
void dpmpp_single(Generator* g);
void dpm_embedded(Generator* g);
void dpmpp_embedded(Generator* g);
void res_2s(Generator* g);
void res_3s(Generator* g);
void explicit_midpoint(Generator* g);
void flow_midpoint(Generator* g);
void deis_rk(Generator* g);
void rectified_flow(Generator* g);
void flowturbo(Generator* g);
void accelerated_ddim(Generator* g);
void accelerated_ddpm(Generator* g);
void unipc(Generator* g);

// Name of the i-th solver; NULL past the end.
const char* solver_name(int32_t i);

// Rows of a named solver; checks every option.
std::vector<fewstep_plan_row> generate(const char* solver, const Schedule& schedule,
                                       const fewstep_plan_params& params);
std::vector<fewstep_plan_row> generate_tableau(std::span<const double> a, std::span<const double> b,
                                               int32_t order, int32_t frame,
                                               const Schedule& schedule,
                                               const fewstep_plan_params& params);

}  // namespace fewstep::solver
