// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

// Atomic updates of integers, whose result does not depend on their order. Floats have none here:
// their sums would. Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

// Returns what was there before, which does depend on the order.
FEWSTEP_HOST_DEVICE inline uint32_t atomic_add(uint32_t* p, uint32_t x) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(p, x);
#else
  const uint32_t before = *p;  // the emulation has one thread
  *p += x;
  return before;
#endif
}

FEWSTEP_HOST_DEVICE inline void atomic_add(uint64_t* p, uint64_t x) {
#if defined(__CUDA_ARCH__)
  atomicAdd((unsigned long long*)p, (unsigned long long)x);
#else
  *p += x;
#endif
}

FEWSTEP_HOST_DEVICE inline void atomic_or(uint32_t* p, uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicOr(p, x);
#else
  *p |= x;
#endif
}

// Puts x in the place of `expected`; returns what was there before.
FEWSTEP_HOST_DEVICE inline uint32_t atomic_exchange_if(uint32_t* p, uint32_t expected, uint32_t x) {
#if defined(__CUDA_ARCH__)
  return atomicCAS(p, expected, x);
#else
  const uint32_t before = *p;
  if (before == expected) *p = x;
  return before;
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
