// SPDX-License-Identifier: Apache-2.0
#include <deque>
#include <memory>
#include <vector>

#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

constexpr const char* kCreate = "fewstep_decoder_create";

// Tensors that stay borrowed while a decoder is made.
class Held {
 public:
  explicit Held(CallStream* stream) : stream_(stream) {}

  const fewstep_tensor* tensor(py::handle object, const char* name) {
    if (object.is_none()) return nullptr;
    return held_.emplace_back(object, kCreate, name, Borrowed::kRead, stream_).get();
  }
  // (packed, kind, group, bias), or None.
  fewstep_decoder_weight weight(py::handle object, const char* name) {
    fewstep_decoder_weight out = FEWSTEP_DECODER_WEIGHT_INIT;
    if (object.is_none()) return out;
    const auto parts = py::cast<py::tuple>(object);
    out.packed = tensor(parts[0], name);
    out.kind = py::cast<int32_t>(parts[1]);
    out.group = py::cast<int32_t>(parts[2]);
    out.bias = tensor(parts[3], name);
    return out;
  }
  // (weight, eps), or None.
  fewstep_decoder_norm norm(py::handle object, const char* name) {
    fewstep_decoder_norm out = FEWSTEP_DECODER_NORM_INIT;
    if (object.is_none()) return out;
    const auto parts = py::cast<py::tuple>(object);
    out.weight = tensor(parts[0], name);
    out.eps = py::cast<double>(parts[1]);
    return out;
  }
  // The fields of a layer in the order of the struct.
  fewstep_decoder_layer layer(const py::tuple& fields) {
    fewstep_decoder_layer out = FEWSTEP_DECODER_LAYER_INIT;
    out.window = py::cast<int64_t>(fields[0]);
    out.q = weight(fields[1], "q");
    out.k = weight(fields[2], "k");
    out.v = weight(fields[3], "v");
    out.o = weight(fields[4], "o");
    out.gate = weight(fields[5], "gate");
    out.down = weight(fields[6], "down");
    out.up = tensor(fields[7], "up");
    out.norm = norm(fields[8], "norm");
    out.mlp_norm = norm(fields[9], "mlp_norm");
    out.q_norm = norm(fields[10], "q_norm");
    out.k_norm = norm(fields[11], "k_norm");
    out.k_cache = tensor(fields[12], "k_cache");
    out.v_cache = tensor(fields[13], "v_cache");
    out.k_scale = tensor(fields[14], "k_scale");
    out.v_scale = tensor(fields[15], "v_scale");
    return out;
  }

 private:
  CallStream* stream_;
  std::deque<Borrowed> held_;
};

// What a decoder holds memory of stays alive with it, and so does scratch between its calls.
class Decoder {
 public:
  Decoder(const py::list& layers, int32_t heads, int64_t inner, double scale, bool deterministic,
          py::object head, int64_t vocabulary, py::object norm, py::object embedding,
          int64_t n_tokens)
      : kept_(py::make_tuple(layers, head, norm, embedding)) {
    const py::handle arguments[] = {layers};
    CallStream stream(arguments);
    Held held(&stream);
    std::vector<fewstep_decoder_layer> made;
    for (const py::handle layer : layers) made.push_back(held.layer(py::cast<py::tuple>(layer)));
    fewstep_decoder_create_args args = FEWSTEP_DECODER_CREATE_ARGS_INIT;
    args.n_layers = int32_t(made.size());
    args.layers = made.data();
    args.heads = heads;
    args.inner = inner;
    args.scale = scale;
    args.deterministic = deterministic ? 1 : 0;
    args.vocabulary = vocabulary;
    args.head = held.weight(head, "head");
    args.norm = held.norm(norm, "norm");
    args.n_tokens = n_tokens;
    args.embedding = held.weight(embedding, "embedding");
    fewstep_decoder* decoder = nullptr;
    check(fewstep_decoder_create(&args, &decoder));
    owner_.reset(decoder);
  }

  // `inputs` is (tokens, indptr, length, page_table, cos, sin, bits, depth, block, rows), `outputs`
  // (x, logits, workspace).
  void run(bool scratch_x, const py::tuple& inputs, const py::tuple& outputs) {
    constexpr const char* kFunction = "fewstep_decoder_run";
    const py::handle arguments[] = {inputs, outputs};
    CallStream stream(arguments);
    fewstep_decoder_run_args args = FEWSTEP_DECODER_RUN_ARGS_INIT;
    args.scratch_x = scratch_x ? 1 : 0;
    const Field fields[] = {
        {"tokens", &args.tokens},
        {"indptr", &args.indptr},
        {"length", &args.length},
        {"page_table", &args.page_table},
        {"cos", &args.cos},
        {"sin", &args.sin},
        {"bits", &args.bits},
        {"depth", &args.depth},
        {"block", &args.block},
        {"rows", &args.rows},
        {"x", &args.x},
        {"logits", &args.logits},
        {"workspace", &args.workspace},
    };
    const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
    if (!args.workspace) {
      args.workspace = kept(workspace_bytes(first(args.x), first(args.length), first(args.logits),
                                            columns(args.page_table)));
    }
    const auto op = [this](const fewstep_context* c, const fewstep_decoder_run_args* given) {
      return fewstep_decoder_run(c, owner_.get(), given);
    };
    run_op(op, stream.context(args.x, kFunction, "x"), args);
  }

  // `inputs` is (tokens, indptr, length, page_table, cos, sin, levels, d2t), `outputs` (ids, logp,
  // workspace).
  void chain(double least, const py::tuple& inputs, const py::tuple& outputs) {
    constexpr const char* kFunction = "fewstep_decoder_chain";
    const py::handle arguments[] = {inputs, outputs};
    CallStream stream(arguments);
    fewstep_decoder_chain_args args = FEWSTEP_DECODER_CHAIN_ARGS_INIT;
    args.least = least;
    const Field fields[] = {
        {"tokens", &args.tokens},
        {"indptr", &args.indptr},
        {"length", &args.length},
        {"page_table", &args.page_table},
        {"cos", &args.cos},
        {"sin", &args.sin},
        {"levels", &args.levels},
        {"d2t", &args.d2t},
        {"ids", &args.ids},
        {"logp", &args.logp},
        {"workspace", &args.workspace},
    };
    const BorrowedFields held(fields, inputs, outputs, kFunction, &stream);
    if (!args.workspace) {
      args.workspace = kept(
          chain_workspace_bytes(first(args.tokens), first(args.length), columns(args.page_table)));
    }
    const auto op = [this](const fewstep_context* c, const fewstep_decoder_chain_args* given) {
      return fewstep_decoder_chain(c, owner_.get(), given);
    };
    run_op(op, stream.context(args.ids, kFunction, "ids"), args);
  }

  int64_t workspace_bytes(int64_t N, int64_t B, int64_t M, int64_t C) const {
    return fewstep_decoder_run_workspace_bytes(owner_.get(), N, B, M, C);
  }
  int64_t chain_workspace_bytes(int64_t N, int64_t B, int64_t C) const {
    return fewstep_decoder_chain_workspace_bytes(owner_.get(), N, B, C);
  }

 private:
  struct Destroy {
    void operator()(fewstep_decoder* decoder) const { fewstep_decoder_destroy(decoder); }
  };

  // Sizes of arguments whose shapes are the op's to check.
  static int64_t first(const fewstep_tensor* t) { return t && t->ndim > 0 ? t->shape[0] : 0; }
  static int64_t columns(const fewstep_tensor* t) { return t && t->ndim > 1 ? t->shape[1] : 1; }

  // Scratch of the call before where it is large enough.
  const fewstep_tensor* kept(int64_t bytes) {
    const int64_t count = (bytes + 7) / 8;
    if (count > count_) {
      memory_.reset(new int64_t[size_t(count)]);
      count_ = count;
    }
    scratch_ = {memory_.get(), {1, 0}, 1, {0, 64, 1}, &count_, nullptr, 0};
    return &scratch_;
  }

  py::tuple kept_;
  std::unique_ptr<fewstep_decoder, Destroy> owner_;
  std::unique_ptr<int64_t[]> memory_;
  int64_t count_ = 0;
  fewstep_tensor scratch_{};
};

// Whether each owner still has its object under a name, or under an attribute of what has that
// name.
bool have_same(const py::list& owners, py::handle name, py::handle attribute,
               const py::list& objects) {
  if (owners.size() != objects.size()) return false;
  for (size_t i = 0; i < owners.size(); ++i) {
    PyObject* const owner = PyList_GET_ITEM(owners.ptr(), Py_ssize_t(i));
    PyObject* const named = PyDict_Check(owner) ? PyDict_GetItem(owner, name.ptr()) : nullptr;
    if (!named) return false;
    auto found = py::reinterpret_borrow<py::object>(named);
    if (!attribute.is_none()) {
      found = py::reinterpret_steal<py::object>(PyObject_GetAttr(named, attribute.ptr()));
    }
    if (!found) {
      PyErr_Clear();
      return false;
    }
    if (found.ptr() != PyList_GET_ITEM(objects.ptr(), Py_ssize_t(i))) return false;
  }
  return true;
}

}  // namespace

void bind_decoder(py::module_& m) {
  m.def("have_same", &have_same, py::arg("owners"), py::arg("name"), py::arg("attribute"),
        py::arg("objects"));
  py::class_<Decoder>(m, "Decoder")
      .def(py::init<const py::list&, int32_t, int64_t, double, bool, py::object, int64_t,
                    py::object, py::object, int64_t>(),
           py::arg("layers"), py::arg("heads"), py::arg("inner"), py::arg("scale"),
           py::arg("deterministic"), py::arg("head"), py::arg("vocabulary"), py::arg("norm"),
           py::arg("embedding"), py::arg("n_tokens"))
      .def("run", &Decoder::run, py::arg("scratch_x"), py::arg("inputs"), py::arg("outputs"))
      .def("chain", &Decoder::chain, py::arg("least"), py::arg("inputs"), py::arg("outputs"))
      .def("chain_workspace_bytes", &Decoder::chain_workspace_bytes, py::arg("N"), py::arg("B"),
           py::arg("C"))
      .def("workspace_bytes", &Decoder::workspace_bytes, py::arg("N"), py::arg("B"), py::arg("M"),
           py::arg("C"));
}

}  // namespace fewstep::python
