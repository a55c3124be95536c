// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <optional>

#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

// A tensor [..., N] as its rows [M, N], where the leading dimensions lie one after the other:
// models call layers with [batch, tokens, N], and two views cost as much as the product of a small
// layer. What does not fold stays as it is, for the op to refuse.
class Rows {
 public:
  explicit Rows(const fewstep_tensor* tensor) : given_(tensor) {
    if (tensor == nullptr || tensor->ndim <= 2) return;
    const int last = tensor->ndim - 1;
    int64_t next = tensor->shape[last], rows = 1, pitch = next;
    for (int d = last - 1; d >= 0; --d) {
      const int64_t extent = tensor->shape[d];
      const int64_t stride = tensor->strides ? tensor->strides[d] : next;
      if (extent != 1 && rows == 1) pitch = stride;
      if (extent != 1 && rows != 1 && rows != 0 && stride != pitch * rows) return;
      rows *= extent;
      next *= extent;
    }
    shape_[0] = rows;
    shape_[1] = tensor->shape[last];
    strides_[0] = pitch;
    strides_[1] = tensor->strides ? tensor->strides[last] : 1;
    folded_ = *tensor;
    folded_.ndim = 2;
    folded_.shape = shape_;
    folded_.strides = strides_;
    given_ = &folded_;
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  const fewstep_tensor* get() const { return given_; }

 private:
  const fewstep_tensor* given_;
  fewstep_tensor folded_{};
  int64_t shape_[2] = {}, strides_[2] = {};
};

// The workspace of a call that brings none: the thread's own, because decoding asks for one every
// time, or the call's where it is large.
class Scratch {
 public:
  Scratch(const fewstep_tensor& x, int32_t kind, int32_t group) {
    const bool is_rows = x.ndim == 2;  // else the op refuses
    const int64_t bytes =
        is_rows ? fewstep_linear_run_workspace_bytes(x.shape[0], x.shape[1], kind, group) : 0;
    count_ = bytes / 8;
    if (count_ > kKept) own_.reset(new int64_t[size_t(count_)]);
    tensor_.data = own_ ? own_.get() : kept(count_);
    tensor_.device = x.device;
    if (x.device.device_type == 2) tensor_.device = {1, 0};  // where it is, for the op to refuse
    tensor_.ndim = 1;
    tensor_.dtype = {0, 64, 1};
    tensor_.shape = &count_;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const fewstep_tensor* get() const { return &tensor_; }

 private:
  static constexpr int64_t kKept = 1 << 19;  // 4 MiB

  static int64_t* kept(int64_t count) {
    thread_local std::unique_ptr<int64_t[]> memory;
    thread_local int64_t held = 0;
    if (!memory || held < count) {
      held = count > kKept / 16 ? count : kKept / 16;
      memory.reset(new int64_t[size_t(held)]);
    }
    return memory.get();
  }

  int64_t count_;
  std::unique_ptr<int64_t[]> own_;
  fewstep_tensor tensor_{};
};

void pack(py::handle weight, int32_t kind, int32_t group, py::handle out) {
  constexpr const char* kFunction = "fewstep_linear_pack";
  const py::handle arguments[] = {weight, out};
  CallStream stream(arguments);
  const Borrowed w(weight, kFunction, "weight", Borrowed::kRead, &stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  fewstep_linear_pack_args args = FEWSTEP_LINEAR_PACK_ARGS_INIT;
  args.kind = kind;
  args.group = group;
  args.weight = w.get();
  args.out = o.get();
  run_op(&fewstep_linear_pack, stream.context(o.get(), kFunction, "out"), args);
}

void unpack(py::handle packed, int32_t kind, int32_t group, py::handle out) {
  constexpr const char* kFunction = "fewstep_linear_unpack";
  const py::handle arguments[] = {packed, out};
  CallStream stream(arguments);
  const Borrowed p(packed, kFunction, "packed", Borrowed::kRead, &stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  fewstep_linear_unpack_args args = FEWSTEP_LINEAR_UNPACK_ARGS_INIT;
  args.kind = kind;
  args.group = group;
  args.packed = p.get();
  args.out = o.get();
  run_op(&fewstep_linear_unpack, stream.context(o.get(), kFunction, "out"), args);
}

void run(py::handle x, py::handle packed, int32_t kind, int32_t group, py::handle bias,
         py::handle up, py::handle residual, py::handle norm, double norm_eps, py::handle out,
         py::handle workspace) {
  constexpr const char* kFunction = "fewstep_linear_run";
  const py::handle arguments[] = {x, packed, bias, up, residual, norm, out, workspace};
  CallStream stream(arguments);
  const Borrowed in(x, kFunction, "x", Borrowed::kRead, &stream);
  const Borrowed p(packed, kFunction, "packed", Borrowed::kRead, &stream);
  const Optional b(bias, kFunction, "bias", Borrowed::kRead, &stream);
  const Optional u(up, kFunction, "up", Borrowed::kRead, &stream);
  const Optional r(residual, kFunction, "residual", Borrowed::kRead, &stream);
  const Optional n(norm, kFunction, "norm", Borrowed::kRead, &stream);
  const Borrowed o(out, kFunction, "out", Borrowed::kWrite, &stream);
  const Optional w(workspace, kFunction, "workspace", Borrowed::kWrite, &stream);
  const Rows x_rows(in.get()), residual_rows(r.get()), out_rows(o.get());
  std::optional<Scratch> scratch;
  if (!w.given) scratch.emplace(*x_rows.get(), kind, group);
  fewstep_linear_run_args args = FEWSTEP_LINEAR_RUN_ARGS_INIT;
  args.kind = kind;
  args.group = group;
  args.norm_eps = norm_eps;
  args.x = x_rows.get();
  args.packed = p.get();
  args.up = u.get();
  args.bias = b.get();
  args.residual = residual_rows.get();
  args.norm = n.get();
  args.out = out_rows.get();
  args.workspace = w.given ? w.get() : scratch->get();
  run_op(&fewstep_linear_run, stream.context(o.get(), kFunction, "out"), args);
}

// What torch says of a tensor in host memory, whether or not autograd follows it; false for others.
bool read_torch(py::handle object, fewstep_tensor* tensor) {
  const ArrayType type = array_type(Py_TYPE(object.ptr()));
  if (!type.api) return false;
  if (type.api->dltensor_from_py_object(object.ptr(), tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  return tensor->device.device_type == 1;
}

// x.new_empty(..., O) for x [..., I].
py::object new_rows(py::handle x, const fewstep_tensor& tensor, int64_t O) {
  static PyObject* const kName = PyUnicode_InternFromString("new_empty");
  constexpr int kMost = 8;
  if (tensor.ndim > kMost) return py::none();
  py::object sizes[kMost];
  PyObject* args[1 + kMost] = {x.ptr()};
  for (int d = 0; d < tensor.ndim; ++d) {
    sizes[d] = py::int_(d == tensor.ndim - 1 ? O : tensor.shape[d]);
    args[1 + d] = sizes[d].ptr();
  }
  PyObject* made = PyObject_VectorcallMethod(kName, args, size_t(1 + tensor.ndim), nullptr);
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

// A layer of torch without gradients: x [..., I] to a new tensor [..., O]. None where x is not a
// few rows that lie as `run` reads them: up to `most`, of `inputs`.
py::object apply(py::handle x, py::handle packed, int32_t kind, int32_t group, int64_t inputs,
                 int64_t outputs, py::handle bias, int64_t most) {
  fewstep_tensor in, p, b, o;
  if (!read_torch(x, &in) || in.ndim < 2 || in.shape[in.ndim - 1] != inputs) return py::none();
  const Rows rows(&in);
  if (rows.get()->ndim != 2 || rows.get()->shape[0] > most) return py::none();
  if (rows.get()->strides && rows.get()->strides[1] != 1 && inputs > 1) return py::none();
  if (!read_torch(packed, &p) || (!bias.is_none() && !read_torch(bias, &b))) return py::none();
  const py::object out = new_rows(x, in, outputs);
  if (!read_torch(out, &o)) return py::none();
  const Rows out_rows(&o);
  const Scratch scratch(*rows.get(), kind, group);
  fewstep_linear_run_args args = FEWSTEP_LINEAR_RUN_ARGS_INIT;
  args.kind = kind;
  args.group = group;
  args.x = rows.get();
  args.packed = &p;
  args.bias = bias.is_none() ? nullptr : &b;
  args.out = out_rows.get();
  args.workspace = scratch.get();
  run_op(&fewstep_linear_run, nullptr, args);
  return out;
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def("linear_apply", &apply, py::arg("x"), py::arg("packed"), py::arg("kind"), py::arg("group"),
        py::arg("inputs"), py::arg("outputs"), py::arg("bias"), py::arg("most"));
  m.def("linear_pack", &pack, py::arg("weight"), py::arg("kind"), py::arg("group"), py::arg("out"));
  m.def("linear_packed_bytes", &fewstep_linear_packed_bytes, py::arg("O"), py::arg("I"),
        py::arg("kind"), py::arg("group"));
  m.def("linear_run", &run, py::arg("x"), py::arg("packed"), py::arg("kind"), py::arg("group"),
        py::arg("bias"), py::arg("up"), py::arg("residual"), py::arg("norm"), py::arg("norm_eps"),
        py::arg("out"), py::arg("workspace"));
  m.def("linear_run_workspace_bytes", &fewstep_linear_run_workspace_bytes, py::arg("M"),
        py::arg("I"), py::arg("kind"), py::arg("group"));
  m.def("linear_unpack", &unpack, py::arg("packed"), py::arg("kind"), py::arg("group"),
        py::arg("out"));
}

}  // namespace fewstep::python
