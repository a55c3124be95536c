// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/pack.h"

// Copies from global to shared memory that go on while the threads do something else: sm_80 and
// newer. In emulation they are done at once. Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

// Copies 16 bytes, at addresses that are multiples of 16.
FEWSTEP_HOST_DEVICE inline void copy16_async(void* shared, const char* global) {
#if defined(__CUDA_ARCH__)
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  const uint64_t from = (uint64_t)__cvta_generic_to_global(global);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
  if ((uintptr_t)shared % 16 != 0) throw_misaligned(16, shared);
  if ((uintptr_t)global % 16 != 0) throw_misaligned(16, global);
  memcpy(shared, global, 16);
#endif
}

// The same, or 16 bytes of zeros where `global` is null.
FEWSTEP_HOST_DEVICE inline void copy16_or_zero_async(void* shared, const char* global) {
#if defined(__CUDA_ARCH__)
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  const uint64_t from = (uint64_t)__cvta_generic_to_global(global);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(global ? 16 : 0)
               : "memory");
#else
  alignas(16) static const char zeros[16] = {};
  copy16_async(shared, global ? global : zeros);
#endif
}

// Ends a group of this thread's copies.
FEWSTEP_HOST_DEVICE inline void end_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all groups of all threads of the block but the last `kPending` of each.
template <int kPending, int kThreads>
FEWSTEP_HOST_DEVICE inline void wait_for_copies(const Block<kThreads>& block) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
  block.barrier();
}

}  // namespace
}  // namespace fewstep::gpu
