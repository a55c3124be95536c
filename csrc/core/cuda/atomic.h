// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

// Atomic updates of integers, whose result does not depend on their order. Floats have none here:
// their sums would. Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

FEWSTEP_HOST_DEVICE inline void atomic_add(uint32_t* p, uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicAdd(p, x);
#else
  *p += x;  // the emulation has one thread
#endif
}

FEWSTEP_HOST_DEVICE inline void atomic_min(uint32_t* p, uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicMin(p, x);
#else
  *p = x < *p ? x : *p;
#endif
}

FEWSTEP_HOST_DEVICE inline void atomic_max(uint32_t* p, uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicMax(p, x);
#else
  *p = x > *p ? x : *p;
#endif
}

}  // namespace
}  // namespace fewstep::gpu
