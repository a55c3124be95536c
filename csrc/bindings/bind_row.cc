// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <cmath>
#include <string>

#include "py_plan.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

template <class T>
py::tuple to_tuple(const T* values, int32_t n) {
  py::tuple out(n);
  for (int32_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = values[i];
  return out;
}

template <size_t width>
py::tuple to_tuple(const double (*values)[width], int32_t rows, int32_t columns) {
  py::tuple out(rows);
  for (int32_t r = 0; r < rows; ++r) out[static_cast<size_t>(r)] = to_tuple(values[r], columns);
  return out;
}

// Every field of a row once, by name. `visitor(name, get)` where get(row) is the Python value.
template <class Visitor>
void visit_fields(Visitor&& visit) {
  using Row = fewstep_plan_row;
#define FEWSTEP_SCALAR(name) visit(#name, [](const Row& r) { return py::cast(r.name); })
#define FEWSTEP_ARRAY(name, n) \
  visit(#name, [](const Row& r) -> py::object { return to_tuple(r.name, r.n); })
#define FEWSTEP_MATRIX(name, n) \
  visit(#name, [](const Row& r) -> py::object { return to_tuple(r.name, r.n_outputs, r.n); })
  FEWSTEP_ARRAY(input, n_inputs);
  FEWSTEP_ARRAY(output, n_outputs);
  FEWSTEP_ARRAY(role, n_outputs);
  FEWSTEP_ARRAY(blend, n_outputs);
  FEWSTEP_ARRAY(noise_stream, n_noises);
  FEWSTEP_ARRAY(noise_step, n_noises);
  FEWSTEP_SCALAR(evaluates);
  FEWSTEP_SCALAR(step);
  FEWSTEP_SCALAR(frame);
  FEWSTEP_SCALAR(variable);
  FEWSTEP_SCALAR(order);
  FEWSTEP_SCALAR(process);
  FEWSTEP_ARRAY(gamma, n_guidance);
  FEWSTEP_SCALAR(p);
  FEWSTEP_SCALAR(q);
  FEWSTEP_SCALAR(clip);
  FEWSTEP_MATRIX(a, n_inputs);
  FEWSTEP_MATRIX(noise, n_noises);
  FEWSTEP_ARRAY(known, n_outputs);
  FEWSTEP_MATRIX(known_noise, n_noises);
  FEWSTEP_SCALAR(t);
  FEWSTEP_SCALAR(alpha);
  FEWSTEP_SCALAR(sigma);
  FEWSTEP_SCALAR(scale);
  FEWSTEP_SCALAR(next_t);
  FEWSTEP_SCALAR(next_alpha);
  FEWSTEP_SCALAR(next_sigma);
  FEWSTEP_SCALAR(next_scale);
  FEWSTEP_SCALAR(from_alpha);
  FEWSTEP_SCALAR(from_sigma);
  FEWSTEP_SCALAR(tau);
  FEWSTEP_SCALAR(prior);
  FEWSTEP_SCALAR(next_prior);
#undef FEWSTEP_SCALAR
#undef FEWSTEP_ARRAY
#undef FEWSTEP_MATRIX
}

py::dict row_dict(const fewstep_plan_row& row) {
  py::dict fields;
  visit_fields([&](const char* name, auto get) { fields[name] = get(row); });
  return fields;
}

[[noreturn]] void bad_field(const std::string& name, const std::string& must, py::handle got) {
  throw py::value_error("fewstep.solver.Row: '" + name + "' must " + must + ", got " +
                        py::repr(got).cast<std::string>());
}

// Reads the keyword arguments of Row(...): the fields above, all but a few optional.
class RowReader {
 public:
  explicit RowReader(const py::kwargs& fields) : fields_(fields) {}

  fewstep_plan_row read() {
    fewstep_plan_row row{};
    row.n_inputs = count("input", FEWSTEP_MAX_INPUTS);
    row.n_outputs = count("output", FEWSTEP_MAX_OUTPUTS);
    row.n_noises = count("noise_stream", FEWSTEP_MAX_NOISES);
    row.n_guidance = count("gamma", FEWSTEP_MAX_GUIDANCE);
    array("input", row.input, row.n_inputs);
    array("output", row.output, row.n_outputs);
    array("role", row.role, row.n_outputs);
    array("blend", row.blend, row.n_outputs);
    array("noise_stream", row.noise_stream, row.n_noises);
    array("noise_step", row.noise_step, row.n_noises);
    array("gamma", row.gamma, row.n_guidance);
    array("known", row.known, row.n_outputs);
    matrix("a", row.a, row.n_outputs, row.n_inputs);
    matrix("noise", row.noise, row.n_outputs, row.n_noises);
    matrix("known_noise", row.known_noise, row.n_outputs, row.n_noises);
    row.clip = INFINITY;
    scalar("clip", &row.clip);
    for (auto [name, value] : {std::pair{"evaluates", &row.evaluates},
                               {"step", &row.step},
                               {"frame", &row.frame},
                               {"variable", &row.variable},
                               {"order", &row.order},
                               {"process", &row.process}}) {
      scalar(name, value);
    }
    for (auto [name, value] : {std::pair{"p", &row.p},
                               {"q", &row.q},
                               {"t", &row.t},
                               {"alpha", &row.alpha},
                               {"sigma", &row.sigma},
                               {"scale", &row.scale},
                               {"next_t", &row.next_t},
                               {"next_alpha", &row.next_alpha},
                               {"next_sigma", &row.next_sigma},
                               {"next_scale", &row.next_scale},
                               {"from_alpha", &row.from_alpha},
                               {"from_sigma", &row.from_sigma},
                               {"tau", &row.tau},
                               {"prior", &row.prior},
                               {"next_prior", &row.next_prior}}) {
      scalar(name, value);
    }
    for (const auto& [name, value] : fields_) {
      bool known = false;
      visit_fields([&](const char* field, auto) { known |= name.cast<std::string>() == field; });
      if (!known)
        throw py::type_error("fewstep.solver.Row has no field " +
                             py::repr(name).cast<std::string>());
    }
    return row;
  }

 private:
  bool has(const char* name) const { return fields_.contains(name); }

  py::sequence items(const char* name, py::handle value, int32_t n) const {
    if (!py::isinstance<py::sequence>(value) || py::len(value) != static_cast<size_t>(n)) {
      bad_field(name, "be a sequence of " + std::to_string(n) + " entries", value);
    }
    return py::reinterpret_borrow<py::sequence>(value);
  }

  int32_t count(const char* name, int32_t limit) const {
    if (!has(name)) return 0;
    const py::object value = fields_[name];
    if (!py::isinstance<py::sequence>(value) || py::len(value) > static_cast<size_t>(limit)) {
      bad_field(name, "be a sequence of at most " + std::to_string(limit) + " entries", value);
    }
    return static_cast<int32_t>(py::len(value));
  }

  template <class T>
  static T element(const char* name, py::handle value) {
    try {
      return value.cast<T>();
    } catch (const py::cast_error&) {
      bad_field(name, std::is_floating_point_v<T> ? "hold numbers" : "hold 32-bit integers", value);
    }
  }

  template <class T>
  void scalar(const char* name, T* out) const {
    if (has(name)) *out = element<T>(name, fields_[name]);
  }

  template <class T, size_t size>
  void array(const char* name, T (&out)[size], int32_t n) const {
    if (!has(name)) return;
    int32_t i = 0;
    for (const auto item : items(name, fields_[name], n)) out[i++] = element<T>(name, item);
  }

  template <size_t height, size_t width>
  void matrix(const char* name, double (&out)[height][width], int32_t rows, int32_t columns) const {
    if (!has(name)) return;
    int32_t r = 0;
    for (const auto line : items(name, fields_[name], rows)) {
      int32_t c = 0;
      for (const auto item : items(name, line, columns)) out[r][c++] = element<double>(name, item);
      ++r;
    }
  }

  const py::kwargs& fields_;
};

}  // namespace

void bind_row(py::module_& m) {
  py::class_<fewstep_plan_row> row(m, "Row",
                                   R"(One row of a plan: what happens between two model calls.

A read-only record with the fields of ``fewstep_plan_row`` (``fewstep/plan.h`` has the formula and
the meaning of each); arrays are tuples as long as the row uses them.

Parameters
----------
**fields
    Any of the fields; numbers left out are 0, arrays empty or 0, ``clip`` infinite.

Examples
--------
>>> double = fewstep.solver.Row(input=(0,), output=(0,), a=((2.0,),))
>>> double.replace(a=((3.0,),)).a
((3.0,),)
)");
  row.def(py::init([](const py::kwargs& fields) { return RowReader(fields).read(); }));
  visit_fields([&](const char* name, auto get) { row.def_property_readonly(name, get); });
  for (const auto& [name, member] : {std::pair{"n_inputs", &fewstep_plan_row::n_inputs},
                                     {"n_outputs", &fewstep_plan_row::n_outputs},
                                     {"n_noises", &fewstep_plan_row::n_noises},
                                     {"n_guidance", &fewstep_plan_row::n_guidance}}) {
    row.def_readonly(name, member);
  }
  row.def(
      "replace",
      [](const fewstep_plan_row& self, const py::kwargs& changes) {
        py::kwargs fields(row_dict(self));
        for (const auto& [name, value] : changes) fields[name] = value;
        return RowReader(fields).read();
      },
      "Return a copy with some fields changed.");
  row.def("to_dict", &row_dict, "Return the fields as a dict.");
  row.def("__eq__", [](const fewstep_plan_row& a, py::handle other) -> py::object {
    if (!py::isinstance<fewstep_plan_row>(other)) {
      return py::reinterpret_borrow<py::object>(Py_NotImplemented);
    }
    return py::bool_(row_dict(a).equal(row_dict(other.cast<const fewstep_plan_row&>())));
  });
  row.def("__hash__", [](const fewstep_plan_row& self) {
    return py::hash(py::tuple(py::list(row_dict(self).attr("values")())));
  });
  row.def("__repr__", [](const fewstep_plan_row& self) {
    std::string text = "Row(";
    for (const auto& [name, value] : row_dict(self)) {
      if (text.back() != '(') text += ", ";
      text += name.cast<std::string>() + "=" + py::repr(value).cast<std::string>();
    }
    return text + ")";
  });
}

}  // namespace fewstep::python
