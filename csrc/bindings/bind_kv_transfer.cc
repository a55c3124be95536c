// SPDX-License-Identifier: Apache-2.0
#include "py_caches.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

void export_tokens(py::handle k_cache, py::handle v_cache, int32_t begin, int32_t end, int32_t row,
                   int32_t first_layer, py::handle k_scale, py::handle v_scale,
                   py::handle page_table, py::handle out) {
  constexpr const char* kFunction = "fewstep_kv_export_tokens";
  const py::handle arguments[] = {k_cache, v_cache, k_scale, v_scale, page_table, out};
  CallStream stream(arguments);
  const Caches caches(k_cache, v_cache, k_scale, v_scale, kFunction, Borrowed::kRead, &stream);
  const Optional table(page_table, kFunction, "page_table", Borrowed::kRead, &stream);
  const Borrowed out_t(out, kFunction, "out", Borrowed::kWrite, &stream);
  fewstep_kv_export_tokens_args args = FEWSTEP_KV_EXPORT_TOKENS_ARGS_INIT;
  args.row = row;
  args.begin = begin;
  args.end = end;
  args.first_layer = first_layer;
  args.caches = caches.caches;
  args.page_table = table.get();
  args.out = out_t.get();
  run_op(&fewstep_kv_export_tokens, stream.context(caches.k.get(), kFunction, "k_cache"), args);
}

// How many tokens an imported message has: its header tells where the host can read it, else its
// size.
int64_t tokens_of(const fewstep_tensor& data, const Caches& caches) {
  if (!is_cuda(int32_t(data.device.device_type))) {
    fewstep_kv_header header{};
    check(fewstep_kv_read_header(static_cast<const char*>(data.data) + data.byte_offset,
                                 uint64_t(data.shape[0]), &header));
    return int64_t(header.tokens);
  }
  const fewstep_tensor& k = caches.k.tensors.front();
  const int64_t layers = k.ndim == 5 ? k.shape[0] : int64_t(caches.k.tensors.size());
  const int64_t* sizes = k.shape + k.ndim - 2;
  const auto bytes = [&](int64_t tokens) {
    return fewstep_kv_export_bytes(layers, tokens, sizes[0], sizes[1], k.dtype.bits);
  };
  return bytes(1) > bytes(0) ? (data.shape[0] - bytes(0)) / (bytes(1) - bytes(0)) : 0;
}

int64_t import_tokens(py::handle data, py::handle k_cache, py::handle v_cache, int32_t begin,
                      int32_t row, int32_t first_layer, py::handle k_scale, py::handle v_scale,
                      py::handle page_table, py::handle status) {
  constexpr const char* kFunction = "fewstep_kv_import_tokens";
  const py::handle arguments[] = {data, k_cache, v_cache, k_scale, v_scale, page_table, status};
  CallStream stream(arguments);
  const Borrowed data_t(data, kFunction, "data", Borrowed::kRead, &stream);
  const Caches caches(k_cache, v_cache, k_scale, v_scale, kFunction, Borrowed::kWrite, &stream);
  const Optional table(page_table, kFunction, "page_table", Borrowed::kRead, &stream);
  const Borrowed status_t(status, kFunction, "status", Borrowed::kWrite, &stream);
  fewstep_kv_import_tokens_args args = FEWSTEP_KV_IMPORT_TOKENS_ARGS_INIT;
  args.row = row;
  args.begin = begin;
  args.first_layer = first_layer;
  args.caches = caches.caches;
  args.page_table = table.get();
  args.data = data_t.get();
  args.status = status_t.get();
  run_op(&fewstep_kv_import_tokens, stream.context(caches.k.get(), kFunction, "k_cache"), args);
  return tokens_of(*data_t, caches);
}

}  // namespace

void bind_kv_transfer(py::module_& m) {
  m.def("kv_export_bytes", &fewstep_kv_export_bytes, py::arg("layers"), py::arg("tokens"),
        py::arg("heads"), py::arg("head_dim"), py::arg("dtype_bits"));
  m.def("kv_export_tokens", &export_tokens, py::arg("k_cache"), py::arg("v_cache"),
        py::arg("begin"), py::arg("end"), py::arg("row"), py::arg("first_layer"),
        py::arg("k_scale"), py::arg("v_scale"), py::arg("page_table"), py::arg("out"));
  m.def("kv_import_tokens", &import_tokens, py::arg("data"), py::arg("k_cache"), py::arg("v_cache"),
        py::arg("begin"), py::arg("row"), py::arg("first_layer"), py::arg("k_scale"),
        py::arg("v_scale"), py::arg("page_table"), py::arg("status"));
}

}  // namespace fewstep::python
