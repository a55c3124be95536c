// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "py_recycler.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

struct PyCascade {
  py::object recycler;  // which has to live as long
  std::unique_ptr<fewstep_cascade, Destroy<fewstep_cascade, fewstep_cascade_destroy>> owner;
  std::vector<int32_t> asked;  // by the last question
  Scored scored;
  PyCascade(py::object known, int32_t room) : recycler(std::move(known)) {
    fewstep_cascade* made = nullptr;
    check(fewstep_cascade_create(recycler_of(recycler), room, &made));
    owner.reset(made);
  }
};

void begin(PyCascade& self, const py::object& context, int32_t depth, float least) {
  const Given given(context);
  const fewstep_recycler_propose_params params = {sizeof params, depth, least};
  self.asked.clear();
  check(fewstep_cascade_begin(self.owner.get(), given.data(), given.size(), &params));
}

// Nodes to run, their tokens and parents, those that are asked, and their chance.
py::tuple ask(PyCascade& self, int32_t most, float least) {
  fewstep_cascade_question out = FEWSTEP_CASCADE_QUESTION_INIT;
  check(fewstep_cascade_ask(self.owner.get(), most, least, &out));
  self.asked.assign(out.asked, out.asked + out.asks);
  const auto list = [&](const int32_t* of) { return std::vector<int32_t>(of, of + out.runs); };
  return py::make_tuple(list(out.run), list(out.token), list(out.parent), self.asked, out.chance);
}

// Rows of the best tokens and their log-probabilities after each node of the last question, or of
// all questions that were put together: those from `first` on.
float answer(PyCascade& self, const Array<int32_t>& ids, const Array<float>& logp, int64_t first) {
  const auto asks = int64_t(self.asked.size());
  const auto fits = [&](const py::array& one) {
    return one.ndim() == 2 && first >= 0 && one.shape(0) - first >= asks && one.shape(1) >= 1;
  };
  if (!fits(ids) || !fits(logp) || ids.shape(1) != logp.shape(1)) {
    throw py::value_error("fewstep_cascade_answer: 'ids' and 'logp' must have a row for each of " +
                          std::to_string(asks) + " nodes and the same columns");
  }
  float sum = 0.0f, gained = 0.0f;
  for (int64_t i = 0; i < asks; ++i) {
    check(fewstep_cascade_answer(self.owner.get(), self.asked[size_t(i)], ids.data(first + i, 0),
                                 logp.data(first + i, 0), int32_t(ids.shape(1)), &gained));
    sum += gained;
  }
  self.asked.clear();
  return sum;
}

py::tuple take(PyCascade& self, int32_t max_nodes) {
  return self.scored.of(
      max_nodes, [&](auto... out) { return fewstep_cascade_take(self.owner.get(), out...); });
}

}  // namespace

void bind_cascade(py::module_& m) {
  py::class_<PyCascade>(m, "Cascade")
      .def(py::init<py::object, int32_t>(), py::arg("recycler"), py::arg("room"))
      .def("begin", &begin, py::arg("context"), py::arg("depth"), py::arg("least"))
      .def("ask", &ask, py::arg("most"), py::arg("least"))
      .def("answer", &answer, py::arg("ids"), py::arg("logp"), py::arg("first") = 0)
      .def("take", &take, py::arg("max_nodes"));
}

}  // namespace fewstep::python
