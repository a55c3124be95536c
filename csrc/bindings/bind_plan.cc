// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "py_plan.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

struct PlanOptions {
  fewstep_plan_params params = FEWSTEP_PLAN_PARAMS_INIT;
  std::string variant, parity;
  std::vector<std::string> names;
  std::vector<fewstep_plan_number> numbers;
};

// Index of a name in a list; the error lists them.
template <size_t n>
int32_t named(const char* function, const char* argument, const char* const (&names)[n],
              const std::string& value) {
  std::string list;
  for (size_t i = 0; i < n; ++i) {
    if (value == names[i]) return static_cast<int32_t>(i);
    list += (i > 0 ? ", " : "") + std::string(names[i]);
  }
  throw py::value_error(std::string(function) + ": '" + argument + "' must be one of " + list +
                        ", got " + py::repr(py::str(value)).cast<std::string>());
}

constexpr const char* kPredictions[] = {"epsilon", "x0", "v", "flow", "edm"};
constexpr const char* kFrames[] = {"x0", "epsilon", "velocity"};

constexpr const char* kCommonOptions[] = {"prediction", "order", "lower_order_final", "start",
                                          "eta",        "clip",  "sigma_data",        "s_noise",
                                          "variant",    "parity"};

// An option by which only some solvers are told a number.
bool is_own_option(const std::string& name) {
  return std::find(std::begin(kCommonOptions), std::end(kCommonOptions), name) ==
         std::end(kCommonOptions);
}

// The keyword arguments that fewstep.solver passes on; None stands for the solver's own default.
void read_options(const char* function, const py::kwargs& options, PlanOptions* out) {
  fewstep_plan_params& p = out->params;
  for (const auto& [key, value] : options) {
    const auto name = key.cast<std::string>();
    if (value.is_none()) continue;
    if (name == "prediction") {
      p.prediction = named(function, "prediction", kPredictions, value.cast<std::string>());
    }
    if (name == "order") p.order = value.cast<int32_t>();
    if (name == "lower_order_final") p.lower_order_final = value.cast<bool>();
    if (name == "start") p.start = value.cast<int32_t>();
    if (name == "eta") p.eta = value.cast<double>();
    if (name == "clip") p.clip = value.cast<double>();
    if (name == "sigma_data") p.sigma_data = value.cast<double>();
    if (name == "s_noise") p.s_noise = value.cast<double>();
    if (name == "variant") p.variant = (out->variant = value.cast<std::string>()).c_str();
    if (name == "parity") p.parity = (out->parity = value.cast<std::string>()).c_str();
    if (is_own_option(name)) {
      // A list is flattened; its entries follow one another under the same name.
      const Doubles values = value.cast<Doubles>();
      for (py::ssize_t i = 0; i < values.size(); ++i) {
        out->names.push_back(name);
        out->numbers.push_back({nullptr, values.data()[i]});
      }
    }
  }
  for (size_t i = 0; i < out->names.size(); ++i) out->numbers[i].name = out->names[i].c_str();
  p.numbers = out->numbers.data();
  p.n_numbers = static_cast<int32_t>(out->numbers.size());
}

PyPlan create(const std::string& solver, const PySchedule& schedule, const py::kwargs& kwargs) {
  PlanOptions options;
  read_options("fewstep.solver.plan", kwargs, &options);
  fewstep_plan* plan = nullptr;
  check(fewstep_plan_create(solver.c_str(), schedule.get(), &options.params, &plan));
  return PyPlan(plan);
}

PyPlan from_tableau(const Doubles& a, const Doubles& b, int32_t order, const py::object& schedule,
                    const py::object& steps, const std::string& frame, const py::kwargs& kwargs) {
  constexpr char kFunction[] = "fewstep.solver.Plan.from_tableau";
  PlanOptions options;
  read_options(kFunction, kwargs, &options);
  const int32_t frame_index = named(kFunction, "frame", kFrames, frame);
  if (b.ndim() != 1) {
    throw py::value_error("fewstep.solver.Plan.from_tableau: 'b' must have shape [stages], got " +
                          std::to_string(b.ndim()) + " dimensions");
  }
  if (a.ndim() != 2 || a.shape(0) != b.shape(0) || a.shape(1) != b.shape(0)) {
    throw py::value_error("fewstep.solver.Plan.from_tableau: 'a' must have shape [stages=" +
                          std::to_string(b.shape(0)) + ", stages], got " +
                          py::repr(a.attr("shape")).cast<std::string>());
  }
  const py::object made = schedule.attr("_create")(steps);
  fewstep_plan* plan = nullptr;
  check(fewstep_plan_from_tableau(a.data(), b.data(), static_cast<int32_t>(b.shape(0)), order,
                                  frame_index, made.cast<const PySchedule&>().get(),
                                  &options.params, &plan));
  return PyPlan(plan);
}

fewstep_plan_row row_at(const PyPlan& self, int32_t i) {
  fewstep_plan_row row;
  check(fewstep_plan_row_at(self.get(), i, &row));
  return row;
}

int32_t n_rows(const PyPlan& self) { return fewstep_plan_rows(self.get()); }

Doubles column(const PyPlan& self, double fewstep_plan_row::* member) {
  Doubles values(n_rows(self));
  for (int32_t i = 0; i < n_rows(self); ++i) values.mutable_at(i) = row_at(self, i).*member;
  return values;
}

std::string to_json(const PyPlan& self) {
  size_t needed = 0;
  check(fewstep_plan_to_json(self.get(), nullptr, 0, &needed));
  std::string text(needed, '\0');
  check(fewstep_plan_to_json(self.get(), text.data(), text.size(), &needed));
  text.resize(needed - 1);
  return text;
}

PyPlan from_json(const std::string& text) {
  fewstep_plan* plan = nullptr;
  check(fewstep_plan_from_json(text.data(), text.size(), &plan));
  return PyPlan(plan);
}

PyPlan from_rows(const std::vector<fewstep_plan_row>& rows, const std::string& name) {
  fewstep_plan* plan = nullptr;
  // An empty vector has no data(): the library refuses the count, not the pointer.
  const fewstep_plan_row none{};
  check(fewstep_plan_from_rows(rows.empty() ? &none : rows.data(),
                               static_cast<int32_t>(rows.size()), name.c_str(), &plan));
  return PyPlan(plan);
}

PyPlan concat(const py::iterable& plans) {
  std::vector<const fewstep_plan*> pointers;
  std::vector<py::object> keep;  // an iterator's plans must outlive the call
  for (const auto plan : plans) {
    keep.push_back(py::reinterpret_borrow<py::object>(plan));
    pointers.push_back(plan.cast<const PyPlan&>().get());
  }
  const fewstep_plan* none = nullptr;
  fewstep_plan* out = nullptr;
  check(fewstep_plan_concat(pointers.empty() ? &none : pointers.data(),
                            static_cast<int32_t>(pointers.size()), &out));
  return PyPlan(out);
}

PyPlan with_guidance(const PyPlan& self, const Doubles& weights) {
  if (weights.ndim() != 1 && weights.ndim() != 2) {
    throw py::value_error("fewstep.solver.Plan.with_guidance: 'weights' must have shape [G] or [" +
                          std::to_string(n_rows(self)) + ", G], got " +
                          py::repr(weights.attr("shape")).cast<std::string>());
  }
  const bool per_row = weights.ndim() == 2;
  fewstep_plan* out = nullptr;
  check(fewstep_plan_with_guidance(self.get(), weights.data(),
                                   per_row ? static_cast<int32_t>(weights.shape(0)) : 1,
                                   static_cast<int32_t>(weights.shape(per_row ? 1 : 0)), &out));
  return PyPlan(out);
}

PyPlan start(const PyPlan& self, int32_t row, bool known) {
  fewstep_plan* out = nullptr;
  check(fewstep_plan_start(self.get(), row, known, &out));
  return PyPlan(out);
}

py::tuple rows(const PyPlan& self) {
  py::tuple out(n_rows(self));
  for (int32_t i = 0; i < n_rows(self); ++i) out[static_cast<size_t>(i)] = row_at(self, i);
  return out;
}

void prepare(const PyPlan& self, py::handle device) {
  const fewstep_context* ctx = context_on(device, "fewstep.solver.Plan.prepare");
  fewstep_status status;
  {
    const py::gil_scoped_release release;  // it waits for a copy
    status = fewstep_plan_prepare(self.get(), ctx);
  }
  check(status);
}

py::object equal(const PyPlan& self, py::handle other) {
  if (!py::isinstance<PyPlan>(other)) {
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  }
  return py::bool_(fewstep_plan_equal(self.get(), other.cast<const PyPlan&>().get()) != 0);
}

std::string represent(const PyPlan& self) {
  return std::string("<fewstep.solver.Plan ") +
         py::repr(py::str(fewstep_plan_name(self.get()))).cast<std::string>() + ": " +
         std::to_string(n_rows(self)) + " rows, " + std::to_string(fewstep_plan_calls(self.get())) +
         " model calls, " + std::to_string(fewstep_plan_slots(self.get())) + " slots>";
}

constexpr char kPlanDoc[] = R"(An immutable table of solver rows, from `fewstep.solver.plan`.

``len(plan)`` is the number of rows; plans compare and hash by their rows, the name does not count.

Examples
--------
>>> plan = fewstep.solver.plan("dpmpp_2m", steps=8, schedule=fewstep.schedules.karras(0.02, 80.0))
>>> plan
<fewstep.solver.Plan 'dpmpp_2m': 8 rows, 8 model calls, 2 slots>
>>> fewstep.solver.Plan.from_json(plan.to_json()) == plan
True
)";

constexpr char kTableauDoc[] = R"(Make a plan from an explicit Runge-Kutta tableau.

Parameters
----------
a : array, shape (stages, stages)
    Strictly lower triangular; its rows sum to values between 0 and 1. At most 6 stages.
b : array, shape (stages,)
    Weights; they sum to 1.
order : int
    The order that the tableau claims.
schedule : Schedule
steps : int
frame : {"epsilon", "x0", "velocity"}
    What is integrated: x / alpha over sigma / alpha, x / sigma over alpha / sigma, or x over sigma
    (flow only).
**options
    ``prediction``, ``clip``, ``sigma_data`` and ``start``, as in `fewstep.solver.plan`.

Returns
-------
Plan
    A last step to sigma = 0, where no model can be called, is x0 itself.
)";

constexpr char kPrepareDoc[] = R"(Copy the plan to a device, where `step` reads it.

Needed only before a step with `row` or `guidance` as arrays on CUDA is captured into a graph;
outside of one `step` does it on first use.

Parameters
----------
device : int, str or torch.device
    ``"cuda:1"`` or 1; ``"cuda"`` is torch's current device, without torch the first. For
    ``"cpu"`` there is nothing to do.

Raises
------
ValueError
    `device` names none, or a stream is being captured.
NotImplementedError
    The build has no CUDA kernels, or the machine no such device.

Notes
-----
Allocates and waits for the copy; a second time does nothing. The copy lives as long as the plan,
which must outlive the graphs that captured its steps.

Examples
--------
>>> plan = fewstep.solver.plan("euler", steps=4, schedule=fewstep.schedules.karras(0.02, 80.0))
>>> plan.prepare("cpu")
)";

void bind_properties(py::class_<PyPlan>& plan) {
  const auto with_column = [](double fewstep_plan_row::* member) {
    return [member](const PyPlan& self) { return column(self, member); };
  };
  plan.def_property_readonly("rows", &rows, "The rows, a tuple of `Row`.")
      .def_property_readonly(
          "name", [](const PyPlan& self) { return fewstep_plan_name(self.get()); },
          "Where the plan comes from: its solver's name.")
      .def_property_readonly(
          "slots", [](const PyPlan& self) { return fewstep_plan_slots(self.get()); },
          "Number of state slots.")
      .def_property_readonly(
          "calls", [](const PyPlan& self) { return fewstep_plan_calls(self.get()); },
          "Number of model calls.")
      .def_property_readonly(
          "process", [](const PyPlan& self) { return row_at(self, 0).process; },
          "Process of the first row: 0 VP, 1 VE, 2 flow.")
      .def_property_readonly("times", with_column(&fewstep_plan_row::t),
                             "Model time of each row, float64 [rows].")
      .def_property_readonly("scales", with_column(&fewstep_plan_row::scale),
                             "Factor on the model's input of each row, float64 [rows].")
      .def_property_readonly("alphas", with_column(&fewstep_plan_row::alpha),
                             "Signal scale at each row's model call, float64 [rows].")
      .def_property_readonly("sigmas", with_column(&fewstep_plan_row::sigma),
                             "Noise scale at each row's model call, float64 [rows].");
}

void bind_plan_class(py::module_& m) {
  py::class_<PyPlan> plan(m, "Plan", kPlanDoc);
  bind_properties(plan);
  plan.def_static("_create", &create)
      .def_static("from_tableau", &from_tableau, py::arg("a"), py::arg("b"), py::kw_only(),
                  py::arg("order"), py::arg("schedule"), py::arg("steps") = py::none(),
                  py::arg("frame") = "epsilon", kTableauDoc)
      .def_static("from_rows", &from_rows, py::arg("rows"), py::arg("name") = "",
                  "Make a plan from `Row` objects.")
      .def_static("from_json", &from_json, py::arg("text"),
                  "Read what `to_json` wrote; unknown and missing keys are errors.")
      .def_static("concat", &concat, py::arg("plans"),
                  "Join plans: plan i's rows begin at the sum of the earlier plans' lengths.")
      .def("to_json", &to_json, "Return the plan as JSON; numbers read back exactly.")
      .def(
          "start", &start, py::arg("row") = 0, py::arg("known") = false,
          "Return a one-row plan that places slot 0 at the model call of `row`: from noise alone,\n"
          "or, with `known`, from alpha * known + sigma * noise.")
      .def("prepare", &prepare, py::arg("device"), kPrepareDoc)
      .def("with_guidance", &with_guidance, py::arg("weights"),
           "Return the plan with guidance weights [G], or [rows, G], over the raw model outputs.")
      .def(
          "validate",
          [](const PyPlan& self) {
            double residual = 0;
            check(fewstep_plan_validate(self.get(), &residual));
            return residual;
          },
          "Check every row's moment conditions; return the largest relative residual.\n\n"
          "Raises ValueError naming the row and the condition when one exceeds 1e-9.")
      .def("__len__", &n_rows)
      .def("__getitem__",
           [](const PyPlan& self, int32_t i) {
             const int32_t n = n_rows(self);
             if (i < -n || i >= n) throw py::index_error("row " + std::to_string(i));
             return row_at(self, i < 0 ? i + n : i);
           })
      .def("__eq__", &equal)
      .def("__hash__",
           [](const PyPlan& self) { return static_cast<int64_t>(fewstep_plan_hash(self.get())); })
      .def("__repr__", &represent)
      .def(py::pickle(
          [](const PyPlan& self) { return py::make_tuple(to_json(self)); },
          [](const py::tuple& state) { return from_json(state[0].cast<std::string>()); }));
}

}  // namespace

void bind_plan(py::module_& m) {
  bind_row(m);
  bind_schedule(m);
  bind_plan_class(m);
  m.def("solver_names", [] {
    py::list names;
    for (int32_t i = 0; fewstep_plan_solver(i); ++i) names.append(fewstep_plan_solver(i));
    return names;
  });
}

}  // namespace fewstep::python
