// SPDX-License-Identifier: Apache-2.0
// Named solvers: the checks of their options.
#include "solver/generate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/status.h"
#include "solver/solvers.h"
#include "solver/stochastic.h"

namespace fewstep::solver {
namespace {

constexpr char kFunction[] = "fewstep_plan_create";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

[[noreturn]] void fail(const char* field, const std::string& must, const std::string& got) {
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("%s: '%s' must %s, got %s", kFunction, field, must.c_str(), got.c_str()));
}

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

// "a, b, c" of "a b c".
std::string comma_separated(std::string_view words) {
  std::string list;
  for (const char c : words) {
    if (c == ' ') list += ',';
    list += c;
  }
  return list;
}

std::string_view first_word(std::string_view words) { return words.substr(0, words.find(' ')); }

bool contains_word(std::string_view words, std::string_view word) {
  while (!words.empty()) {
    const std::string_view head = first_word(words);
    if (head == word) return true;
    words.remove_prefix(std::min(words.size(), head.size() + 1));
  }
  return false;
}

// One of `words`, `otherwise` when absent.
std::string choice(const char* field, const char* value, std::string_view words,
                   std::string_view otherwise, const char* solver) {
  if (!value) return std::string(otherwise);
  if (words.empty()) fail(field, format("be left out for %s", solver), quoted(value));
  if (!contains_word(words, value)) {
    fail(field, format("be one of %s for %s", comma_separated(words).c_str(), solver),
         quoted(value));
  }
  return value;
}

double or_default(double value, double otherwise) { return std::isnan(value) ? otherwise : value; }

// Options that every solver takes.
Settings common_settings(const Schedule& schedule, const fewstep_plan_params& p) {
  Settings s;
  if (p.prediction < FEWSTEP_PREDICTION_EPSILON || p.prediction > FEWSTEP_PREDICTION_EDM) {
    fail("prediction", "be 0 (epsilon), 1 (x0), 2 (v), 3 (flow) or 4 (edm)",
         std::to_string(p.prediction));
  }
  s.prediction = p.prediction;
  if (p.lower_order_final < -1 || p.lower_order_final > 1) {
    fail("lower_order_final", "be -1, 0 or 1", std::to_string(p.lower_order_final));
  }
  s.lower_order_final =
      p.lower_order_final == 1 || (p.lower_order_final == -1 && schedule.steps() < 15);
  if (p.start < 0 || p.start >= schedule.steps()) {
    fail("start", format("be 0 to %d, below the schedule's steps", schedule.steps() - 1),
         std::to_string(p.start));
  }
  s.start = p.start;
  s.clip = or_default(p.clip, kInfinity);
  if (!(s.clip > 0)) fail("clip", "be above 0", number(s.clip));
  if (std::isfinite(s.clip) && schedule.process() == FEWSTEP_PROCESS_PRIOR &&
      s.prediction != FEWSTEP_PREDICTION_X0) {
    fail("clip", "be left out for a process with a prior unless prediction is x0", number(s.clip));
  }
  if (!std::isnan(p.sigma_data) && p.prediction != FEWSTEP_PREDICTION_EDM) {
    fail("sigma_data", "be left out unless prediction is edm", number(p.sigma_data));
  }
  s.sigma_data = or_default(p.sigma_data, 0.5);
  if (!(s.sigma_data > 0 && std::isfinite(s.sigma_data))) {
    fail("sigma_data", "be finite and above 0", number(s.sigma_data));
  }
  return s;
}

// The numeric options of this solver, each with its default.
void read_numbers(const Solver& solver, const fewstep_plan_params& p, Settings* s) {
  for (const NumberOption& option : solver.numbers) {
    if (option.name && !std::isnan(option.value))
      s->numbers.emplace_back(option.name, option.value);
  }
  if (p.n_numbers < 0 || (p.n_numbers > 0 && !p.numbers)) {
    fail("n_numbers", "be the length of 'numbers'", std::to_string(p.n_numbers));
  }
  std::vector<std::pair<std::string, double>> given;
  for (int32_t i = 0; i < p.n_numbers; ++i) {
    const char* name = p.numbers[i].name ? p.numbers[i].name : "";
    const double value = p.numbers[i].value;
    const auto option = std::ranges::find_if(solver.numbers, [&](const NumberOption& o) {
      return o.name && std::string_view(o.name) == name;
    });
    if (option == solver.numbers.end()) {
      fail(name, format("be left out for %s", solver.name), number(value));
    }
    if (!(value >= option->low && value <= option->high)) {
      fail(name,
           format("be %s to %s for %s", number(option->low).c_str(), number(option->high).c_str(),
                  solver.name),
           number(value));
    }
    if (option->kind == NumberOption::kWhole && value != std::floor(value)) {
      fail(name, format("be a whole number for %s", solver.name), number(value));
    }
    given.emplace_back(name, value);
  }
  for (const auto& [name, value] : given) {
    std::erase_if(s->numbers, [&](const auto& entry) { return entry.first == name; });
  }
  s->numbers.insert(s->numbers.end(), given.begin(), given.end());
}

Settings solver_settings(const Solver& solver, const Schedule& schedule,
                         const fewstep_plan_params& p) {
  Settings s = common_settings(schedule, p);
  s.order = p.order == 0 ? solver.default_order : p.order;
  const bool fixed = solver.max_order == solver.default_order && !(solver.flags & kAnyOrder);
  const int min_order = fixed ? solver.max_order : 1;
  if (s.order < min_order || s.order > solver.max_order) {
    const std::string range = min_order == solver.max_order
                                  ? std::to_string(min_order)
                                  : format("%d to %d", min_order, solver.max_order);
    fail("order", format("be %s for %s", range.c_str(), solver.name), std::to_string(p.order));
  }
  if ((solver.flags & kFlowOnly) && schedule.process() != FEWSTEP_PROCESS_FLOW) {
    fail("schedule", format("be a flow (alpha = 1 - sigma) for %s", solver.name),
         schedule.process() == FEWSTEP_PROCESS_VP   ? "VP"
         : schedule.process() == FEWSTEP_PROCESS_VE ? "VE"
                                                    : "a process with a prior");
  }
  const bool takes_eta = !std::isnan(solver.default_eta);
  if (!std::isnan(p.eta) && !takes_eta) {
    fail("eta", format("be left out for %s", solver.name), number(p.eta));
  }
  s.eta = takes_eta ? or_default(p.eta, solver.default_eta) : 0;
  if (!(s.eta >= 0 && s.eta <= solver.max_eta && std::isfinite(s.eta))) {
    if (takes_eta) {
      fail("eta", std::isinf(solver.max_eta) ? "be finite and at least 0" : "be 0 to 1",
           number(s.eta));
    }
  }
  const bool draws = takes_eta || (solver.flags & kDraws);
  if (!std::isnan(p.s_noise) && !draws) {
    fail("s_noise", format("be left out for %s", solver.name), number(p.s_noise));
  }
  s.s_noise = or_default(p.s_noise, 1);
  if (!(s.s_noise >= 0 && std::isfinite(s.s_noise))) {
    fail("s_noise", "be finite and at least 0", number(s.s_noise));
  }
  if (std::string_view(solver.variants) == kAnyText) {
    s.variant = p.variant ? p.variant : "";
  } else {
    s.variant =
        choice("variant", p.variant, solver.variants, first_word(solver.variants), solver.name);
  }
  s.parity = choice("parity", p.parity, solver.parities, "", solver.name);
  if (solver.function == unipc && s.parity == "diffusers" && p.lower_order_final == -1) {
    s.lower_order_final = true;  // diffusers does it whatever the number of steps
  }
  if ((solver.flags & kKeepsOrder) && p.lower_order_final == -1) s.lower_order_final = false;
  read_numbers(solver, p, &s);
  if (solver.function == consistency) s.boundary = s.number("sigma_min");
  return s;
}

void check_tableau(std::span<const double> a, std::span<const double> b) {
  const size_t stages = b.size();
  double sum = 0;
  for (size_t i = 0; i < stages; ++i) {
    if (!std::isfinite(b[i])) fail("b", "be finite", number(b[i]));
    sum += b[i];
    double c = 0;
    for (size_t j = 0; j < stages; ++j) {
      const double value = a[i * stages + j];
      if (!std::isfinite(value)) fail("a", "be finite", number(value));
      if (j >= i && value != 0) {
        fail("a", format("be strictly lower triangular: a[%zu][%zu] = 0", i, j), number(value));
      }
      c += value;
    }
    if (c < 0 || c > 1 + 1e-12) {
      fail("a", format("have rows that sum to 0 to 1: row %zu", i), number(c));
    }
  }
  if (std::abs(sum - 1) > 1e-12) fail("b", "sum to 1", number(sum));
}

}  // namespace

const char* solver_name(int32_t i) {
  const bool inside = i >= 0 && i < static_cast<int32_t>(solvers().size());
  return inside ? solvers()[static_cast<size_t>(i)].name : nullptr;
}

std::vector<fewstep_plan_row> generate(const char* name, const Schedule& schedule,
                                       const fewstep_plan_params& params) {
  const std::string_view wanted = name ? name : "";
  for (const Solver& solver : solvers()) {
    if (wanted != solver.name) continue;
    const Settings settings = solver_settings(solver, schedule, params);
    Generator generator(schedule, settings);
    solver.function(&generator);
    return generator.finish();
  }
  std::string names;
  for (const Solver& solver : solvers()) {
    names += names.empty() ? "" : ", ";
    names += solver.name;
  }
  fail("solver", "be one of " + names, name ? quoted(name) : "NULL");
}

std::vector<fewstep_plan_row> generate_tableau(std::span<const double> a, std::span<const double> b,
                                               int32_t order, int32_t frame,
                                               const Schedule& schedule,
                                               const fewstep_plan_params& params) {
  check_tableau(a, b);
  if (order < 1 || order > 8) fail("order", "be 1 to 8", std::to_string(order));
  if (frame < FEWSTEP_FRAME_X0 || frame > FEWSTEP_FRAME_VELOCITY) {
    fail("frame", "be 0 (x0), 1 (epsilon) or 2 (velocity)", std::to_string(frame));
  }
  if (frame == FEWSTEP_FRAME_VELOCITY && schedule.process() != FEWSTEP_PROCESS_FLOW) {
    fail("frame", "be x0 or epsilon unless the schedule is a flow", "velocity");
  }
  if (params.n_numbers > 0 && params.numbers) {
    fail(params.numbers[0].name, "be left out for a tableau", number(params.numbers[0].value));
  }
  const Settings settings = common_settings(schedule, params);
  Generator generator(schedule, settings);
  runge_kutta(&generator, static_cast<fewstep_frame>(frame), a, b, order);
  return generator.finish();
}

}  // namespace fewstep::solver
