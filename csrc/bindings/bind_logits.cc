// SPDX-License-Identifier: Apache-2.0
#include "py_filters.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

// `inputs` is (logits, seeds, positions, bitmask), `outputs` (out, logprobs, status).
void sample(const py::tuple& filters, uint32_t stream_number, uint32_t draw,
            const py::tuple& inputs, const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_logits_sample";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyFilters f(filters, kFunction, &stream);
  fewstep_logits_sample_args args = FEWSTEP_LOGITS_SAMPLE_ARGS_INIT;
  args.stream = stream_number;
  args.draw = draw;
  args.filters = f.filters;
  const Field fields[] = {
      {"logits", &args.logits},   {"seeds", &args.seeds}, {"positions", &args.positions},
      {"bitmask", &args.bitmask}, {"out", &args.out},     {"logprobs", &args.logprobs},
      {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_logits_sample, stream.context(args.out, kFunction, "out"), args);
}

// `inputs` is (logits, tokens, indptr, counts, bias_ids, bias_values, bias_indptr), `outputs`
// (out,).
void penalise(const py::tuple& penalties, const py::tuple& inputs, const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_logits_penalise";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyPenalties numbers(penalties, kFunction, &stream);
  fewstep_logits_penalise_args args = FEWSTEP_LOGITS_PENALISE_ARGS_INIT;
  args.penalties = numbers.penalties;
  const Field fields[] = {
      {"logits", &args.logits},           {"tokens", &args.tokens},
      {"indptr", &args.indptr},           {"counts", &args.counts},
      {"bias_ids", &args.bias_ids},       {"bias_values", &args.bias_values},
      {"bias_indptr", &args.bias_indptr}, {"out", &args.out},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_logits_penalise, stream.context(args.out, kFunction, "out"), args);
}

// `inputs` is (logits, bitmask), `outputs` (ids, values, log_normaliser, status).
void top_k(bool normalise, const py::tuple& inputs, const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_logits_top_k";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  fewstep_logits_top_k_args args = FEWSTEP_LOGITS_TOP_K_ARGS_INIT;
  args.normalise = normalise ? 1 : 0;
  const Field fields[] = {
      {"logits", &args.logits},
      {"bitmask", &args.bitmask},
      {"ids", &args.ids},
      {"values", &args.values},
      {"log_normaliser", &args.log_normaliser},
      {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_logits_top_k, stream.context(args.ids, kFunction, "ids"), args);
}

// `inputs` is (logits, seeds, positions, bitmask), `outputs` (ids, perturbed, logprobs, status).
void gumbel_top_k(const py::tuple& filters, uint32_t stream_number, uint32_t draw,
                  const py::tuple& inputs, const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_logits_gumbel_top_k";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyFilters f(filters, kFunction, &stream);
  fewstep_logits_gumbel_top_k_args args = FEWSTEP_LOGITS_GUMBEL_TOP_K_ARGS_INIT;
  args.stream = stream_number;
  args.draw = draw;
  args.filters = f.filters;
  const Field fields[] = {
      {"logits", &args.logits},     {"seeds", &args.seeds},   {"positions", &args.positions},
      {"bitmask", &args.bitmask},   {"ids", &args.ids},       {"perturbed", &args.perturbed},
      {"logprobs", &args.logprobs}, {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_logits_gumbel_top_k, stream.context(args.ids, kFunction, "ids"), args);
}

// `inputs` is (logits, bitmask), `outputs` (out, ids, probabilities, count, status).
void renorm(const py::tuple& filters, const py::tuple& inputs, const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_logits_renorm";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyFilters f(filters, kFunction, &stream);
  fewstep_logits_renorm_args args = FEWSTEP_LOGITS_RENORM_ARGS_INIT;
  args.filters = f.filters;
  const Field fields[] = {
      {"logits", &args.logits},
      {"bitmask", &args.bitmask},
      {"out", &args.out},
      {"ids", &args.ids},
      {"probabilities", &args.probabilities},
      {"count", &args.count},
      {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_logits_renorm, stream.context(args.logits, kFunction, "logits"), args);
}

// `inputs` is (logits, codes, bitmask), `outputs` (out, next_codes, logprobs, status).
void sample_arithmetic(const py::tuple& filters, const py::tuple& inputs,
                       const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_logits_sample_arithmetic";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyFilters f(filters, kFunction, &stream);
  fewstep_logits_sample_arithmetic_args args = FEWSTEP_LOGITS_SAMPLE_ARITHMETIC_ARGS_INIT;
  args.filters = f.filters;
  const Field fields[] = {
      {"logits", &args.logits}, {"codes", &args.codes},           {"bitmask", &args.bitmask},
      {"out", &args.out},       {"next_codes", &args.next_codes}, {"logprobs", &args.logprobs},
      {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_logits_sample_arithmetic, stream.context(args.out, kFunction, "out"), args);
}

}  // namespace

void bind_logits(py::module_& m) {
  m.def("logits_gumbel_top_k", &gumbel_top_k, py::arg("filters"), py::arg("stream"),
        py::arg("draw"), py::arg("inputs"), py::arg("outputs"));
  m.def("logits_renorm", &renorm, py::arg("filters"), py::arg("inputs"), py::arg("outputs"));
  m.def("logits_sample_arithmetic", &sample_arithmetic, py::arg("filters"), py::arg("inputs"),
        py::arg("outputs"));
  m.def("logits_top_k", &top_k, py::arg("normalise"), py::arg("inputs"), py::arg("outputs"));
  m.def("logits_penalise", &penalise, py::arg("penalties"), py::arg("inputs"), py::arg("outputs"));
  m.def("logits_sample", &sample, py::arg("filters"), py::arg("stream"), py::arg("draw"),
        py::arg("inputs"), py::arg("outputs"));
}

}  // namespace fewstep::python
