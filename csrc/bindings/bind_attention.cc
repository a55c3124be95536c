// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

void attention(py::handle q, py::handle k, py::handle v, py::handle kv_len, py::handle indptr,
               py::handle page_table, py::handle k_scale, py::handle v_scale, py::handle draft_k,
               py::handle draft_v, py::handle block, py::handle bits, py::handle depth,
               py::handle sinks, int32_t draft, double scale, double softcap, int64_t window,
               bool deterministic, py::handle out, py::handle lse, py::handle workspace) {
  constexpr const char* kFunction = "fewstep_tree_attention";
  const py::handle arguments[] = {q,       k,       v,       kv_len,  indptr,   page_table,
                                  k_scale, v_scale, block,   bits,    depth,    sinks,
                                  out,     lse,     draft_k, draft_v, workspace};
  CallStream stream(arguments);
  const auto read = Borrowed::kRead, write = Borrowed::kWrite;
  const Borrowed q_in(q, kFunction, "q", read, &stream);
  const Borrowed k_in(k, kFunction, "k", read, &stream);
  const Borrowed v_in(v, kFunction, "v", read, &stream);
  const Borrowed length(kv_len, kFunction, "kv_len", read, &stream);
  const Borrowed ends(indptr, kFunction, "indptr", read, &stream);
  const Optional table(page_table, kFunction, "page_table", read, &stream);
  const Optional k_scales(k_scale, kFunction, "k_scale", read, &stream);
  const Optional v_scales(v_scale, kFunction, "v_scale", read, &stream);
  const Optional k_draft(draft_k, kFunction, "draft_k", read, &stream);
  const Optional v_draft(draft_v, kFunction, "draft_v", read, &stream);
  const Optional blocks(block, kFunction, "block", read, &stream);
  const Optional words(bits, kFunction, "bits", read, &stream);
  const Optional depths(depth, kFunction, "depth", read, &stream);
  const Optional sink(sinks, kFunction, "sinks", read, &stream);
  const Borrowed result(out, kFunction, "out", write, &stream);
  const Optional logs(lse, kFunction, "lse", write, &stream);
  const Optional scratch(workspace, kFunction, "workspace", write, &stream);
  fewstep_tree_attention_args args = FEWSTEP_TREE_ATTENTION_ARGS_INIT;
  args.draft = draft;
  args.deterministic = deterministic ? 1 : 0;
  args.scale = scale;
  args.softcap = softcap;
  args.window = window;
  args.q = q_in.get();
  args.k = k_in.get();
  args.v = v_in.get();
  args.kv_len = length.get();
  args.indptr = ends.get();
  args.page_table = table.get();
  args.k_scale = k_scales.get();
  args.v_scale = v_scales.get();
  args.draft_k = k_draft.get();
  args.draft_v = v_draft.get();
  args.block = blocks.get();
  args.bits = words.get();
  args.depth = depths.get();
  args.sinks = sink.get();
  args.out = result.get();
  args.lse = logs.get();
  args.workspace = scratch.get();
  run_op(&fewstep_tree_attention, stream.context(result.get(), kFunction, "out"), args);
}

void merge(const py::sequence& parts, const py::sequence& lses, py::handle out, py::handle lse) {
  constexpr const char* kFunction = "fewstep_tree_merge";
  const py::handle arguments[] = {parts, lses, out, lse};
  CallStream stream(arguments);
  fewstep_tree_merge_args args = FEWSTEP_TREE_MERGE_ARGS_INIT;
  const size_t count = parts.size();
  if (count < 1 || count > FEWSTEP_MAX_MERGE) {
    throw py::value_error(std::string(kFunction) + ": 'parts' must hold 1 to 8 arrays, got " +
                          std::to_string(count));
  }
  if (lses.size() != count) {
    throw py::value_error(std::string(kFunction) + ": 'lses' must hold one array per part, " +
                          std::to_string(count) + ", got " + std::to_string(lses.size()));
  }
  Borrowed held[2 * FEWSTEP_MAX_MERGE];
  for (size_t i = 0; i < count; ++i) {
    held[2 * i].borrow(parts[i], kFunction, "parts", Borrowed::kRead, &stream);
    held[2 * i + 1].borrow(lses[i], kFunction, "lses", Borrowed::kRead, &stream);
    args.parts[i] = held[2 * i].get();
    args.lses[i] = held[2 * i + 1].get();
  }
  args.n_parts = int32_t(count);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  const Optional l(lse, kFunction, "lse", Borrowed::kWrite, &stream);
  args.out = o.get();
  args.lse = l.get();
  run_op(&fewstep_tree_merge, stream.context(o.get(), kFunction, "out"), args);
}

}  // namespace

void bind_attention(py::module_& m) {
  m.def("tree_attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("kv_len"),
        py::arg("indptr"), py::arg("page_table"), py::arg("k_scale"), py::arg("v_scale"),
        py::arg("draft_k"), py::arg("draft_v"), py::arg("block"), py::arg("bits"), py::arg("depth"),
        py::arg("sinks"), py::arg("draft"), py::arg("scale"), py::arg("softcap"), py::arg("window"),
        py::arg("deterministic"), py::arg("out"), py::arg("lse"), py::arg("workspace"));
  m.def("tree_attention_workspace_bytes", &fewstep_tree_attention_workspace_bytes, py::arg("N"),
        py::arg("H"), py::arg("G"), py::arg("D"), py::arg("S"), py::arg("deterministic"));
  m.def("tree_merge", &merge, py::arg("parts"), py::arg("lses"), py::arg("out"), py::arg("lse"));
}

}  // namespace fewstep::python
