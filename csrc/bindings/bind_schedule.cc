// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "py_plan.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

PySchedule make_schedule(const std::string& name, int32_t steps, int32_t process,
                         const std::string& spacing, double beta_start, double beta_end,
                         double sigma_min, double sigma_max, double rho, double shift,
                         int32_t train_steps, bool final_zero, int32_t steps_offset,
                         const std::optional<Doubles>& sigmas) {
  fewstep_schedule_params p = FEWSTEP_SCHEDULE_PARAMS_INIT;
  p.process = process;
  p.spacing = spacing.c_str();
  p.beta_start = beta_start;
  p.beta_end = beta_end;
  p.sigma_min = sigma_min;
  p.sigma_max = sigma_max;
  p.rho = rho;
  p.shift = shift;
  p.train_steps = train_steps;
  p.final_zero = final_zero;
  p.steps_offset = steps_offset;
  if (sigmas) {
    p.sigmas = sigmas->data();
    p.n_sigmas = sigmas->size();
  }
  fewstep_schedule* schedule = nullptr;
  check(fewstep_schedule_create(name.c_str(), steps, &p, &schedule));
  return PySchedule(schedule);
}

py::tuple schedule_nodes(const PySchedule& self) {
  const py::ssize_t n = fewstep_schedule_steps(self.get()) + 1;
  Doubles t(n), alpha(n), sigma(n), lambda(n);
  for (py::ssize_t i = 0; i < n; ++i) {
    fewstep_node node;
    check(fewstep_schedule_node(self.get(), static_cast<int32_t>(i), &node));
    t.mutable_at(i) = node.t;
    alpha.mutable_at(i) = node.alpha;
    sigma.mutable_at(i) = node.sigma;
    lambda.mutable_at(i) = node.lambda;
  }
  return py::make_tuple(t, alpha, sigma, lambda);
}

}  // namespace

void bind_schedule(py::module_& m) {
  const fewstep_schedule_params d = FEWSTEP_SCHEDULE_PARAMS_INIT;
  py::class_<PySchedule>(m, "Schedule")
      .def(py::init(&make_schedule), py::arg("name"), py::arg("steps"), py::kw_only(),
           py::arg("process") = d.process, py::arg("spacing") = d.spacing,
           py::arg("beta_start") = d.beta_start, py::arg("beta_end") = d.beta_end,
           py::arg("sigma_min") = d.sigma_min, py::arg("sigma_max") = d.sigma_max,
           py::arg("rho") = d.rho, py::arg("shift") = d.shift,
           py::arg("train_steps") = d.train_steps, py::arg("final_zero") = d.final_zero != 0,
           py::arg("steps_offset") = d.steps_offset, py::arg("sigmas") = py::none())
      .def("nodes", &schedule_nodes)
      .def_property_readonly(
          "process", [](const PySchedule& self) { return fewstep_schedule_process(self.get()); });
}

}  // namespace fewstep::python
