// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T, void (*destroy)(T*)>
struct Destroy {
  void operator()(T* object) const { destroy(object); }
};

struct PyCallCost {
  std::unique_ptr<fewstep_call_cost, Destroy<fewstep_call_cost, fewstep_call_cost_destroy>> owner;
  PyCallCost() {
    fewstep_call_cost* made = nullptr;
    check(fewstep_call_cost_create(&made));
    owner.reset(made);
  }
  std::optional<std::vector<double>> curve(int32_t most) const {
    std::vector<double> seconds(size_t(std::max(most, 0)) + 1);
    int32_t known = 0;
    check(fewstep_call_cost_curve(owner.get(), most, seconds.data(), &known));
    return known ? std::optional(std::move(seconds)) : std::nullopt;
  }
};

// What an attribute is called, as a string that is made once: never freed, the interpreter may be
// gone at exit.
struct Names {
  PyObject* parent = PyUnicode_InternFromString("parent");
  PyObject* score = PyUnicode_InternFromString("score");
  PyObject* index = PyUnicode_InternFromString("index");
  PyObject* law = PyUnicode_InternFromString("law");
};
const Names& names() {
  static const Names* const kNames = new Names;
  return *kNames;
}

py::object attribute(py::handle object, PyObject* name) {
  PyObject* const value = PyObject_GetAttr(object.ptr(), name);
  if (!value) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// The drafts of a call of which nodes may be left out: deterministic ones of more than a root. What
// the arrays are converted to stays alive with this.
class Given {
 public:
  explicit Given(const py::list& all) {
    for (size_t i = 0; i < all.size(); ++i) add(all[i], i);
  }

  std::vector<fewstep_budget_draft> drafts;
  std::vector<size_t> place;  // in the list
  int32_t rows = 0;           // that run in any case
  int32_t nodes = 0;          // of these drafts, roots not counted

  int32_t count() const { return int32_t(drafts.size()); }

 private:
  void add(py::handle draft, size_t i) {
    const auto parent = keep<int32_t>(attribute(draft, names().parent));
    const py::object law = attribute(draft, names().law);
    const bool free = PyUnicode_CompareWithASCIIString(law.ptr(), "deterministic") == 0;
    rows += free ? 1 : int32_t(parent.size());
    if (!free || parent.size() < 2) return;
    fewstep_budget_draft out = FEWSTEP_BUDGET_DRAFT_INIT;
    out.nodes = int32_t(parent.size());
    out.parent = parent.data();
    out.score = numbers<float>("score", attribute(draft, names().score), out.nodes);
    out.index = numbers<int32_t>("index", attribute(draft, names().index), out.nodes);
    nodes += out.nodes - 1;
    drafts.push_back(out);
    place.push_back(i);
  }
  template <class T>
  Array<T> keep(const py::object& values) {
    auto array = Array<T>::ensure(values);
    if (!array) throw py::error_already_set();
    kept_.push_back(array);
    return array;
  }
  template <class T>
  const T* numbers(const char* name, const py::object& values, int32_t size) {
    if (values.is_none()) return nullptr;
    const Array<T> array = keep<T>(values);
    if (array.size() != size) {
      throw py::value_error("fewstep_budget_draft: '" + std::string(name) +
                            "' must have a number of each of " + std::to_string(size) +
                            " nodes, got " + std::to_string(array.size()));
    }
    return array.data();
  }

  std::vector<py::object> kept_;
};

struct PyBudget {
  std::unique_ptr<fewstep_budget, Destroy<fewstep_budget, fewstep_budget_destroy>> owner;
  std::vector<uint8_t> flags;  // scratch of calls
  PyBudget() {
    fewstep_budget* made = nullptr;
    check(fewstep_budget_create(&made));
    owner.reset(made);
  }

  // None where all nodes stay, or for each draft None, as many nodes as the first ones that stay,
  // or bytes that tell which ones do.
  py::object cut(const PyCallCost& cost, const py::list& drafts, double drafting, bool trial) {
    Given given(drafts);
    fewstep_budget_cut_params params = FEWSTEP_BUDGET_CUT_PARAMS_INIT;
    params.batch = int32_t(drafts.size());
    params.rows = given.rows;
    params.trial = trial ? 1 : 0;
    params.drafting = drafting;
    flags.assign(size_t(given.nodes + given.count()), 0);
    uint8_t* next = flags.data();
    for (fewstep_budget_draft& draft : given.drafts) {
      draft.kept = next;
      next += draft.nodes;
    }
    int32_t wanted = 0;
    check(fewstep_budget_cut(owner.get(), cost.owner.get(), given.drafts.data(), given.count(),
                             &params, &wanted));
    if (wanted == given.nodes) return py::none();
    py::list out(drafts.size());
    for (size_t i = 0; i < drafts.size(); ++i) out[i] = py::none();
    for (size_t d = 0; d < given.drafts.size(); ++d) {
      out[given.place[d]] = nodes_of(given.drafts[d]);
    }
    return out;
  }

  // `paths` are the accepted nodes of each draft; returns what fewstep_budget_learn finds, and the
  // seconds of a call of roots alone, 0 where no such call was measured.
  py::tuple learn(const PyCallCost& cost, const py::list& drafts, const py::sequence& paths) {
    Given given(drafts);
    std::vector<std::vector<int32_t>> accepted(given.drafts.size());
    for (size_t d = 0; d < accepted.size(); ++d) {
      accepted[d] = py::object(paths[given.place[d]]).cast<std::vector<int32_t>>();
      given.drafts[d].path = accepted[d].data();
      given.drafts[d].accepted = int32_t(accepted[d].size());
    }
    double tokens = 0.0, seconds = 0.0;
    check(fewstep_budget_learn(owner.get(), given.drafts.data(), given.count(),
                               int32_t(drafts.size()), &tokens, &seconds));
    const auto batch = int32_t(drafts.size());
    double plain = 0.0;
    if (fewstep_call_cost_count(cost.owner.get(), batch)) {
      if (const auto curve = cost.curve(batch)) plain = curve->back();
    }
    return py::make_tuple(tokens, seconds, plain);
  }

 private:
  static py::object nodes_of(const fewstep_budget_draft& draft) {
    const uint8_t *begin = draft.kept, *end = begin + draft.nodes;
    const uint8_t* const hole = std::find(begin, end, 0);
    if (std::find(hole, end, 1) == end) return py::int_(hole - begin);
    return py::bytes(reinterpret_cast<const char*>(begin), size_t(draft.nodes));
  }
};

}  // namespace

void bind_budget(py::module_& m) {
  py::class_<PyCallCost>(m, "CallCost")
      .def(py::init<>())
      .def(
          "add",
          [](const PyCallCost& self, int32_t rows, double seconds) {
            check(fewstep_call_cost_add(self.owner.get(), rows, seconds));
          },
          py::arg("rows"), py::arg("seconds"))
      .def(
          "count",
          [](const PyCallCost& self, int32_t rows) {
            return fewstep_call_cost_count(self.owner.get(), rows);
          },
          py::arg("rows"))
      .def("curve", &PyCallCost::curve, py::arg("most"));
  py::class_<PyBudget>(m, "Budget")
      .def(py::init<>())
      .def("cut", &PyBudget::cut, py::arg("cost"), py::arg("drafts"), py::arg("drafting"),
           py::arg("trial"))
      .def("learn", &PyBudget::learn, py::arg("cost"), py::arg("drafts"), py::arg("paths"))
      .def("doubt", [](const PyBudget& self) { check(fewstep_budget_doubt(self.owner.get())); });
}

}  // namespace fewstep::python
