// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>
#include <string.h>

#if !defined(__CUDACC__)
#include <memory>
#endif

#include "core/cuda/block.h"
#include "core/host_device.h"

// How a kernel runs. A kernel is a functor that is copied to the device as its parameter. One whose
// threads meet often is in block.h; others are:
//
//   struct Kernel {
//     static constexpr int kThreads, kBlocks;      // per block; blocks that share a multiprocessor
//     struct Shared { ... };                       // of a block
//     void prepare(Thread, Shared*) const;         // every thread, then a barrier
//     void run(Thread, Shared&) const;             // every thread
//     void finish(Thread, Shared&) const;          // optional: every thread, after another barrier
//   };
//
// launch_clusters() lets several blocks share what else would be one block's, where there are few.
//
// nvcc compiles a kernel file for the GPU. The C++ compiler compiles the same file as the ISA
// cuda_on_host, where launch() is a loop over blocks and threads: so tests walk a kernel's index
// arithmetic, and its results, on a machine without a GPU.
namespace fewstep::gpu {

struct Thread {
  int64_t block;
  int32_t index;  // in its block
};

// Throws FEWSTEP_BACKEND_ERROR unless code is cudaSuccess.
void throw_if_failed(const char* function, int32_t code);
// Throws FEWSTEP_UNSUPPORTED where blocks exceed a grid's first dimension.
void check_blocks(const char* function, int64_t blocks);
// cluster_size() for a kernel on the current device; 1 where its code there knows no clusters.
int32_t cluster_size_of(const char* function, const void* entry, int64_t clusters, int64_t most);

constexpr int64_t kMaxBlocks = 0x7fffffff;
// Bytes of a block's shared memory that every GPU from sm_80 on grants, and that sm_90 does. A
// kernel for the latter says so by a kMostShared of its own.
constexpr int kMostShared = 99 * 1024, kMostSharedOfSm90 = 227 * 1024;

template <class Kernel>
concept Finishes = requires(const Kernel& kernel, typename Kernel::Shared& shared) {
  kernel.finish(Thread{}, shared);
};

template <class Kernel>
concept IsForBlocks = requires(const Kernel& kernel, typename Kernel::Shared& shared) {
  kernel.run(Block<Kernel::kThreads>{}, shared);
};

template <class Kernel>
constexpr int most_shared() {
  if constexpr (requires { Kernel::kMostShared; }) return Kernel::kMostShared;
  return kMostShared;
}

#if defined(__CUDACC__)

namespace {

// Where a block's shared memory is more than the 48 KiB that every kernel may declare.
template <class Kernel>
constexpr bool kIsLarge = sizeof(typename Kernel::Shared) > 48 * 1024;

template <bool kIsClustered, class Kernel>
__device__ __forceinline__ void run_thread(const Kernel& kernel, typename Kernel::Shared& shared) {
  if constexpr (IsForBlocks<Kernel>) {
    if constexpr (kIsClustered) {
      kernel.run(Block<Kernel::kThreads>{blockIdx.x / Cluster{}.size()}, shared);
    } else {
      kernel.run(Block<Kernel::kThreads>{blockIdx.x}, shared);
    }
  } else {
    const Thread thread{blockIdx.x, (int32_t)threadIdx.x};
    kernel.prepare(thread, &shared);
    if constexpr (Kernel::kPrepares) __syncthreads();
    kernel.run(thread, shared);
    if constexpr (Finishes<Kernel>) {
      __syncthreads();
      kernel.finish(thread, shared);
    }
  }
}

template <class Kernel, bool kIsClustered>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    run_kernel(const __grid_constant__ Kernel kernel) {
  if constexpr (kIsLarge<Kernel>) {
    extern __shared__ __align__(1024) char memory[];
    run_thread<kIsClustered>(kernel, *(typename Kernel::Shared*)memory);
  } else {
    __shared__ typename Kernel::Shared shared;
    run_thread<kIsClustered>(kernel, shared);
  }
}

template <bool kIsClustered, class Kernel>
void launch_sized(const char* function, const Kernel& kernel, int64_t clusters, int64_t most,
                  void* stream) {
  static_assert(sizeof(Kernel) <= 4000, "a kernel's parameters have 4 KiB");
  static_assert(sizeof(typename Kernel::Shared) <= most_shared<Kernel>());
  const void* entry = (const void*)run_kernel<Kernel, kIsClustered>;
  const int32_t size = kIsClustered ? cluster_size_of(function, entry, clusters, most) : 1;
  check_blocks(function, clusters * size);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(clusters * size);
  config.blockDim = dim3(Kernel::kThreads);
  config.stream = (cudaStream_t)stream;
  if constexpr (kIsLarge<Kernel>) {
    config.dynamicSmemBytes = sizeof(typename Kernel::Shared);
    throw_if_failed(function,
                    cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)config.dynamicSmemBytes));
  }
  cudaLaunchAttribute attribute = {};
  if (size > 1) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {(unsigned)size, 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  void* arguments[] = {const_cast<Kernel*>(&kernel)};
  throw_if_failed(function, cudaLaunchKernelExC(&config, entry, arguments));
}

template <class Kernel>
void launch(const char* function, const Kernel& kernel, int64_t blocks, void* stream) {
  launch_sized<false>(function, kernel, blocks, 1, stream);
}

// most: of a cluster's blocks that have something to do.
template <class Kernel>
void launch_clusters(const char* function, const Kernel& kernel, int64_t clusters, int64_t most,
                     void* stream) {
  launch_sized<true>(function, kernel, clusters, most, stream);
}

}  // namespace

#else

// Around a block in emulation; throws where asynchronous copies are left.
void begin_block(int64_t block);
void end_block();

namespace {

template <class Kernel>
void walk(const Kernel& kernel, int64_t block, typename Kernel::Shared& shared) {
  for (int32_t i = 0; i < Kernel::kThreads; ++i) kernel.prepare({block, i}, &shared);
  for (int32_t i = 0; i < Kernel::kThreads; ++i) kernel.run({block, i}, shared);
  if constexpr (Finishes<Kernel>) {
    for (int32_t i = 0; i < Kernel::kThreads; ++i) kernel.finish({block, i}, shared);
  }
}

template <class Kernel>
void launch(const char* function, const Kernel& kernel, int64_t blocks, void*) {
  check_blocks(function, blocks);
  static_assert(sizeof(typename Kernel::Shared) <= most_shared<Kernel>());
  for (int64_t block = 0; block < blocks; ++block) {
    typename Kernel::Shared shared;
    memset((void*)&shared, 0xa5, sizeof shared);  // as little use as what a GPU has there
    begin_block(block);
    if constexpr (IsForBlocks<Kernel>) {
      kernel.run(Block<Kernel::kThreads>{block}, shared);
    } else {
      walk(kernel, block, shared);
    }
    end_block();
  }
}

template <class Kernel>
void launch_clusters(const char* function, const Kernel& kernel, int64_t clusters, int64_t most,
                     void* stream) {
  using Shared = typename Kernel::Shared;
  const int32_t size = cluster_size(clusters, most, kMultiprocessorsOnHost);
  if (size == 1) return launch(function, kernel, clusters, stream);
  for (int64_t index = 0; index < clusters; ++index) {
    const std::unique_ptr<Shared[]> shared(new Shared[size]);
    memset((void*)shared.get(), 0xa5, size * sizeof(Shared));
    char* where[kMostOfCluster];
    for (int32_t rank = 0; rank < size; ++rank) where[rank] = (char*)&shared[rank];
    run_cluster(index, size, where, [&](int32_t rank) {
      begin_block(index);
      kernel.run(Block<Kernel::kThreads>{index, {rank, size}}, shared[rank]);
      end_block();
    });
  }
}

}  // namespace

#endif

}  // namespace fewstep::gpu
