// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/async_copy.h"
#include "core/cuda/swizzle.h"

// Copies of boxes of a tensor into shared memory by sm_90's tensor memory accelerator: a thread
// asks for thousands of elements at once, and they come as warpgroups' products read them
// (wgmma.h). On older GPUs nothing of this does anything. In emulation they come as late as other
// asynchronous copies, and a wait that would end too early or never is an error. Included by CUDA
// kernel files and by what makes maps.
namespace fewstep::gpu {

// A tensor of 16-bit elements with four dimensions, and boxes of it: kSwizzledColumns elements of
// the first dimension by `rows` of the third.
struct BoxedTensor {
  const char* data;
  int64_t extents[4];
  int64_t strides[3];  // bytes, of all dimensions but the first; multiples of 16
  int32_t rows;
};

// What copies are told of one: the driver's CUtensorMap.
struct alignas(64) TensorMap {
  uint64_t words[16];
};

// Where bytes are counted that one wait is for.
struct CopyBarrier {
#if defined(__CUDACC__)
  uint64_t word;
#else
  int64_t expected, done;  // expected -1: nothing
  int32_t parity;          // of the waits so far
#endif
};

// False where the driver makes none.
bool map_tensor_by_driver(const BoxedTensor& tensor, bool is_bf16, TensorMap* map);

#if !defined(__CUDACC__)
void copy_box_later(const BoxedTensor& tensor, const int32_t (&at)[4], char* to, CopyBarrier* by);
void expect_later(CopyBarrier* barrier, int64_t bytes);
void do_boxes(CopyBarrier* barrier, int32_t parity);
#endif

namespace {

inline bool map_tensor(const BoxedTensor& tensor, bool is_bf16, TensorMap* map) {
#if defined(__CUDACC__)
  return map_tensor_by_driver(tensor, is_bf16, map);
#else
  static_assert(sizeof tensor <= sizeof *map);
  (void)is_bf16;
  memcpy((void*)map, &tensor, sizeof tensor);
  return true;
#endif
}

// One thread's part; the others use the barrier after one of the block.
FEWSTEP_HOST_DEVICE inline void begin_barrier(CopyBarrier* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(barrier);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#elif !defined(__CUDACC__)
  *barrier = {-1, 0, 0};
#endif
}

// One thread says how many bytes the next wait is for.
FEWSTEP_HOST_DEVICE inline void expect_bytes(CopyBarrier* barrier, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(barrier);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
#elif !defined(__CUDACC__)
  expect_later(barrier, bytes);
#endif
}

// Begins to copy the box whose first element has the indices `at`, swizzled, to a multiple of 1024
// bytes. What lies outside of the tensor is zero.
FEWSTEP_HOST_DEVICE inline void copy_box(const TensorMap& map, const int32_t (&at)[4], char* to,
                                         CopyBarrier* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
      "l"(&map), "r"((uint32_t)__cvta_generic_to_shared(barrier)), "r"(at[0]), "r"(at[1]),
      "r"(at[2]), "r"(at[3])
      : "memory");
#elif !defined(__CUDACC__)
  BoxedTensor tensor;
  memcpy((void*)&tensor, &map, sizeof tensor);
  copy_box_later(tensor, at, to, barrier);
#endif
}

// All threads wait for what was expected; parity: 0 for a barrier's first wait, 1 for its second,
// and so on in turn.
FEWSTEP_HOST_DEVICE inline void wait_for_boxes(CopyBarrier* barrier, int32_t parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(barrier);
  uint32_t is_done = 0;
  while (!is_done) {
    asm volatile(
        "{.reg .pred p;"
        " mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
        " selp.u32 %0, 1, 0, p;}"
        : "=r"(is_done)
        : "r"(at), "r"(parity)
        : "memory");
  }
#elif !defined(__CUDACC__)
  do_boxes(barrier, parity);
#endif
}

}  // namespace
}  // namespace fewstep::gpu
