// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "py_tensor.h"

namespace fewstep::python {

// One array, or a list of arrays, as tensors in a row.
struct TensorList {
  TensorList(pybind11::handle arrays, const char* function, const char* name,
             Borrowed::Access access, CallStream* stream) {
    if (arrays.is_none()) return;
    const bool is_list = PyList_Check(arrays.ptr()) || PyTuple_Check(arrays.ptr());
    const Py_ssize_t n = is_list ? PySequence_Fast_GET_SIZE(arrays.ptr()) : 1;
    held = std::make_unique<Borrowed[]>(size_t(n));
    tensors.reserve(size_t(n));
    for (Py_ssize_t i = 0; i < n; ++i) {
      const pybind11::handle array =
          is_list ? pybind11::handle(PySequence_Fast_GET_ITEM(arrays.ptr(), i)) : arrays;
      held[size_t(i)].borrow(array, function, name, access, stream);
      tensors.push_back(*held[size_t(i)]);
    }
  }
  const fewstep_tensor* get() const { return tensors.empty() ? nullptr : tensors.data(); }

  std::unique_ptr<Borrowed[]> held;
  std::vector<fewstep_tensor> tensors;
};

// The caches of all layers, borrowed for a call.
struct Caches {
  Caches(pybind11::handle k_cache, pybind11::handle v_cache, pybind11::handle k_scale,
         pybind11::handle v_scale, const char* function, Borrowed::Access access,
         CallStream* stream)
      : k(k_cache, function, "k_cache", access, stream),
        v(v_cache, function, "v_cache", access, stream),
        k_scales(k_scale, function, "k_scale", access, stream),
        v_scales(v_scale, function, "v_scale", access, stream) {
    same_count(function, "v_cache", v);
    if (!k_scales.tensors.empty()) same_count(function, "k_scale", k_scales);
    if (!v_scales.tensors.empty()) same_count(function, "v_scale", v_scales);
    caches = {int32_t(k.tensors.size()), k.get(), v.get(), k_scales.get(), v_scales.get()};
  }
  void same_count(const char* function, const char* name, const TensorList& list) const {
    if (list.tensors.size() == k.tensors.size()) return;
    throw pybind11::value_error(
        std::string(function) + ": '" + name + "' must hold " + std::to_string(k.tensors.size()) +
        " arrays, as many as 'k_cache', got " + std::to_string(list.tensors.size()));
  }

  TensorList k, v, k_scales, v_scales;
  fewstep_kv_caches caches = FEWSTEP_KV_CACHES_INIT;
};

}  // namespace fewstep::python
