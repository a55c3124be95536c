// SPDX-License-Identifier: Apache-2.0
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {

void bind_verify(py::module_&) {}

}  // namespace fewstep::python
