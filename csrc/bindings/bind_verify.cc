// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <array>

#include "py_filters.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

// `inputs` is (parent, indptr, token, logits, seeds, positions, target_token, bitmask, draft,
// draft_ids, draft_row, draw_indptr, draw_node, draw_weight), `outputs` (path, accepted,
// next_token, logprobs, status); None where there is none.
void verify(int32_t rule, int32_t law, const std::array<double, 4>& params,
            const py::tuple& filters, const py::tuple& inputs, const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_tree_verify";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyFilters f(filters, kFunction, &stream);
  fewstep_tree_verify_args args = FEWSTEP_TREE_VERIFY_ARGS_INIT;
  args.rule = rule;
  args.law = law;
  args.filters = f.filters;
  args.params = {params[0], params[1], params[2], params[3]};
  const Field fields[] = {
      {"parent", &args.parent},
      {"indptr", &args.indptr},
      {"token", &args.token},
      {"logits", &args.logits},
      {"seeds", &args.seeds},
      {"positions", &args.positions},
      {"target_token", &args.target_token},
      {"bitmask", &args.bitmask},
      {"draft", &args.draft},
      {"draft_ids", &args.draft_ids},
      {"draft_row", &args.draft_row},
      {"draw_indptr", &args.draw_indptr},
      {"draw_node", &args.draw_node},
      {"draw_weight", &args.draw_weight},
      {"path", &args.path},
      {"accepted", &args.accepted},
      {"next_token", &args.next_token},
      {"logprobs", &args.logprobs},
      {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_tree_verify, stream.context(args.next_token, kFunction, "next_token"), args);
}

// `inputs` is (logits, bitmask, draft, draft_ids), `outputs` (rho, accept, status).
void k_seq_rho(int32_t k, const py::tuple& filters, const py::tuple& inputs,
               const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_tree_k_seq_rho";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyFilters f(filters, kFunction, &stream);
  fewstep_tree_k_seq_rho_args args = FEWSTEP_TREE_K_SEQ_RHO_ARGS_INIT;
  args.k = k;
  args.filters = f.filters;
  const Field fields[] = {
      {"logits", &args.logits},       {"bitmask", &args.bitmask}, {"draft", &args.draft},
      {"draft_ids", &args.draft_ids}, {"rho", &args.rho},         {"accept", &args.accept},
      {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_tree_k_seq_rho, stream.context(args.rho, kFunction, "rho"), args);
}

}  // namespace

void bind_verify(py::module_& m) {
  m.def("tree_verify", &verify, py::arg("rule"), py::arg("law"), py::arg("params"),
        py::arg("filters"), py::arg("inputs"), py::arg("outputs"));
  m.def("tree_k_seq_rho", &k_seq_rho, py::arg("k"), py::arg("filters"), py::arg("inputs"),
        py::arg("outputs"));
}

}  // namespace fewstep::python
