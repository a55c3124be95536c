// SPDX-License-Identifier: Apache-2.0
#include FEWSTEP_DLPACK_HEADER

#include <type_traits>

#include "fewstep/fewstep.h"
#include "layout.h"

// A host that includes dlpack.h first passes its own DLTensor.
static_assert(std::is_same_v<fewstep_tensor, DLTensor>);
// The numbers that fewstep's contracts name.
static_assert(kDLCPU == 1 && kDLCUDA == 2 && kDLCUDAHost == 3 && kDLCUDAManaged == 13);
static_assert(kDLInt == 0 && kDLUInt == 1 && kDLFloat == 2 && kDLBfloat == 4);

std::vector<size_t> dlpack_layout() { return layout_of<DLTensor>(); }
