// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

void normal(py::handle seeds, py::handle out, uint32_t step, uint32_t stream, float scale) {
  constexpr const char* kFunction = "fewstep_noise_normal";
  const py::handle arguments[] = {seeds, out};
  CallStream call_stream(arguments);
  const Borrowed s(seeds, kFunction, "seeds", Borrowed::kRead, &call_stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &call_stream);
  const fewstep_context* ctx = call_stream.context(o.get(), kFunction, "out");
  fewstep_noise_normal_params params = FEWSTEP_NOISE_NORMAL_PARAMS_INIT;
  params.step = step;
  params.stream = stream;
  params.scale = scale;
  fewstep_status status;
  {
    const py::gil_scoped_release release;
    status = fewstep_noise_normal(ctx, s.get(), &params, o.get());
  }
  check(status);
}

}  // namespace

void bind_noise(py::module_& m) {
  m.def("noise_normal", &normal, py::arg("seeds"), py::arg("out"), py::arg("step"),
        py::arg("stream"), py::arg("scale"));
}

}  // namespace fewstep::python
