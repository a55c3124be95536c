// SPDX-License-Identifier: Apache-2.0
#include "py_stream.h"

#include <pybind11/stl.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

constexpr int32_t kCudaDevice = 2;  // as in DLPack

const ExchangeApi* find_api(PyTypeObject* type) {
  static PyObject* const kName = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  py::object capsule =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(reinterpret_cast<PyObject*>(type), kName));
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

// What fewstep.use_stream set in this thread.
std::optional<void*>& chosen_stream() {
  thread_local std::optional<void*> stream;
  return stream;
}

struct DestroyContext {
  void operator()(fewstep_context* ctx) const { fewstep_context_destroy(ctx); }
};

[[noreturn]] void not_implemented(const char* function, const char* name, const std::string& must,
                                  const std::string& got) {
  const std::string text = std::string(function) + ": '" + name + "' " + must + ", got " + got;
  PyErr_SetString(PyExc_NotImplementedError, text.c_str());
  throw py::error_already_set();
}

// A context may be used by one thread at a time, so each thread has its own; made on first use.
fewstep_context* thread_context(int32_t device_id, const char* function, const char* name) {
  thread_local std::vector<std::unique_ptr<fewstep_context, DestroyContext>> contexts;
  const auto index = static_cast<size_t>(device_id);
  if (device_id >= 0 && index < contexts.size() && contexts[index]) return contexts[index].get();
  fewstep_context* made = nullptr;
  const fewstep_status status = fewstep_context_create(kCudaDevice, device_id, &made);
  if (status == FEWSTEP_UNSUPPORTED) {
    not_implemented(function, name,
                    "must be on a usable CUDA device, of which this machine has " +
                        std::to_string(fewstep_cuda_device_count()),
                    "cuda:" + std::to_string(device_id));
  }
  check(status);
  if (index >= contexts.size()) contexts.resize(index + 1);
  contexts[index].reset(made);
  return made;
}

// torch where the program has imported it; else null.
py::object imported_torch() {
  return py::module_::import("sys").attr("modules").attr("get")("torch", py::none());
}

// What "cuda" means: torch's current device, or the first.
int32_t default_device(const py::object& torch) {
  if (torch.is_none() || !torch.attr("cuda").attr("is_available")().cast<bool>()) return 0;
  return torch.attr("cuda").attr("current_device")().cast<int32_t>();
}

[[noreturn]] void fail_device(const char* function, const char* must, py::handle got) {
  throw py::value_error(std::string(function) + ": 'device' must be " + must + ", got " +
                        py::repr(got).cast<std::string>());
}

// The index of a CUDA device: kHost for "cpu", kUnnamed for "cuda".
constexpr int32_t kHost = -1, kUnnamed = -2;
int32_t device_index(py::handle device, const char* function) {
  constexpr char kMust[] = "an index, \"cpu\", \"cuda\", \"cuda:<index>\" or a torch.device";
  if (PyLong_Check(device.ptr()) && !PyBool_Check(device.ptr())) {
    const Py_ssize_t index = PyNumber_AsSsize_t(device.ptr(), nullptr);  // clips
    if (index < 0 || index > INT32_MAX) fail_device(function, kMust, device);
    return static_cast<int32_t>(index);
  }
  const auto text = py::str(device).cast<std::string>();
  if (text == "cpu") return kHost;
  if (text == "cuda") return kUnnamed;
  int32_t index = 0;
  const char* const end = text.data() + text.size();
  if (text.starts_with("cuda:")) {
    const auto [stop, error] = std::from_chars(text.data() + 5, end, index);
    if (error == std::errc() && stop == end && index >= 0) return index;
  }
  fail_device(function, kMust, device);
}

py::object as_handle(const std::optional<void*>& stream) {
  if (!stream) return py::none();
  return py::int_(reinterpret_cast<uintptr_t>(*stream));
}

}  // namespace

// The type last seen is remembered apart: a call's arrays are nearly always of one type. The GIL
// guards both.
ArrayType array_type(PyTypeObject* type) {
  static PyTypeObject* last_type = nullptr;
  static ArrayType last;
  if (type == last_type) return last;
  // Types are kept alive so that their addresses stay theirs; the bound keeps a program that makes
  // types without end from keeping them all.
  constexpr size_t kMaxTypes = 256;
  static auto* known = new std::unordered_map<PyTypeObject*, ArrayType>;
  auto found = known->find(type);
  if (found == known->end()) {
    const ArrayType entry{find_api(type), std::strcmp(type->tp_name, "numpy.ndarray") == 0};
    if (known->size() >= kMaxTypes) return entry;
    Py_INCREF(type);
    found = known->emplace(type, entry).first;
  }
  last_type = type;
  last = found->second;
  return last;
}

void* CallStream::on(int32_t device_id) {
  if (known_) return stream_;
  known_ = true;
  if (const std::optional<void*>& chosen = chosen_stream()) return stream_ = *chosen;
  for (size_t i = 0; i < count_; ++i) {
    if (find(arguments_[i], device_id)) break;
  }
  return stream_;
}

// Takes the current stream of the framework that an argument comes from, if it tells.
bool CallStream::find(py::handle argument, int32_t device_id) {
  PyObject* object = argument.ptr();
  if (argument.is_none() || PyLong_Check(object)) return false;
  if (PyTuple_Check(object) || PyList_Check(object)) {
    // By index: asking a producer may run Python code that changes the list.
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
      const auto item = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(object, i));
      if (find(item, device_id)) return true;
    }
    return false;
  }
  const ExchangeApi* api = array_type(Py_TYPE(object)).api;
  if (!api || !api->current_work_stream) return false;
  fewstep_tensor tensor;
  if (api->dltensor_from_py_object(object, &tensor) != 0) {
    PyErr_Clear();  // told with the argument's name when it is borrowed
    return false;
  }
  if (!is_cuda(int32_t(tensor.device.device_type)) || tensor.device.device_id != device_id) {
    return false;
  }
  if (api->current_work_stream(kCudaDevice, device_id, &stream_) != 0) {
    throw py::error_already_set();
  }
  return true;
}

fewstep_context* CallStream::cuda_context(int32_t device_id, const char* function,
                                          const char* name) {
  if (!fewstep_cuda_built()) return nullptr;
  fewstep_context* ctx = thread_context(device_id, function, name);
  check(fewstep_context_set_stream(ctx, on(device_id)));
  return ctx;
}

fewstep_context* context_on(py::handle device, const char* function) {
  int32_t index = device_index(device, function);
  if (index == kHost) return nullptr;
  if (!fewstep_cuda_built()) {
    not_implemented(function, "device", "must be \"cpu\" in a build without CUDA kernels",
                    py::repr(device).cast<std::string>());
  }
  const py::object torch = imported_torch();
  if (index == kUnnamed) index = default_device(torch);
  fewstep_context* ctx = thread_context(index, function, "device");
  void* stream = nullptr;
  if (const std::optional<void*>& chosen = chosen_stream()) {
    stream = *chosen;
  } else if (!torch.is_none()) {
    const py::object tensor = torch.attr("Tensor");
    const ExchangeApi* api = array_type(reinterpret_cast<PyTypeObject*>(tensor.ptr())).api;
    if (api && api->current_work_stream &&
        api->current_work_stream(kCudaDevice, index, &stream) != 0) {
      throw py::error_already_set();
    }
  }
  check(fewstep_context_set_stream(ctx, stream));
  return ctx;
}

void bind_stream(py::module_& m) {
  m.def(
      "set_stream",
      [](const std::optional<uintptr_t>& handle) {
        py::object before = as_handle(chosen_stream());
        chosen_stream().reset();
        if (handle) chosen_stream() = reinterpret_cast<void*>(*handle);
        return before;
      },
      py::arg("handle").none(true),
      "Set this thread's stream for calls on CUDA, or None to follow the arrays; return the former "
      "one.");
}

}  // namespace fewstep::python
