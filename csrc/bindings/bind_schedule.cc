// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>

#include "py_plan.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

// The keyword arguments are the fields of fewstep_schedule_params by name.
PySchedule make_schedule(const std::string& name, int32_t steps, const py::kwargs& fields) {
  fewstep_schedule_params p = FEWSTEP_SCHEDULE_PARAMS_INIT;
  std::string spacing;
  Doubles sigmas;
  const std::pair<const char*, double*> numbers[] = {{"beta_start", &p.beta_start},
                                                     {"beta_end", &p.beta_end},
                                                     {"sigma_min", &p.sigma_min},
                                                     {"sigma_max", &p.sigma_max},
                                                     {"rho", &p.rho},
                                                     {"shift", &p.shift},
                                                     {"beta_a", &p.beta_a},
                                                     {"beta_b", &p.beta_b},
                                                     {"terminal", &p.terminal},
                                                     {"threshold", &p.threshold},
                                                     {"t_min", &p.t_min},
                                                     {"t_max", &p.t_max},
                                                     {"stiffness", &p.stiffness},
                                                     {"alpha_min", &p.alpha_min}};
  const std::pair<const char*, int32_t*> counts[] = {
      {"process", &p.process},           {"train_steps", &p.train_steps},
      {"final_zero", &p.final_zero},     {"steps_offset", &p.steps_offset},
      {"linear_steps", &p.linear_steps}, {"zero_terminal_snr", &p.zero_terminal_snr}};
  for (const auto& [key, value] : fields) {
    const auto field = key.cast<std::string>();
    bool known = true;
    if (field == "spacing") {
      p.spacing = (spacing = value.cast<std::string>()).c_str();
    } else if (field == "sigmas") {
      sigmas = value.cast<Doubles>();
      p.sigmas = sigmas.data();
      p.n_sigmas = sigmas.size();
    } else {
      known = false;
    }
    for (const auto& [name_of, target] : numbers) {
      if (field == name_of) *target = value.cast<double>(), known = true;
    }
    for (const auto& [name_of, target] : counts) {
      if (field == name_of) *target = value.cast<int32_t>(), known = true;
    }
    if (!known) throw py::type_error("fewstep.schedules: unknown parameter '" + field + "'");
  }
  fewstep_schedule* schedule = nullptr;
  check(fewstep_schedule_create(name.c_str(), steps, &p, &schedule));
  return PySchedule(schedule);
}

py::tuple schedule_nodes(const PySchedule& self) {
  const py::ssize_t n = fewstep_schedule_steps(self.get()) + 1;
  Doubles t(n), alpha(n), sigma(n), lambda(n), prior(n);
  for (py::ssize_t i = 0; i < n; ++i) {
    fewstep_node node;
    check(fewstep_schedule_node(self.get(), static_cast<int32_t>(i), &node));
    t.mutable_at(i) = node.t;
    alpha.mutable_at(i) = node.alpha;
    sigma.mutable_at(i) = node.sigma;
    lambda.mutable_at(i) = node.lambda;
    prior.mutable_at(i) = node.prior;
  }
  return py::make_tuple(t, alpha, sigma, lambda, prior);
}

}  // namespace

void bind_schedule(py::module_& m) {
  py::class_<PySchedule>(m, "Schedule")
      .def(py::init(&make_schedule), py::arg("name"), py::arg("steps"))
      .def("nodes", &schedule_nodes)
      .def_property_readonly(
          "process", [](const PySchedule& self) { return fewstep_schedule_process(self.get()); });
}

}  // namespace fewstep::python
