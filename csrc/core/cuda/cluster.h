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
#if defined(__CUDA_ARCH__)
#define FEWSTEP_HAS_CLUSTERS (__CUDA_ARCH__ >= 900)
#else
#define FEWSTEP_HAS_CLUSTERS 0
#endif

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

// What a block is in its cluster. On a GPU it is read anew each time: it would hold registers.
struct Cluster {
#if !defined(__CUDACC__)
  int32_t own_rank = 0, own_size = 1;
#endif

  FEWSTEP_HOST_DEVICE int32_t rank() const {
#if !defined(__CUDACC__)
    return own_rank;
#else
    int32_t rank = 0;
#if FEWSTEP_HAS_CLUSTERS
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
#endif
  }

  FEWSTEP_HOST_DEVICE int32_t size() const {
#if !defined(__CUDACC__)
    return own_size;
#else
    int32_t size = 1;
#if FEWSTEP_HAS_CLUSTERS
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
    return size;
#endif
  }

  // Of all threads of all blocks.
  FEWSTEP_HOST_DEVICE void barrier() const {
#if !defined(__CUDACC__)
    if (own_size > 1) meet_cluster();
#elif FEWSTEP_HAS_CLUSTERS
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#elif defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }

  // What block `rank` has where this one has *own, in shared memory. All blocks meet before, when
  // it is written, and after, before it is written again.
  template <class T>
  FEWSTEP_HOST_DEVICE const T& of(int32_t rank_of_peer, const T* own) const {
#if !defined(__CUDACC__)
    return own_size == 1 ? *own : *(const T*)of_peer(own, rank_of_peer);
#elif FEWSTEP_HAS_CLUSTERS
    uint64_t there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(own), "r"(rank_of_peer));
    return *(const T*)there;
#else
    return *own;
#endif
  }
};

}  // namespace
}  // namespace fewstep::gpu
