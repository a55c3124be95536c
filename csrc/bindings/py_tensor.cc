// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

#include <pybind11/numpy.h>

#include <cstring>
#include <string>

namespace py = pybind11;

namespace fewstep::python {
namespace {

constexpr uint64_t kReadOnly = 1;

// Attribute names as interned strings, made once: a look-up then compares pointers.
struct Names {
  PyObject* dlpack = PyUnicode_InternFromString("__dlpack__");
  PyObject* dlpack_device = PyUnicode_InternFromString("__dlpack_device__");
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* max_version = Py_BuildValue("(s)", "max_version");
  PyObject* max_version_stream = Py_BuildValue("(ss)", "max_version", "stream");
  PyObject* stream = Py_BuildValue("(s)", "stream");
  PyObject* newest = Py_BuildValue("(ii)", 1, 3);
};
const Names& names() {
  static const Names* const kNames = new Names;  // never freed: the interpreter may be gone at exit
  return *kNames;
}

std::string prefix(const char* function, const char* name) {
  return std::string(function) + ": '" + name + "' ";
}

// The exchange API hands out tensors that autograd tracks, silently detached.
void refuse_grad(PyObject* object, const char* function, const char* name) {
  py::object flag =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(object, names().requires_grad));
  if (!flag) {
    PyErr_Clear();
    return;
  }
  if (flag.ptr() == Py_True) [[unlikely]] {
    throw py::value_error(prefix(function, name) +
                          "must not require grad: call the model under torch.inference_mode() or "
                          "torch.no_grad(), or pass .detach()");
  }
}

// The call's stream as the array API standard numbers it, for an array on CUDA; else null. With a
// Python error set, the producer failed to tell its device.
py::object stream_number(py::handle object, CallStream* stream) {
  PyObject* self[1] = {object.ptr()};
  const auto device = py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(names().dlpack_device, self, 1, nullptr));
  if (!device) {
    // Without the method it can only be in host memory, if it is an array at all.
    if (PyErr_ExceptionMatches(PyExc_AttributeError)) PyErr_Clear();
    return {};
  }
  int type, id;
  if (!PyTuple_Check(device.ptr()) || !PyArg_ParseTuple(device.ptr(), "ii", &type, &id)) {
    if (!PyErr_Occurred()) {
      PyErr_SetString(PyExc_TypeError, "__dlpack_device__ that returned no tuple");
    }
    return {};
  }
  if (!is_cuda(type)) return {};
  // 0 is not allowed: the legacy default stream is 1.
  const auto handle = reinterpret_cast<uintptr_t>(stream->on(id));
  return py::int_(handle ? handle : 1);
}

// Null with a Python error set when the producer refuses. `stream` is null for host memory.
py::object export_capsule(py::handle object, PyObject* stream) {
  const Names& n = names();
  PyObject* args[3] = {object.ptr(), n.newest, stream};
  auto capsule = py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(n.dlpack, args, 1, stream ? n.max_version_stream : n.max_version));
  if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {  // a producer older than DLPack 1.0
    PyErr_Clear();
    args[1] = stream;
    capsule = py::reinterpret_steal<py::object>(
        PyObject_VectorcallMethod(n.dlpack, args, 1, stream ? n.stream : nullptr));
  }
  return capsule;
}

// Of numbers in the machine's own byte order; without bits for any other.
fewstep_dtype dtype_of(const py::dtype& dtype) {
  constexpr char kKinds[] = "iuf???b";  // by DLPack's codes
  const char kind = dtype.kind(), order = dtype.byteorder();
  const char* const found = std::strchr(kKinds, kind);
  if (kind == '?' || !found || (order != '=' && order != '|') || dtype.itemsize() > 8) return {};
  return {uint8_t(found - kKinds), uint8_t(8 * dtype.itemsize()), 1};
}

// Reads a plain NumPy array (compact, aligned, writable where it is written) where it lies, in a
// fraction of the time of an export. False for any other, whose export then says what is wrong.
bool read_numpy(py::handle object, Borrowed::Access access, fewstep_tensor* tensor) {
  using Npy = py::detail::npy_api;
  static_assert(sizeof(py::ssize_t) == sizeof(int64_t), "a shape is read as it lies");
  const auto array = py::reinterpret_borrow<py::array>(object);
  const int wanted = Npy::NPY_ARRAY_C_CONTIGUOUS_ | Npy::NPY_ARRAY_ALIGNED_ |
                     (access == Borrowed::kWrite ? Npy::NPY_ARRAY_WRITEABLE_ : 0);
  if ((array.flags() & wanted) != wanted) return false;
  const fewstep_dtype dtype = dtype_of(array.dtype());
  if (!dtype.bits) return false;
  *tensor = {};
  tensor->data = const_cast<void*>(array.data());
  tensor->device = {1, 0};
  tensor->ndim = int32_t(array.ndim());
  tensor->dtype = dtype;
  tensor->shape = reinterpret_cast<int64_t*>(const_cast<py::ssize_t*>(array.shape()));
  return true;
}

}  // namespace

Borrowed::~Borrowed() {
  if (versioned_ && versioned_->deleter) versioned_->deleter(versioned_);
  if (legacy_ && legacy_->deleter) legacy_->deleter(legacy_);
}

void Borrowed::borrow(py::handle object, const char* function, const char* name, Access access,
                      CallStream* stream) {
  const ArrayType type = array_type(Py_TYPE(object.ptr()));
  if (type.host_only && read_numpy(object, access, &tensor_)) return;
  if (!type.api) {
    return borrow_capsule(object, function, name, access, type.host_only ? nullptr : stream);
  }
  refuse_grad(object.ptr(), function, name);
  if (type.api->dltensor_from_py_object(object.ptr(), &tensor_) != 0) {
    throw py::error_already_set();
  }
}

void Borrowed::borrow_capsule(py::handle object, const char* function, const char* name,
                              Access access, CallStream* stream) {
  py::object capsule;
  if (!stream) {
    capsule = export_capsule(object, nullptr);
  } else if (const py::object number = stream_number(object, stream); !PyErr_Occurred()) {
    capsule = export_capsule(object, number.ptr());
  }
  if (!capsule) {
    if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
      PyErr_Clear();
      throw py::type_error(prefix(function, name) + "must be an array with __dlpack__, got " +
                           Py_TYPE(object.ptr())->tp_name);
    }
    py::error_already_set cause;
    throw py::value_error(prefix(function, name) + "must be exportable by DLPack, got " +
                          std::string(py::str(cause.value())));
  }
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    versioned_ = static_cast<ManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    if (versioned_->version.major != kDlpackMajor) {
      throw py::value_error(prefix(function, name) + "must use DLPack 1.x, got " +
                            std::to_string(versioned_->version.major));
    }
    if (access == kWrite && (versioned_->flags & kReadOnly)) {
      throw py::value_error(prefix(function, name) + "must be writable, got a read-only array");
    }
    tensor_ = versioned_->dl_tensor;
    return;
  }
  legacy_ = static_cast<ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (!legacy_) throw py::error_already_set();
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  if (access == kWrite) {  // it cannot say whether it may be written: JAX arrays may not
    throw py::value_error(prefix(function, name) +
                          "must be writable, got an array whose DLPack export cannot promise it");
  }
  tensor_ = legacy_->dl_tensor;
}

void raise_status(fewstep_status status) {
  PyObject* type = PyExc_RuntimeError;
  if (status == FEWSTEP_INVALID_ARGUMENT) type = PyExc_ValueError;
  if (status == FEWSTEP_UNSUPPORTED) type = PyExc_NotImplementedError;
  if (status == FEWSTEP_OUT_OF_MEMORY) type = PyExc_MemoryError;
  PyErr_SetString(type, fewstep_last_error());
  throw py::error_already_set();
}

}  // namespace fewstep::python
