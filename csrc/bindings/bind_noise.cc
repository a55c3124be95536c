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

void brownian(py::handle seeds, py::handle t0, py::handle t1, py::handle out, uint32_t stream,
              int32_t depth, bool normalized, double t_min, double t_max, float scale) {
  constexpr const char* kFunction = "fewstep_noise_brownian";
  const py::handle arguments[] = {seeds, t0, t1, out};
  CallStream call_stream(arguments);
  const Borrowed s(seeds, kFunction, "seeds", Borrowed::kRead, &call_stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &call_stream);
  Borrowed begin, end;
  fewstep_noise_brownian_params params = FEWSTEP_NOISE_BROWNIAN_PARAMS_INIT;
  const auto set = [&](py::handle t, const char* name, Borrowed* held, double* all) {
    if (PyFloat_Check(t.ptr())) {
      *all = PyFloat_AS_DOUBLE(t.ptr());
      return static_cast<const fewstep_tensor*>(nullptr);
    }
    held->borrow(t, kFunction, name, Borrowed::kRead, &call_stream);
    return held->get();
  };
  const fewstep_tensor* from = set(t0, "t0", &begin, &params.start);
  const fewstep_tensor* to = set(t1, "t1", &end, &params.stop);
  const fewstep_context* ctx = call_stream.context(o.get(), kFunction, "out");
  params.stream = stream;
  params.depth = depth;
  params.normalized = normalized;
  params.t_min = t_min;
  params.t_max = t_max;
  params.scale = scale;
  fewstep_status status;
  {
    const py::gil_scoped_release release;
    status = fewstep_noise_brownian(ctx, s.get(), from, to, &params, o.get());
  }
  check(status);
}

}  // namespace

void bind_noise(py::module_& m) {
  m.def("noise_normal", &normal, py::arg("seeds"), py::arg("out"), py::arg("step"),
        py::arg("stream"), py::arg("scale"));
  m.def("noise_brownian", &brownian, py::arg("seeds"), py::arg("t0"), py::arg("t1"), py::arg("out"),
        py::arg("stream"), py::arg("depth"), py::arg("normalized"), py::arg("t_min"),
        py::arg("t_max"), py::arg("scale"));
}

}  // namespace fewstep::python
