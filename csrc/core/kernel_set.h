// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/context.h"
#include "core/isa.h"
#include "core/status.h"

// FEWSTEP_DECLARE_KERNELS(StepFn, step), in <op>.h, declares one kernel per column; a column that
// is declared here and compiled nowhere is a link error. FEWSTEP_KERNELS(step), in <op>.cc, is the
// set.
// A column that this build lacks is null: no kernel file needs an #ifdef for it.
#if defined(FEWSTEP_X86_KERNELS)
#define FEWSTEP_X86_KERNEL(name) &name
#else
#define FEWSTEP_X86_KERNEL(name) nullptr
#endif
#if defined(FEWSTEP_WITH_CUDA)
#define FEWSTEP_CUDA_KERNEL(name) &name
#else
#define FEWSTEP_CUDA_KERNEL(name) nullptr
#endif

#define FEWSTEP_DECLARE_KERNELS(Fn, op) \
  namespace scalar {                    \
  Fn op;                                \
  }                                     \
  namespace avx2 {                      \
  Fn op;                                \
  }                                     \
  namespace avx512 {                    \
  Fn op;                                \
  }                                     \
  namespace cuda {                      \
  Fn op;                                \
  }                                     \
  namespace cuda_on_host {              \
  Fn op;                                \
  }

#define FEWSTEP_KERNELS(op)                                                                        \
  {{&scalar::op, FEWSTEP_X86_KERNEL(avx2::op), FEWSTEP_X86_KERNEL(avx512::op), &cuda_on_host::op}, \
   FEWSTEP_CUDA_KERNEL(cuda::op)}

namespace fewstep {

template <class Fn>
struct KernelSet {
  Fn* cpu[kIsaCount];
  Fn* cuda;

  // Throws FEWSTEP_UNSUPPORTED, naming the function, when this build has no kernel for the device.
  Fn& pick(Device device, const char* function) const {
    Fn* kernel = nullptr;
    if (device.type == kCpu) kernel = cpu[int(active_isa())];
    if (device.type == kCuda) kernel = cuda;
    if (!kernel) {
      throw Error(FEWSTEP_UNSUPPORTED,
                  format("%s: this build has no kernel for device type %d (1 is CPU, 2 CUDA)",
                         function, int(device.type)));
    }
    return *kernel;
  }
};

}  // namespace fewstep
