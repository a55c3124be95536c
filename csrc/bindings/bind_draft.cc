// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

using Tokens = py::array_t<int32_t, py::array::c_style>;

template <class T, void (*destroy)(T*)>
struct Destroy {
  void operator()(T* object) const { destroy(object); }
};
using NgramOwner = std::unique_ptr<fewstep_ngram, Destroy<fewstep_ngram, fewstep_ngram_destroy>>;
using TrigramOwner =
    std::unique_ptr<fewstep_trigram, Destroy<fewstep_trigram, fewstep_trigram_destroy>>;

struct PyNgram {
  NgramOwner owner;
  PyNgram(int32_t n_min, int32_t n_max) {
    fewstep_ngram* made = nullptr;
    check(fewstep_ngram_create(n_min, n_max, &made));
    owner.reset(made);
  }
};
struct PyTrigram {
  TrigramOwner owner;
  PyTrigram() {
    fewstep_trigram* made = nullptr;
    check(fewstep_trigram_create(&made));
    owner.reset(made);
  }
};

void recycle(py::handle table, py::handle tokens, py::handle top_ids) {
  constexpr const char* kFunction = "fewstep_draft_recycle";
  const py::handle arguments[] = {table, tokens, top_ids};
  CallStream stream(arguments);
  const Borrowed t(table, kFunction, "table", Borrowed::kWrite, &stream);
  const Borrowed n(tokens, kFunction, "tokens", Borrowed::kRead, &stream);
  const Borrowed ids(top_ids, kFunction, "top_ids", Borrowed::kRead, &stream);
  const fewstep_context* ctx = stream.context(t.get(), kFunction, "table");
  check(fewstep_draft_recycle(ctx, t.get(), n.get(), ids.get()));
}

// Calls propose(token, parent, capacity, &nodes) and returns the two arrays cut to the nodes.
template <class Propose>
py::tuple proposal(int32_t capacity, const Propose& propose) {
  Tokens token(std::max(capacity, 1)), parent(std::max(capacity, 1));
  int32_t nodes = 0;
  check(propose(token.mutable_data(), parent.mutable_data(), capacity, &nodes));
  token.resize({py::ssize_t(nodes)});
  parent.resize({py::ssize_t(nodes)});
  return py::make_tuple(std::move(token), std::move(parent));
}

py::tuple propose_ngram(const PyNgram& self, const py::object& context, int32_t max_tokens,
                        int32_t branches, int32_t max_nodes) {
  const fewstep_ngram_propose_params params = {sizeof params, max_tokens, branches};
  Tokens given;
  const int32_t* begin = nullptr;
  if (!context.is_none()) {
    given = context.cast<Tokens>();
    static const int32_t kNothing = 0;  // an empty context is one all the same
    begin = given.size() > 0 ? given.data() : &kNothing;
  }
  return proposal(max_nodes, [&](auto... out) {
    return fewstep_ngram_propose(self.owner.get(), begin, given.size(), &params, out...);
  });
}

py::tuple propose_trigram(const PyTrigram& self, const Tokens& context, int32_t depth,
                          int32_t width, int32_t iterations, double exploration,
                          int32_t max_nodes) {
  const fewstep_trigram_propose_params params = {sizeof params, depth, width, iterations,
                                                 exploration};
  return proposal(max_nodes, [&](auto... out) {
    return fewstep_trigram_propose(self.owner.get(), context.data(), context.size(), &params,
                                   out...);
  });
}

}  // namespace

void bind_draft(py::module_& m) {
  m.def("draft_recycle", &recycle, py::arg("table"), py::arg("tokens"), py::arg("top_ids"));
  py::class_<PyNgram>(m, "Ngram")
      .def(py::init<int32_t, int32_t>(), py::arg("n_min"), py::arg("n_max"))
      .def(
          "append",
          [](PyNgram& self, const Tokens& tokens) {
            check(fewstep_ngram_append(self.owner.get(), tokens.data(), tokens.size()));
          },
          py::arg("tokens"))
      .def("propose", &propose_ngram, py::arg("context"), py::arg("max_tokens"),
           py::arg("branches"), py::arg("max_nodes"))
      .def("__len__", [](const PyNgram& self) { return fewstep_ngram_size(self.owner.get()); });
  py::class_<PyTrigram>(m, "Trigram")
      .def(py::init<>())
      .def(
          "observe",
          [](PyTrigram& self, const Tokens& tokens) {
            check(fewstep_trigram_observe(self.owner.get(), tokens.data(), tokens.size()));
          },
          py::arg("tokens"))
      .def(
          "count",
          [](const PyTrigram& self, int32_t first, int32_t second, int32_t third) {
            return fewstep_trigram_count(self.owner.get(), first, second, third);
          },
          py::arg("first"), py::arg("second"), py::arg("third"))
      .def("propose", &propose_trigram, py::arg("context"), py::arg("depth"), py::arg("width"),
           py::arg("iterations"), py::arg("exploration"), py::arg("max_nodes"))
      .def("__len__",
           [](const PyTrigram& self) { return fewstep_trigram_states(self.owner.get()); });
}

}  // namespace fewstep::python
