// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "py_tensor.h"

namespace fewstep::python {

// Per-row parameters as C takes them: a number for all rows, or an array with one for each.
class RowNumbers {
 protected:
  template <class T>
  void take(pybind11::handle value, const char* function, const char* name, T* number,
            const fewstep_tensor** tensor, CallStream* stream) {
    if (value.is_none()) return;
    if (PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr())) {
      *number = pybind11::cast<T>(value);
      return;
    }
    held_[count_].borrow(value, function, name, Borrowed::kRead, stream);
    *tensor = held_[count_++].get();
  }

 private:
  Borrowed held_[6];
  int count_ = 0;
};

// The filters of logits.
class PyFilters : private RowNumbers {
 public:
  fewstep_logits_filters filters = FEWSTEP_LOGITS_FILTERS_INIT;

  // `values` is (temperature, top_k, top_p, min_p, typical, eta); None stands for off.
  PyFilters(const pybind11::tuple& values, const char* function, CallStream* stream) {
    take(values[0], function, "temperature", &filters.temperature, &filters.temperatures, stream);
    take(values[1], function, "top_k", &filters.top_k, &filters.top_ks, stream);
    take(values[2], function, "top_p", &filters.top_p, &filters.top_ps, stream);
    take(values[3], function, "min_p", &filters.min_p, &filters.min_ps, stream);
    take(values[4], function, "typical", &filters.typical, &filters.typicals, stream);
    take(values[5], function, "eta", &filters.eta, &filters.etas, stream);
  }
};

// What becomes of the logits of tokens in a history.
class PyPenalties : private RowNumbers {
 public:
  fewstep_logits_penalties penalties = FEWSTEP_LOGITS_PENALTIES_INIT;

  // `values` is (repetition, presence, frequency).
  PyPenalties(const pybind11::tuple& values, const char* function, CallStream* stream) {
    auto& p = penalties;
    take(values[0], function, "repetition", &p.repetition, &p.repetitions, stream);
    take(values[1], function, "presence", &p.presence, &p.presences, stream);
    take(values[2], function, "frequency", &p.frequency, &p.frequencies, stream);
  }
};

}  // namespace fewstep::python
