// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "py_tensor.h"

namespace py = pybind11;
using namespace fewstep::python;

namespace {

py::list available_isas() {
  py::list isas;
  for (int i = 0; fewstep_cpu_isa_available(i); ++i) isas.append(fewstep_cpu_isa_available(i));
  return isas;
}

const char* cpu_isa() {
  const char* name = nullptr;
  check(fewstep_cpu_isa(&name));
  return name;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C library of fewstep. Use the package's modules instead.";
  m.attr("__version__") = fewstep_version();
  m.def("cpu_isa", &cpu_isa);
  m.def("cpu_isa_available", &available_isas);
  m.def("cuda_built", [] { return fewstep_cuda_built() != 0; });
  m.def("cuda_device_count", &fewstep_cuda_device_count);
  m.def("num_threads", &fewstep_num_threads);
  m.def(
      "set_num_threads", [](int threads) { check(fewstep_set_num_threads(threads)); },
      py::arg("threads"));
  bind_attention(m);
  bind_decoder(m);
  bind_batch(m);
  bind_budget(m);
  bind_draft(m);
  bind_cascade(m);
  bind_kv(m);
  bind_linear(m);
  bind_head(m);
  bind_logits(m);
  bind_noise(m);
  bind_plan(m);
  bind_solver(m);
  bind_sums(m);
  bind_tree(m);
  bind_verify(m);
  bind_stream(m);
}
