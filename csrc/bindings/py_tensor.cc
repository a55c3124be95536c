// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

#include <string>
#include <unordered_map>

namespace py = pybind11;

namespace fewstep::python {
namespace {

// DLPack 1.3's DLPackExchangeAPI; only the members up to the last one used here.
struct ExchangeApi {
  DLPackVersion version;
  const ExchangeApi* prev_api;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  int (*dltensor_from_py_object)(void* object, fewstep_tensor* out);
  void* current_work_stream;
};

constexpr uint32_t kDlpackMajor = 1;
constexpr uint64_t kReadOnly = 1;

// Attribute names as interned strings, made once: a look-up then compares pointers.
struct Names {
  PyObject* dlpack = PyUnicode_InternFromString("__dlpack__");
  PyObject* exchange_api = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* max_version = Py_BuildValue("(s)", "max_version");
  PyObject* newest = Py_BuildValue("(ii)", 1, 3);
};
const Names& names() {
  static const Names* const kNames = new Names;  // never freed: the interpreter may be gone at exit
  return *kNames;
}

const ExchangeApi* find_api(PyTypeObject* type) {
  py::object capsule = py::reinterpret_steal<py::object>(
      PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().exchange_api));
  if (!capsule) {
    PyErr_Clear();
    return nullptr;
  }
  auto* api =
      static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) PyErr_Clear();
  while (api && api->version.major != kDlpackMajor) api = api->prev_api;
  return api && api->dltensor_from_py_object ? api : nullptr;
}

// The API of a type, null where it has none. The type last seen is remembered apart: a call's
// tensors are nearly always of one type. The GIL guards both.
const ExchangeApi* exchange_api(PyTypeObject* type) {
  static PyTypeObject* last_type = nullptr;
  static const ExchangeApi* last_api = nullptr;
  if (type == last_type) return last_api;
  // Types are kept alive so that their addresses stay theirs; the bound keeps a program that makes
  // types without end from keeping them all.
  constexpr size_t kMaxTypes = 256;
  static auto* known = new std::unordered_map<PyTypeObject*, const ExchangeApi*>;
  auto found = known->find(type);
  if (found == known->end()) {
    const ExchangeApi* api = find_api(type);
    if (known->size() >= kMaxTypes) return api;
    Py_INCREF(type);
    found = known->emplace(type, api).first;
  }
  last_type = type;
  last_api = found->second;
  return last_api;
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

}  // namespace

Borrowed::~Borrowed() {
  if (versioned_ && versioned_->deleter) versioned_->deleter(versioned_);
  if (legacy_ && legacy_->deleter) legacy_->deleter(legacy_);
}

void Borrowed::borrow(py::handle object, const char* function, const char* name, Access access) {
  const ExchangeApi* api = exchange_api(Py_TYPE(object.ptr()));
  if (!api) return borrow_capsule(object, function, name, access);
  refuse_grad(object.ptr(), function, name);
  if (api->dltensor_from_py_object(object.ptr(), &tensor_) != 0) throw py::error_already_set();
}

void Borrowed::borrow_capsule(py::handle object, const char* function, const char* name,
                              Access access) {
  PyObject* args[2] = {object.ptr(), names().newest};
  py::object capsule = py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(names().dlpack, args, 1, names().max_version));
  if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {  // a producer older than DLPack 1.0
    PyErr_Clear();
    capsule = py::reinterpret_steal<py::object>(
        PyObject_VectorcallMethod(names().dlpack, args, 1, nullptr));
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
