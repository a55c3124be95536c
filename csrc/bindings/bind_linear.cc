// SPDX-License-Identifier: Apache-2.0
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
  const Borrowed w(workspace, kFunction, "workspace", Borrowed::kWrite, &stream);
  const Rows x_rows(in.get()), residual_rows(r.get()), out_rows(o.get());
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
  args.workspace = w.get();
  run_op(&fewstep_linear_run, stream.context(o.get(), kFunction, "out"), args);
}

}  // namespace

void bind_linear(py::module_& m) {
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
