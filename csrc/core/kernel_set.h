// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/context.h"
#include "core/isa.h"
#include "core/status.h"

// FEWSTEP_DECLARE_KERNELS(StepFn, step), in <op>.h, declares one kernel per column; a column that
// is declared and used and compiled nowhere is a link error. In <op>.cc the set is one of
//   FEWSTEP_KERNELS(step)           an op in OPS of its family
//   FEWSTEP_BF16_KERNELS(step)      in AVX512_BF16_OPS, too: a kernel of its own for that ISA
//   FEWSTEP_DOT_KERNELS(step)       in AVX512_BF16_OPS and AVX512_VNNI_OPS, too: for both
// Other ops use their avx512 kernel for avx512_vnni and avx512_bf16.
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
  namespace avx512_vnni {               \
  Fn op;                                \
  }                                     \
  namespace avx512_bf16 {               \
  Fn op;                                \
  }                                     \
  namespace cuda {                      \
  Fn op;                                \
  }                                     \
  namespace cuda_on_host {              \
  Fn op;                                \
  }

// The columns in the order of Isa, then CUDA.
#define FEWSTEP_KERNEL_COLUMNS(op, vnni, bf16)                                      \
  {{&scalar::op, FEWSTEP_X86_KERNEL(avx2::op), FEWSTEP_X86_KERNEL(avx512::op),      \
    FEWSTEP_X86_KERNEL(vnni::op), FEWSTEP_X86_KERNEL(bf16::op), &cuda_on_host::op}, \
   FEWSTEP_CUDA_KERNEL(cuda::op)}
#define FEWSTEP_KERNELS(op) FEWSTEP_KERNEL_COLUMNS(op, avx512, avx512)
#define FEWSTEP_BF16_KERNELS(op) FEWSTEP_KERNEL_COLUMNS(op, avx512, avx512_bf16)
#define FEWSTEP_DOT_KERNELS(op) FEWSTEP_KERNEL_COLUMNS(op, avx512_vnni, avx512_bf16)

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
    if (!kernel && device.type == kCpu) {
      throw Error(FEWSTEP_UNSUPPORTED,
                  format("%s: there is no %s kernel", function, name_of(active_isa())));
    }
    if (!kernel) {
      throw Error(FEWSTEP_UNSUPPORTED,
                  format("%s: this build has no kernel for device type %d (1 is CPU, 2 CUDA)",
                         function, int(device.type)));
    }
    return *kernel;
  }
};

}  // namespace fewstep
