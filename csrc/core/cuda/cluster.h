// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#if !defined(__CUDACC__)
#include <functional>
#endif

#include "core/host_device.h"

// Blocks of a launch that run at the same time, meet, and read each other's shared memory: sm_90's
// clusters of thread blocks. Elsewhere a cluster is one block. In emulation its blocks take turns:
// one runs until all meet, then the next, forwards in clusters of even number and backwards in
// others, so that what another block has not written yet, or has written over, shows in tests.
namespace fewstep::gpu {

constexpr int kMostOfCluster = 8;  // blocks of one that every GPU with clusters grants

// How many blocks a cluster gets, `most` of which have something to do: as many as the other
// clusters leave multiprocessors for.
inline int32_t cluster_size(int64_t clusters, int64_t most, int64_t multiprocessors) {
  int32_t size = 1;
  while (size < kMostOfCluster && size < most && 2 * size * clusters <= multiprocessors) size *= 2;
  return size;
}

#if !defined(__CUDACC__)

constexpr int64_t kMultiprocessorsOnHost = 132;

// Runs run(rank) for the blocks of a cluster in turn; shared: where the shared memory of each is.
// Throws what they throw, and where not all meet.
void run_cluster(int64_t index, int32_t size, char* const* shared,
                 const std::function<void(int32_t rank)>& run);
// Of the block that runs: waits for the others.
void meet_cluster();
// Where another block has what is at `own`.
const void* of_peer(const void* own, int32_t rank);

#endif

namespace {

// What a block is in its cluster.
//   barrier(): of all threads of all blocks.
//   of(rank, own): what block `rank` has where this one has *own, in shared memory. All blocks meet
//   before, when it is written, and after, before it is written again.
#if !defined(__CUDACC__)

struct Cluster {
  int32_t own_rank = 0, own_size = 1;

  int32_t rank() const { return own_rank; }
  int32_t size() const { return own_size; }
  void barrier() const {
    if (own_size > 1) meet_cluster();
  }
  template <class T>
  const T& of(int32_t rank, const T* own) const {
    return own_size == 1 ? *own : *(const T*)of_peer(own, rank);
  }
};

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

struct Cluster {  // read anew each time: it would hold registers
  FEWSTEP_HOST_DEVICE int32_t rank() const {
    int32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
  }
  FEWSTEP_HOST_DEVICE int32_t size() const {
    int32_t size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
  }
  FEWSTEP_HOST_DEVICE void barrier() const {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  }
  template <class T>
  FEWSTEP_HOST_DEVICE const T& of(int32_t rank, const T* own) const {
    uint64_t there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(own), "r"(rank));
    return *(const T*)there;
  }
};

#else

struct Cluster {
  FEWSTEP_HOST_DEVICE int32_t rank() const { return 0; }
  FEWSTEP_HOST_DEVICE int32_t size() const { return 1; }
  FEWSTEP_HOST_DEVICE void barrier() const {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
  template <class T>
  FEWSTEP_HOST_DEVICE const T& of(int32_t, const T* own) const {
    return *own;
  }
};

#endif

}  // namespace
}  // namespace fewstep::gpu
