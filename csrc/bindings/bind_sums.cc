// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

constexpr int kMaxArrays = 4;

void gram(const py::sequence& arrays, py::handle out, py::handle workspace) {
  constexpr const char* kFunction = "fewstep_solver_gram";
  const py::handle arguments[] = {arrays, out, workspace};
  CallStream stream(arguments);
  fewstep_solver_gram_args args = FEWSTEP_SOLVER_GRAM_ARGS_INIT;
  const size_t count = arrays.size();
  if (count > kMaxArrays) {
    throw py::value_error(std::string(kFunction) +
                          ": 'arrays' must hold at most 4 arrays of B rows, got " +
                          std::to_string(count));
  }
  Borrowed held[kMaxArrays];
  for (size_t i = 0; i < count; ++i) {
    held[i].borrow(arrays[i], kFunction, "arrays", Borrowed::kRead, &stream);
    args.arrays[i] = held[i].get();
  }
  args.n_arrays = int32_t(count);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  const Optional w(workspace, kFunction, "workspace", Borrowed::kWrite, &stream);
  args.out = o.get();
  args.workspace = w.get();
  run_op(&fewstep_solver_gram, stream.context(o.get(), kFunction, "out"), args);
}

void quantile(py::handle x, double q, bool magnitude, py::handle out, py::handle workspace) {
  constexpr const char* kFunction = "fewstep_solver_quantile";
  const py::handle arguments[] = {x, out, workspace};
  CallStream stream(arguments);
  fewstep_solver_quantile_args args = FEWSTEP_SOLVER_QUANTILE_ARGS_INIT;
  const Borrowed in(x, kFunction, "x", Borrowed::kRead, &stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  const Optional w(workspace, kFunction, "workspace", Borrowed::kWrite, &stream);
  args.q = q;
  args.magnitude = magnitude ? 1 : 0;
  args.x = in.get();
  args.out = o.get();
  args.workspace = w.get();
  run_op(&fewstep_solver_quantile, stream.context(o.get(), kFunction, "out"), args);
}

void error_norm(py::handle error, py::handle before, py::handle after, py::handle minus,
                double atol, double rtol, int32_t tolerance, py::handle out, py::handle workspace) {
  constexpr const char* kFunction = "fewstep_solver_error_norm";
  const py::handle arguments[] = {error, before, after, minus, out, workspace};
  CallStream stream(arguments);
  fewstep_solver_error_norm_args args = FEWSTEP_SOLVER_ERROR_NORM_ARGS_INIT;
  const Borrowed e(error, kFunction, "error", Borrowed::kRead, &stream);
  const Optional m(minus, kFunction, "minus", Borrowed::kRead, &stream);
  const Borrowed b(before, kFunction, "before", Borrowed::kRead, &stream);
  const Borrowed a(after, kFunction, "after", Borrowed::kRead, &stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  const Optional w(workspace, kFunction, "workspace", Borrowed::kWrite, &stream);
  args.tolerance = tolerance;
  args.atol = atol;
  args.rtol = rtol;
  args.error = e.get();
  args.minus = m.get();
  args.before = b.get();
  args.after = a.get();
  args.out = o.get();
  args.workspace = w.get();
  run_op(&fewstep_solver_error_norm, stream.context(o.get(), kFunction, "out"), args);
}

}  // namespace

void bind_sums(py::module_& m) {
  m.def("solver_error_norm", &error_norm, py::arg("error"), py::arg("before"), py::arg("after"),
        py::arg("minus"), py::arg("atol"), py::arg("rtol"), py::arg("tolerance"), py::arg("out"),
        py::arg("workspace"));
  m.def("solver_error_norm_workspace_bytes", &fewstep_solver_error_norm_workspace_bytes,
        py::arg("B"), py::arg("N"));
  m.def("solver_gram", &gram, py::arg("arrays"), py::arg("out"), py::arg("workspace"));
  m.def("solver_gram_workspace_bytes", &fewstep_solver_gram_workspace_bytes, py::arg("B"),
        py::arg("N"), py::arg("K"));
  m.def("solver_quantile", &quantile, py::arg("x"), py::arg("q"), py::arg("magnitude"),
        py::arg("out"), py::arg("workspace"));
  m.def("solver_quantile_workspace_bytes", &fewstep_solver_quantile_workspace_bytes, py::arg("B"),
        py::arg("N"));
}

}  // namespace fewstep::python
