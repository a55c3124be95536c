// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

namespace fewstep::python {

void bind_noise(pybind11::module_&) {}

}  // namespace fewstep::python
