// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

void build(py::handle parent, py::handle indptr, py::handle base, int32_t max_depth,
           py::handle depth, py::handle first_child, py::handle next_sibling, py::handle positions,
           py::handle bits) {
  constexpr const char* kFunction = "fewstep_tree_build";
  const py::handle arguments[] = {parent,      indptr,       base,      depth,
                                  first_child, next_sibling, positions, bits};
  CallStream stream(arguments);
  fewstep_tree_build_args args = FEWSTEP_TREE_BUILD_ARGS_INIT;
  const Borrowed p(parent, kFunction, "parent", Borrowed::kRead, &stream);
  const Borrowed i(indptr, kFunction, "indptr", Borrowed::kRead, &stream);
  const Optional b(base, kFunction, "base", Borrowed::kRead, &stream);
  const Borrowed d(depth, kFunction, "depth", Borrowed::kWrite, &stream);
  const Optional f(first_child, kFunction, "first_child", Borrowed::kWrite, &stream);
  const Optional n(next_sibling, kFunction, "next_sibling", Borrowed::kWrite, &stream);
  const Optional o(positions, kFunction, "positions", Borrowed::kWrite, &stream);
  const Optional w(bits, kFunction, "bits", Borrowed::kWrite, &stream);
  args.max_depth = max_depth;
  args.parent = p.get();
  args.indptr = i.get();
  args.base = b.get();
  args.depth = d.get();
  args.first_child = f.get();
  args.next_sibling = n.get();
  args.positions = o.get();
  args.bits = w.get();
  const fewstep_context* ctx = stream.context(d.get(), kFunction, "depth");
  fewstep_status status;
  {
    const py::gil_scoped_release release;
    status = fewstep_tree_build(ctx, &args);
  }
  check(status);
}

void from_template(py::handle parent, py::handle rank, py::handle root, py::handle table,
                   py::handle heads, py::handle tokens) {
  constexpr const char* kFunction = "fewstep_tree_from_template";
  const py::handle arguments[] = {parent, rank, root, table, heads, tokens};
  CallStream stream(arguments);
  fewstep_tree_from_template_args args = FEWSTEP_TREE_FROM_TEMPLATE_ARGS_INIT;
  const Borrowed p(parent, kFunction, "parent", Borrowed::kRead, &stream);
  const Borrowed r(rank, kFunction, "rank", Borrowed::kRead, &stream);
  const Borrowed o(root, kFunction, "root", Borrowed::kRead, &stream);
  const Optional t(table, kFunction, "table", Borrowed::kRead, &stream);
  const Optional h(heads, kFunction, "heads", Borrowed::kRead, &stream);
  const Borrowed out(tokens, kFunction, "tokens", Borrowed::kWrite, &stream);
  args.parent = p.get();
  args.rank = r.get();
  args.root = o.get();
  args.table = t.get();
  args.heads = h.get();
  args.tokens = out.get();
  const fewstep_context* ctx = stream.context(out.get(), kFunction, "tokens");
  fewstep_status status;
  {
    const py::gil_scoped_release release;
    status = fewstep_tree_from_template(ctx, &args);
  }
  check(status);
}

}  // namespace

void bind_tree(py::module_& m) {
  m.def("tree_build", &build, py::arg("parent"), py::arg("indptr"), py::arg("base"),
        py::arg("max_depth"), py::arg("depth"), py::arg("first_child"), py::arg("next_sibling"),
        py::arg("positions"), py::arg("bits"));
  m.def("tree_from_template", &from_template, py::arg("parent"), py::arg("rank"), py::arg("root"),
        py::arg("table"), py::arg("heads"), py::arg("tokens"));
}

}  // namespace fewstep::python
