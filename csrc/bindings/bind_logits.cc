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
  const fewstep_context* ctx = stream.context(o.get(), kFunction, "out");
  fewstep_status result;
  {
    const py::gil_scoped_release release;
    result = fewstep_logits_sample(ctx, &args);
  }
  check(result);
}

}  // namespace

void bind_logits(py::module_& m) {
  m.def("logits_sample", &sample, py::arg("logits"), py::arg("seeds"), py::arg("positions"),
        py::arg("bitmask"), py::arg("filters"), py::arg("stream"), py::arg("draw"), py::arg("out"),
        py::arg("logprobs"), py::arg("status"));
}

}  // namespace fewstep::python
