// SPDX-License-Identifier: Apache-2.0
#include "py_filters.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

void sample(py::handle logits, py::handle seeds, py::handle positions, py::handle bitmask,
            const py::tuple& filters, uint32_t stream_number, uint32_t draw, py::handle out,
            py::handle logprobs, py::handle status) {
  constexpr const char* kFunction = "fewstep_logits_sample";
  const py::handle arguments[] = {logits, seeds, positions, bitmask, out, logprobs, status};
  CallStream stream(arguments);
  fewstep_logits_sample_args args = FEWSTEP_LOGITS_SAMPLE_ARGS_INIT;
  const PyFilters f(filters, kFunction, &stream);
  const Borrowed l(logits, kFunction, "logits", Borrowed::kRead, &stream);
  const Borrowed s(seeds, kFunction, "seeds", Borrowed::kRead, &stream);
  const Borrowed p(positions, kFunction, "positions", Borrowed::kRead, &stream);
  const Optional m(bitmask, kFunction, "bitmask", Borrowed::kRead, &stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  const Optional lp(logprobs, kFunction, "logprobs", Borrowed::kWrite, &stream);
  const Optional st(status, kFunction, "status", Borrowed::kWrite, &stream);
  args.stream = stream_number;
  args.draw = draw;
  args.filters = f.filters;
  args.logits = l.get();
  args.bitmask = m.get();
  args.seeds = s.get();
  args.positions = p.get();
  args.out = o.get();
  args.logprobs = lp.get();
  args.status = st.get();
  run_op(&fewstep_logits_sample, stream.context(o.get(), kFunction, "out"), args);
}

// `history` is (tokens, indptr, counts), `bias` (ids, values, indptr); None where there is none.
void penalise(py::handle logits, const py::tuple& history, const py::tuple& bias,
              const py::tuple& penalties, py::handle out) {
  constexpr const char* kFunction = "fewstep_logits_penalise";
  const py::handle arguments[] = {logits, history, bias, out};
  CallStream stream(arguments);
  fewstep_logits_penalise_args args = FEWSTEP_LOGITS_PENALISE_ARGS_INIT;
  const PyPenalties numbers(penalties, kFunction, &stream);
  const bool in_place = out.is(logits);
  const Borrowed l(logits, kFunction, "logits", in_place ? Borrowed::kWrite : Borrowed::kRead,
                   &stream);
  const Optional tokens(history[0], kFunction, "tokens", Borrowed::kRead, &stream);
  const Optional indptr(history[1], kFunction, "indptr", Borrowed::kRead, &stream);
  const Optional counts(history[2], kFunction, "counts", Borrowed::kRead, &stream);
  const Optional ids(bias[0], kFunction, "bias_ids", Borrowed::kRead, &stream);
  const Optional values(bias[1], kFunction, "bias_values", Borrowed::kRead, &stream);
  const Optional bias_indptr(bias[2], kFunction, "bias_indptr", Borrowed::kRead, &stream);
  Borrowed other;
  if (!in_place) other.borrow(out, kFunction, "out", Borrowed::kWrite, &stream);
  args.penalties = numbers.penalties;
  args.logits = l.get();
  args.tokens = tokens.get();
  args.indptr = indptr.get();
  args.counts = counts.get();
  args.bias_ids = ids.get();
  args.bias_values = values.get();
  args.bias_indptr = bias_indptr.get();
  args.out = in_place ? l.get() : other.get();
  run_op(&fewstep_logits_penalise, stream.context(args.out, kFunction, "out"), args);
}

void top_k(py::handle logits, py::handle bitmask, bool normalise, py::handle ids, py::handle values,
           py::handle log_normaliser, py::handle status) {
  constexpr const char* kFunction = "fewstep_logits_top_k";
  const py::handle arguments[] = {logits, bitmask, ids, values, log_normaliser, status};
  CallStream stream(arguments);
  fewstep_logits_top_k_args args = FEWSTEP_LOGITS_TOP_K_ARGS_INIT;
  const Borrowed l(logits, kFunction, "logits", Borrowed::kRead, &stream);
  const Optional m(bitmask, kFunction, "bitmask", Borrowed::kRead, &stream);
  const Borrowed i(ids, kFunction, "ids", Borrowed::kWrite, &stream);
  const Borrowed v(values, kFunction, "values", Borrowed::kWrite, &stream);
  const Optional n(log_normaliser, kFunction, "log_normaliser", Borrowed::kWrite, &stream);
  const Optional st(status, kFunction, "status", Borrowed::kWrite, &stream);
  args.normalise = normalise ? 1 : 0;
  args.logits = l.get();
  args.bitmask = m.get();
  args.ids = i.get();
  args.values = v.get();
  args.log_normaliser = n.get();
  args.status = st.get();
  run_op(&fewstep_logits_top_k, stream.context(i.get(), kFunction, "ids"), args);
}

void gumbel_top_k(py::handle logits, py::handle seeds, py::handle positions, py::handle bitmask,
                  const py::tuple& filters, uint32_t stream_number, uint32_t draw, py::handle ids,
                  py::handle perturbed, py::handle logprobs, py::handle status) {
  constexpr const char* kFunction = "fewstep_logits_gumbel_top_k";
  const py::handle arguments[] = {logits, seeds,     positions, bitmask,
                                  ids,    perturbed, logprobs,  status};
  CallStream stream(arguments);
  fewstep_logits_gumbel_top_k_args args = FEWSTEP_LOGITS_GUMBEL_TOP_K_ARGS_INIT;
  const PyFilters f(filters, kFunction, &stream);
  const Borrowed l(logits, kFunction, "logits", Borrowed::kRead, &stream);
  const Borrowed s(seeds, kFunction, "seeds", Borrowed::kRead, &stream);
  const Borrowed p(positions, kFunction, "positions", Borrowed::kRead, &stream);
  const Optional m(bitmask, kFunction, "bitmask", Borrowed::kRead, &stream);
  const Borrowed i(ids, kFunction, "ids", Borrowed::kWrite, &stream);
  const Borrowed v(perturbed, kFunction, "perturbed", Borrowed::kWrite, &stream);
  const Optional lp(logprobs, kFunction, "logprobs", Borrowed::kWrite, &stream);
  const Optional st(status, kFunction, "status", Borrowed::kWrite, &stream);
  args.stream = stream_number;
  args.draw = draw;
  args.filters = f.filters;
  args.logits = l.get();
  args.bitmask = m.get();
  args.seeds = s.get();
  args.positions = p.get();
  args.ids = i.get();
  args.perturbed = v.get();
  args.logprobs = lp.get();
  args.status = st.get();
  run_op(&fewstep_logits_gumbel_top_k, stream.context(i.get(), kFunction, "ids"), args);
}

// `list` is (ids, probabilities, count); None where there is none.
void renorm(py::handle logits, py::handle bitmask, const py::tuple& filters, py::handle out,
            const py::tuple& list, py::handle status) {
  constexpr const char* kFunction = "fewstep_logits_renorm";
  const py::handle arguments[] = {logits, bitmask, out, list, status};
  CallStream stream(arguments);
  fewstep_logits_renorm_args args = FEWSTEP_LOGITS_RENORM_ARGS_INIT;
  const PyFilters f(filters, kFunction, &stream);
  const Borrowed l(logits, kFunction, "logits", Borrowed::kRead, &stream);
  const Optional m(bitmask, kFunction, "bitmask", Borrowed::kRead, &stream);
  const Optional o(out, kFunction, "out", Borrowed::kWrite, &stream);
  const Optional i(list[0], kFunction, "ids", Borrowed::kWrite, &stream);
  const Optional p(list[1], kFunction, "probabilities", Borrowed::kWrite, &stream);
  const Optional n(list[2], kFunction, "count", Borrowed::kWrite, &stream);
  const Optional st(status, kFunction, "status", Borrowed::kWrite, &stream);
  args.filters = f.filters;
  args.logits = l.get();
  args.bitmask = m.get();
  args.out = o.get();
  args.ids = i.get();
  args.probabilities = p.get();
  args.count = n.get();
  args.status = st.get();
  run_op(&fewstep_logits_renorm, stream.context(l.get(), kFunction, "logits"), args);
}

void sample_arithmetic(py::handle logits, py::handle codes, py::handle bitmask,
                       const py::tuple& filters, py::handle out, py::handle next_codes,
                       py::handle logprobs, py::handle status) {
  constexpr const char* kFunction = "fewstep_logits_sample_arithmetic";
  const py::handle arguments[] = {logits, codes, bitmask, out, next_codes, logprobs, status};
  CallStream stream(arguments);
  fewstep_logits_sample_arithmetic_args args = FEWSTEP_LOGITS_SAMPLE_ARITHMETIC_ARGS_INIT;
  const bool in_place = next_codes.is(codes);
  const PyFilters f(filters, kFunction, &stream);
  const Borrowed l(logits, kFunction, "logits", Borrowed::kRead, &stream);
  const Borrowed c(codes, kFunction, "codes", in_place ? Borrowed::kWrite : Borrowed::kRead,
                   &stream);
  const Optional m(bitmask, kFunction, "bitmask", Borrowed::kRead, &stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  Borrowed next;
  if (!in_place) next.borrow(next_codes, kFunction, "next_codes", Borrowed::kWrite, &stream);
  const Optional lp(logprobs, kFunction, "logprobs", Borrowed::kWrite, &stream);
  const Optional st(status, kFunction, "status", Borrowed::kWrite, &stream);
  args.filters = f.filters;
  args.logits = l.get();
  args.bitmask = m.get();
  args.codes = c.get();
  args.out = o.get();
  args.next_codes = in_place ? c.get() : next.get();
  args.logprobs = lp.get();
  args.status = st.get();
  run_op(&fewstep_logits_sample_arithmetic, stream.context(o.get(), kFunction, "out"), args);
}

}  // namespace

void bind_logits(py::module_& m) {
  m.def("logits_gumbel_top_k", &gumbel_top_k, py::arg("logits"), py::arg("seeds"),
        py::arg("positions"), py::arg("bitmask"), py::arg("filters"), py::arg("stream"),
        py::arg("draw"), py::arg("ids"), py::arg("perturbed"), py::arg("logprobs"),
        py::arg("status"));
  m.def("logits_renorm", &renorm, py::arg("logits"), py::arg("bitmask"), py::arg("filters"),
        py::arg("out"), py::arg("list"), py::arg("status"));
  m.def("logits_sample_arithmetic", &sample_arithmetic, py::arg("logits"), py::arg("codes"),
        py::arg("bitmask"), py::arg("filters"), py::arg("out"), py::arg("next_codes"),
        py::arg("logprobs"), py::arg("status"));
  m.def("logits_top_k", &top_k, py::arg("logits"), py::arg("bitmask"), py::arg("normalise"),
        py::arg("ids"), py::arg("values"), py::arg("log_normaliser"), py::arg("status"));
  m.def("logits_penalise", &penalise, py::arg("logits"), py::arg("history"), py::arg("bias"),
        py::arg("penalties"), py::arg("out"));
  m.def("logits_sample", &sample, py::arg("logits"), py::arg("seeds"), py::arg("positions"),
        py::arg("bitmask"), py::arg("filters"), py::arg("stream"), py::arg("draw"), py::arg("out"),
        py::arg("logprobs"), py::arg("status"));
}

}  // namespace fewstep::python
