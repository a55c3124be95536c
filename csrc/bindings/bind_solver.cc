// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

namespace fewstep::python {

void bind_solver(pybind11::module_&) {}

}  // namespace fewstep::python
