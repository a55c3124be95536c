// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Tokens = Array<int32_t>;

// Whether an array that may be None has a number of each node.
template <class T>
bool has_each(py::handle given, py::ssize_t nodes) {
  if (given.is_none()) return true;
  if (!Array<T>::check_(given)) return false;
  const auto array = py::reinterpret_borrow<Array<T>>(given);
  return array.ndim() == 1 && array.size() == nodes;
}

// Whether a draft is arrays of its dtypes that make a tree below a token, of up to `most` tokens
// that there are. Of one that is not, Python finds what is wrong, or may be converted.
bool draft_fits(py::handle token, py::handle parent, py::handle score, py::handle index,
                int32_t root, int32_t n_vocab, int32_t most) {
  if (!Tokens::check_(token) || !Tokens::check_(parent)) return false;
  const auto tokens = py::reinterpret_borrow<Tokens>(token);
  const auto parents = py::reinterpret_borrow<Tokens>(parent);
  const py::ssize_t nodes = tokens.size();
  if (tokens.ndim() != 1 || parents.ndim() != 1 || parents.size() != nodes) return false;
  if (nodes < 1 || nodes > most || !has_each<float>(score, nodes) ||
      !has_each<int32_t>(index, nodes)) {
    return false;
  }
  const int32_t *t = tokens.data(), *up = parents.data();
  if (t[0] != root || up[0] != -1) return false;
  for (py::ssize_t i = 0; i < nodes; ++i) {
    if (t[i] < 0 || t[i] >= n_vocab || up[i] >= i || (i > 0 && up[i] < 0)) return false;
  }
  return true;
}

// Fills depth, first_child [N], next_sibling [N] and bits [N, words] of trees.
void build(const Tokens& parent, const Tokens& indptr, int32_t* depth, int32_t* first_child,
           int32_t* next_sibling, Array<uint32_t>* bits) {
  int64_t N[] = {parent.size()}, ends[] = {indptr.size()};
  int64_t matrix[] = {N[0], bits->shape(1)};
  const auto ints = [](const int32_t* data, int64_t* shape) {
    return fewstep_tensor{const_cast<int32_t*>(data), {1, 0}, 1, {0, 32, 1}, shape, nullptr, 0};
  };
  const fewstep_tensor p = ints(parent.data(), N), i = ints(indptr.data(), ends),
                       d = ints(depth, N), f = ints(first_child, N), n = ints(next_sibling, N);
  const fewstep_tensor b = {bits->mutable_data(), {1, 0}, 2, {1, 32, 1}, matrix, nullptr, 0};
  fewstep_tree_build_args args = FEWSTEP_TREE_BUILD_ARGS_INIT;
  args.max_depth = -1;
  args.parent = &p;
  args.indptr = &i;
  args.depth = &d;
  args.first_child = &f;
  args.next_sibling = &n;
  args.bits = &b;
  check(fewstep_tree_build(nullptr, &args));
}

// Of trees that lie one after the other, whose parents are given as memory: (parent, indptr,
// begins, sizes, depth, bits, inner, deepest). `begins` is indptr as a list, `inner` says which
// nodes have children; depth and bits are None where all are chains.
py::tuple layout(const py::tuple& parents) {
  const size_t B = parents.size();
  Tokens indptr{py::ssize_t(B + 1)}, sizes{py::ssize_t(B)};
  std::vector<int32_t> begins(B + 1, 0);
  int32_t largest = 0;
  for (size_t b = 0; b < B; ++b) {
    const auto size = int32_t(size_t(PyBytes_GET_SIZE(parents[b].ptr())) / sizeof(int32_t));
    sizes.mutable_data()[b] = size;
    begins[b + 1] = begins[b] + size;
    largest = std::max(largest, size);
  }
  const auto N = size_t(begins[B]);
  std::copy(begins.begin(), begins.end(), indptr.mutable_data());
  Tokens parent{py::ssize_t(N)}, depth{py::ssize_t(N)};
  for (size_t b = 0; b < B; ++b) {
    std::memcpy(parent.mutable_data() + begins[b], PyBytes_AS_STRING(parents[b].ptr()),
                size_t(begins[b + 1] - begins[b]) * sizeof(int32_t));
  }
  Array<uint32_t> bits({py::ssize_t(N), py::ssize_t((largest + 31) / 32)});
  std::vector<int32_t> first_child(N), next_sibling(N);
  build(parent, indptr, depth.mutable_data(), first_child.data(), next_sibling.data(), &bits);
  const bool is_tree = std::any_of(next_sibling.begin(), next_sibling.end(),
                                   [](int32_t sibling) { return sibling >= 0; });
  std::vector<bool> inner(N);
  std::transform(first_child.begin(), first_child.end(), inner.begin(),
                 [](int32_t child) { return child >= 0; });
  const int32_t deepest = N ? *std::max_element(depth.data(), depth.data() + N) : 0;
  const py::object none = py::none();
  return py::make_tuple(parent, indptr, begins, sizes, is_tree ? py::object(depth) : none,
                        is_tree ? py::object(bits) : none, inner, deepest);
}

}  // namespace

void bind_batch(py::module_& m) {
  m.def("draft_fits", &draft_fits, py::arg("token"), py::arg("parent"), py::arg("score"),
        py::arg("index"), py::arg("root"), py::arg("n_vocab"), py::arg("most"));
  m.def("tree_layout", &layout, py::arg("parents"));
}

}  // namespace fewstep::python
