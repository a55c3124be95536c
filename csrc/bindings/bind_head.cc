// SPDX-License-Identifier: Apache-2.0
#include "fewstep/logits_head.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

// `inputs` is (x, packed, bias, norm, tokens), `outputs` (ids, values, log_normaliser, status,
// workspace); None where there is none.
void head_top_k(int64_t rows, int32_t kind, int32_t group, bool normalise, double norm_eps,
                const py::tuple& inputs, const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_logits_head_top_k";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  fewstep_logits_head_top_k_args args = FEWSTEP_LOGITS_HEAD_TOP_K_ARGS_INIT;
  args.kind = kind;
  args.group = group;
  args.normalise = normalise ? 1 : 0;
  args.outputs = rows;
  args.norm_eps = norm_eps;
  const Field fields[] = {
      {"x", &args.x},           {"packed", &args.packed},
      {"bias", &args.bias},     {"norm", &args.norm},
      {"tokens", &args.tokens}, {"ids", &args.ids},
      {"values", &args.values}, {"log_normaliser", &args.log_normaliser},
      {"status", &args.status}, {"workspace", &args.workspace},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_logits_head_top_k, stream.context(args.ids, kFunction, "ids"), args);
}

}  // namespace

void bind_head(py::module_& m) {
  m.def("logits_head_top_k", &head_top_k, py::arg("rows"), py::arg("kind"), py::arg("group"),
        py::arg("normalise"), py::arg("norm_eps"), py::arg("inputs"), py::arg("outputs"));
  m.def("logits_head_top_k_workspace_bytes", &fewstep_logits_head_top_k_workspace_bytes,
        py::arg("M"), py::arg("O"), py::arg("I"), py::arg("kind"), py::arg("group"), py::arg("K"));
}

}  // namespace fewstep::python
