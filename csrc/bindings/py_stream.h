// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

#include "fewstep/fewstep.h"

namespace fewstep::python {

// The open ABI of DLPack 1.x, as far as a consumer needs it.
struct DLPackVersion {
  uint32_t major, minor;
};

// DLPack 1.3's DLPackExchangeAPI.
struct ExchangeApi {
  DLPackVersion version;
  const ExchangeApi* prev_api;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  int (*dltensor_from_py_object)(void* object, fewstep_tensor* out);
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** out);
};

// What is known of an array's type: its exchange API, null where it has none; and whether its
// arrays always lie in host memory, as NumPy's do, so that they need not be asked.
struct ArrayType {
  const ExchangeApi* api = nullptr;
  bool host_only = false;
};
ArrayType array_type(PyTypeObject* type);

inline bool is_cuda(int32_t device_type) {
  constexpr int32_t kCuda = 2, kCudaManaged = 13;
  return device_type == kCuda || device_type == kCudaManaged;
}

// The one CUDA stream of a call. It is, in this order: the stream of fewstep.use_stream; the
// current stream of the framework whose array is the first argument on that device that has the C
// exchange API (torch's tensors); the legacy default stream. Arguments are looked through in their
// order, and all of them before the first array that has __dlpack__ alone is asked: which array
// stands where among the arguments does not matter for those.
class CallStream {
 public:
  // The arguments must outlive this; lists and tuples are looked into.
  template <size_t n>
  explicit CallStream(const pybind11::handle (&arguments)[n]) : arguments_(arguments), count_(n) {}

  // The stream on a device. The first device asked for decides: a call has one.
  void* on(int32_t device_id);

  // The calling thread's context for the device that a tensor is on, with the call's stream set.
  // Null for the CPU, whose calls pay nothing here, and in a build without CUDA, where the op
  // itself says what is missing.
  fewstep_context* context(const fewstep_tensor* tensor, const char* function, const char* name) {
    if (!tensor || !is_cuda(int32_t(tensor->device.device_type))) [[likely]] {
      return nullptr;
    }
    return cuda_context(tensor->device.device_id, function, name);
  }

 private:
  fewstep_context* cuda_context(int32_t device_id, const char* function, const char* name);
  bool find(pybind11::handle argument, int32_t device_id);

  const pybind11::handle* arguments_;
  size_t count_;
  bool known_ = false;
  void* stream_ = nullptr;
};

// The calling thread's context for a device that the caller names ("cuda", "cuda:1", 1, a
// torch.device), on the stream of fewstep.use_stream, else torch's current one; null for "cpu".
fewstep_context* context_on(pybind11::handle device, const char* function);

void bind_stream(pybind11::module_& m);

}  // namespace fewstep::python
