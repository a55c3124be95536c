// SPDX-License-Identifier: Apache-2.0
#include "py_filters.h"
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
  run_op(&fewstep_tree_build, stream.context(d.get(), kFunction, "depth"), args);
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
  run_op(&fewstep_tree_from_template, stream.context(out.get(), kFunction, "tokens"), args);
}

void expand(py::handle cum_logp, py::handle logits, py::handle indptr, py::handle d2t,
            py::handle ids, py::handle logp, py::handle beam_ids, py::handle beam_logp,
            py::handle beam_parent, py::handle status) {
  constexpr const char* kFunction = "fewstep_tree_expand";
  const py::handle arguments[] = {cum_logp, logits,   indptr,    d2t,         ids,
                                  logp,     beam_ids, beam_logp, beam_parent, status};
  CallStream stream(arguments);
  fewstep_tree_expand_args args = FEWSTEP_TREE_EXPAND_ARGS_INIT;
  const Borrowed c(cum_logp, kFunction, "cum_logp", Borrowed::kRead, &stream);
  const Borrowed l(logits, kFunction, "logits", Borrowed::kRead, &stream);
  const Borrowed e(indptr, kFunction, "indptr", Borrowed::kRead, &stream);
  const Optional d(d2t, kFunction, "d2t", Borrowed::kRead, &stream);
  const Borrowed i(ids, kFunction, "ids", Borrowed::kWrite, &stream);
  const Borrowed p(logp, kFunction, "logp", Borrowed::kWrite, &stream);
  const Optional bi(beam_ids, kFunction, "beam_ids", Borrowed::kWrite, &stream);
  const Optional bl(beam_logp, kFunction, "beam_logp", Borrowed::kWrite, &stream);
  const Optional bp(beam_parent, kFunction, "beam_parent", Borrowed::kWrite, &stream);
  const Optional s(status, kFunction, "status", Borrowed::kWrite, &stream);
  args.cum_logp = c.get();
  args.logits = l.get();
  args.indptr = e.get();
  args.d2t = d.get();
  args.ids = i.get();
  args.logp = p.get();
  args.beam_ids = bi.get();
  args.beam_logp = bl.get();
  args.beam_parent = bp.get();
  args.status = s.get();
  run_op(&fewstep_tree_expand, stream.context(i.get(), kFunction, "ids"), args);
}

void rerank(py::handle cum_logp, py::handle parent, py::handle indptr, py::handle budget,
            py::handle kept, py::handle kept_parent, py::handle kept_indptr, py::handle workspace) {
  constexpr const char* kFunction = "fewstep_tree_rerank";
  const py::handle arguments[] = {cum_logp, parent,      indptr,      budget,
                                  kept,     kept_parent, kept_indptr, workspace};
  CallStream stream(arguments);
  fewstep_tree_rerank_args args = FEWSTEP_TREE_RERANK_ARGS_INIT;
  const Borrowed c(cum_logp, kFunction, "cum_logp", Borrowed::kRead, &stream);
  const Borrowed p(parent, kFunction, "parent", Borrowed::kRead, &stream);
  const Borrowed i(indptr, kFunction, "indptr", Borrowed::kRead, &stream);
  const Borrowed m(budget, kFunction, "budget", Borrowed::kRead, &stream);
  const Borrowed k(kept, kFunction, "kept", Borrowed::kWrite, &stream);
  const Borrowed q(kept_parent, kFunction, "kept_parent", Borrowed::kWrite, &stream);
  const Borrowed e(kept_indptr, kFunction, "kept_indptr", Borrowed::kWrite, &stream);
  const Borrowed w(workspace, kFunction, "workspace", Borrowed::kWrite, &stream);
  args.cum_logp = c.get();
  args.parent = p.get();
  args.indptr = i.get();
  args.budget = m.get();
  args.kept = k.get();
  args.kept_parent = q.get();
  args.kept_indptr = e.get();
  args.workspace = w.get();
  run_op(&fewstep_tree_rerank, stream.context(k.get(), kFunction, "kept"), args);
}

// `inputs` is (logits, indptr, seeds, positions, node, cum_logp, parent_perturbed, d2t), `outputs`
// (draws, logq, perturbed, beam, status); None where there is none.
void sample_children(int32_t law, const py::tuple& filters, const py::tuple& inputs,
                     const py::tuple& outputs) {
  constexpr const char* kFunction = "fewstep_tree_sample_children";
  const py::handle arguments[] = {inputs, outputs};
  CallStream stream(arguments);
  const PyFilters f(filters, kFunction, &stream);
  fewstep_tree_sample_children_args args = FEWSTEP_TREE_SAMPLE_CHILDREN_ARGS_INIT;
  args.law = law;
  args.filters = f.filters;
  const Field fields[] = {
      {"logits", &args.logits},
      {"indptr", &args.indptr},
      {"seeds", &args.seeds},
      {"positions", &args.positions},
      {"node", &args.node},
      {"cum_logp", &args.cum_logp},
      {"parent_perturbed", &args.parent_perturbed},
      {"d2t", &args.d2t},
      {"draws", &args.draws},
      {"logq", &args.logq},
      {"perturbed", &args.perturbed},
      {"beam", &args.beam},
      {"status", &args.status},
  };
  const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
  run_op(&fewstep_tree_sample_children, stream.context(args.draws, kFunction, "draws"), args);
}

}  // namespace

void bind_tree(py::module_& m) {
  m.def("tree_build", &build, py::arg("parent"), py::arg("indptr"), py::arg("base"),
        py::arg("max_depth"), py::arg("depth"), py::arg("first_child"), py::arg("next_sibling"),
        py::arg("positions"), py::arg("bits"));
  m.def("tree_expand", &expand, py::arg("cum_logp"), py::arg("logits"), py::arg("indptr"),
        py::arg("d2t"), py::arg("ids"), py::arg("logp"), py::arg("beam_ids"), py::arg("beam_logp"),
        py::arg("beam_parent"), py::arg("status"));
  m.def("tree_from_template", &from_template, py::arg("parent"), py::arg("rank"), py::arg("root"),
        py::arg("table"), py::arg("heads"), py::arg("tokens"));
  m.def("tree_rerank", &rerank, py::arg("cum_logp"), py::arg("parent"), py::arg("indptr"),
        py::arg("budget"), py::arg("kept"), py::arg("kept_parent"), py::arg("kept_indptr"),
        py::arg("workspace"));
  m.def("tree_rerank_workspace_bytes", &fewstep_tree_rerank_workspace_bytes, py::arg("M"));
  m.def("tree_sample_children", &sample_children, py::arg("law"), py::arg("filters"),
        py::arg("inputs"), py::arg("outputs"));
}

}  // namespace fewstep::python
