// SPDX-License-Identifier: Apache-2.0
#include FEWSTEP_DLPACK_HEADER

#include <cstdlib>

#include "fewstep/fewstep.hpp"
#include "layout.h"

// The C++ face compiles over the real header too, and fills its DLTensor.
void check_face_over_dlpack() {
  float values[6] = {};
  const fewstep::TensorRef ref(values, {2, 3}, {3, 1});
  const DLTensor t = ref.view();
  const bool right = t.data == values && t.device.device_type == kDLCPU && t.ndim == 2 &&
                     t.dtype.code == kDLFloat && t.dtype.bits == 32 && t.dtype.lanes == 1 &&
                     t.shape[1] == 3 && t.strides[0] == 3 && t.byte_offset == 0;
  if (!right) std::exit(2);
}
