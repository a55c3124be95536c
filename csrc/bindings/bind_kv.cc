// SPDX-License-Identifier: Apache-2.0
#include "py_caches.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

void append(py::handle k, py::handle v, py::handle k_cache, py::handle v_cache, py::handle indptr,
            py::handle length, py::handle page_table, py::handle k_scale, py::handle v_scale,
            int32_t rope, py::handle cos, py::handle sin, py::handle positions) {
  constexpr const char* kFunction = "fewstep_kv_append";
  const py::handle arguments[] = {k,          v,       k_cache, v_cache, indptr, length,
                                  page_table, k_scale, v_scale, cos,     sin,    positions};
  CallStream stream(arguments);
  const auto read = [&](py::handle h, const char* name) {
    return Optional(h, kFunction, name, Borrowed::kRead, &stream);
  };
  const auto write = [&](py::handle h, const char* name) {
    return Optional(h, kFunction, name, Borrowed::kWrite, &stream);
  };
  const Optional k_t = read(k, "k"), v_t = read(v, "v");
  const Optional k_out = write(k_cache, "k_cache"), v_out = write(v_cache, "v_cache");
  const Optional indptr_t = read(indptr, "indptr"), length_t = read(length, "length");
  const Optional table = read(page_table, "page_table");
  const Optional k_s = write(k_scale, "k_scale"), v_s = write(v_scale, "v_scale");
  const Optional cos_t = read(cos, "cos"), sin_t = read(sin, "sin");
  const Optional positions_t = read(positions, "positions");
  fewstep_kv_append_args args = FEWSTEP_KV_APPEND_ARGS_INIT;
  args.rope = rope;
  args.k = k_t.get();
  args.v = v_t.get();
  args.k_cache = k_out.get();
  args.v_cache = v_out.get();
  args.indptr = indptr_t.get();
  args.length = length_t.get();
  args.page_table = table.get();
  args.k_scale = k_s.get();
  args.v_scale = v_s.get();
  args.cos = cos_t.get();
  args.sin = sin_t.get();
  args.positions = positions_t.get();
  run_op(&fewstep_kv_append, stream.context(k_t.get(), kFunction, "k"), args);
}

void commit(py::handle k_cache, py::handle v_cache, py::handle path, py::handle accepted,
            py::handle base, py::handle k_scale, py::handle v_scale, py::handle page_table,
            int32_t first, py::handle length) {
  constexpr const char* kFunction = "fewstep_kv_commit";
  const py::handle arguments[] = {k_cache, v_cache, path,       accepted, base,
                                  k_scale, v_scale, page_table, length};
  CallStream stream(arguments);
  const Caches caches(k_cache, v_cache, k_scale, v_scale, kFunction, Borrowed::kWrite, &stream);
  const Borrowed path_t(path, kFunction, "path", Borrowed::kRead, &stream);
  const Borrowed accepted_t(accepted, kFunction, "accepted", Borrowed::kRead, &stream);
  const Borrowed base_t(base, kFunction, "base", Borrowed::kRead, &stream);
  const Optional table(page_table, kFunction, "page_table", Borrowed::kRead, &stream);
  const Optional length_t(length, kFunction, "length", Borrowed::kWrite, &stream);
  fewstep_kv_commit_args args = FEWSTEP_KV_COMMIT_ARGS_INIT;
  args.first = first;
  args.caches = caches.caches;
  args.path = path_t.get();
  args.accepted = accepted_t.get();
  args.base = base_t.get();
  args.page_table = table.get();
  args.length = length_t.get();
  run_op(&fewstep_kv_commit, stream.context(caches.k.get(), kFunction, "k_cache"), args);
}

void truncate(py::handle length, py::handle kept) {
  constexpr const char* kFunction = "fewstep_kv_truncate";
  const py::handle arguments[] = {length, kept};
  CallStream stream(arguments);
  const Borrowed length_t(length, kFunction, "length", Borrowed::kWrite, &stream);
  const Borrowed kept_t(kept, kFunction, "kept", Borrowed::kRead, &stream);
  check(fewstep_kv_truncate(stream.context(length_t.get(), kFunction, "length"), length_t.get(),
                            kept_t.get()));
}

void gather(py::handle k_cache, py::handle v_cache, py::handle index, py::handle count,
            py::handle k_scale, py::handle v_scale, py::handle page_table) {
  constexpr const char* kFunction = "fewstep_kv_gather";
  const py::handle arguments[] = {k_cache, v_cache, index, count, k_scale, v_scale, page_table};
  CallStream stream(arguments);
  const Caches caches(k_cache, v_cache, k_scale, v_scale, kFunction, Borrowed::kWrite, &stream);
  const Borrowed index_t(index, kFunction, "index", Borrowed::kRead, &stream);
  const Borrowed count_t(count, kFunction, "count", Borrowed::kRead, &stream);
  const Optional table(page_table, kFunction, "page_table", Borrowed::kRead, &stream);
  fewstep_kv_gather_args args = FEWSTEP_KV_GATHER_ARGS_INIT;
  args.caches = caches.caches;
  args.index = index_t.get();
  args.count = count_t.get();
  args.page_table = table.get();
  run_op(&fewstep_kv_gather, stream.context(caches.k.get(), kFunction, "k_cache"), args);
}

void copy_pages(py::handle k_cache, py::handle v_cache, py::handle source, py::handle target,
                py::handle k_scale, py::handle v_scale) {
  constexpr const char* kFunction = "fewstep_kv_copy_pages";
  const py::handle arguments[] = {k_cache, v_cache, source, target, k_scale, v_scale};
  CallStream stream(arguments);
  const Caches caches(k_cache, v_cache, k_scale, v_scale, kFunction, Borrowed::kWrite, &stream);
  const Borrowed source_t(source, kFunction, "source", Borrowed::kRead, &stream);
  const Borrowed target_t(target, kFunction, "target", Borrowed::kRead, &stream);
  fewstep_kv_copy_pages_args args = FEWSTEP_KV_COPY_PAGES_ARGS_INIT;
  args.caches = caches.caches;
  args.source = source_t.get();
  args.target = target_t.get();
  run_op(&fewstep_kv_copy_pages, stream.context(caches.k.get(), kFunction, "k_cache"), args);
}

}  // namespace

void bind_kv_pool(py::module_& m);
void bind_kv_transfer(py::module_& m);

void bind_kv(py::module_& m) {
  bind_kv_pool(m);
  bind_kv_transfer(m);
  m.def("kv_copy_pages", &copy_pages, py::arg("k_cache"), py::arg("v_cache"), py::arg("source"),
        py::arg("target"), py::arg("k_scale"), py::arg("v_scale"));
  m.def("kv_gather", &gather, py::arg("k_cache"), py::arg("v_cache"), py::arg("index"),
        py::arg("count"), py::arg("k_scale"), py::arg("v_scale"), py::arg("page_table"));
  m.def("kv_truncate", &truncate, py::arg("length"), py::arg("kept"));
  m.def("kv_append", &append, py::arg("k"), py::arg("v"), py::arg("k_cache"), py::arg("v_cache"),
        py::arg("indptr"), py::arg("length"), py::arg("page_table"), py::arg("k_scale"),
        py::arg("v_scale"), py::arg("rope"), py::arg("cos"), py::arg("sin"), py::arg("positions"));
  m.def("kv_commit", &commit, py::arg("k_cache"), py::arg("v_cache"), py::arg("path"),
        py::arg("accepted"), py::arg("base"), py::arg("k_scale"), py::arg("v_scale"),
        py::arg("page_table"), py::arg("first"), py::arg("length"));
}

}  // namespace fewstep::python
