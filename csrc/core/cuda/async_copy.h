// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/pack.h"

// Copies from global to shared memory that go on while the threads do something else: sm_80 and
// newer. In emulation half of the blocks do them at once and half as late as a GPU may, when they
// are waited for: what is written over too early or read too soon shows in the results. A kernel
// waits for all before it ends.
// Included by CUDA kernel files only.
namespace fewstep::gpu {

#if !defined(__CUDACC__)
// The emulation's copies of 16 bytes, each thread's of the host in their order. `from` null: zeros.
void copy_later(void* to, const char* from);
void end_group_of_copies();
void do_copies_but_groups(int pending);
#endif

namespace {

// Copies 16 bytes, at addresses that are multiples of 16; zeros where `global` is null.
FEWSTEP_HOST_DEVICE inline void copy16_async(void* shared, const char* global) {
#if defined(__CUDA_ARCH__)
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  const uint64_t from = (uint64_t)__cvta_generic_to_global(global);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(global ? 16 : 0)
               : "memory");
#elif !defined(__CUDACC__)
  if ((uintptr_t)shared % 16 != 0) throw_misaligned(16, shared);
  if ((uintptr_t)global % 16 != 0) throw_misaligned(16, global);
  copy_later(shared, global);
#endif
}

// Ends a group of this thread's copies.
FEWSTEP_HOST_DEVICE inline void end_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
  end_group_of_copies();
#endif
}

// Waits for all groups of all threads of the block but the last `kPending` of each.
template <int kPending, int kThreads>
FEWSTEP_HOST_DEVICE inline void wait_for_copies(const Block<kThreads>& block) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#elif !defined(__CUDACC__)
  do_copies_but_groups(kPending);
#endif
  block.barrier();
}

}  // namespace
}  // namespace fewstep::gpu
