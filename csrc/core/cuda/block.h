// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/cuda/cluster.h"
#include "core/host_device.h"

// How the threads of a block work together. The body of such a kernel is written for the block:
//
//   void run(const gpu::Block<kThreads>& block, Shared& s) const;
//
// What threads do stands in block.each(f), which calls f(thread) in each of them and ends with a
// barrier. What lies between is the same for all threads: they take the same branches. What a
// thread keeps from one each() to the next is a PerThread, what others are to see lies in `s`, and
// such a value is read outside of each() by block.get() alone.
//
// Blocks of a cluster run the same body and take the same branches, too. Each has a part of the
// work, and gets what the others found by reduce_blocks() and gather(); then all know the same, and
// what is not worth dividing each does for itself.
//
// On a GPU every thread runs the body. In emulation it runs once per block, and each() is a loop:
// forwards in blocks of even number and backwards in others, so that a result which depends on
// what another thread does in the same each() shows in tests.
namespace fewstep::gpu {
namespace {

template <class T, int kThreads>
struct PerThread {
#if defined(__CUDACC__)
  T value;
  FEWSTEP_HOST_DEVICE T& operator[](int) { return value; }
  FEWSTEP_HOST_DEVICE const T& operator[](int) const { return value; }
#else
  T values[kThreads];
  T& operator[](int thread) { return values[thread]; }
  const T& operator[](int thread) const { return values[thread]; }
#endif
};

template <int kThreads>
struct Block {
  static_assert(kThreads % 32 == 0, "whole warps");
  template <class T>
  using Per = PerThread<T, kThreads>;

  int64_t index;      // of the block, or of the cluster
  Cluster cluster{};  // in which all blocks have the same index

  FEWSTEP_HOST_DEVICE static void barrier() {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }

  // Without the barrier at its end: for what nobody of the block waits for.
  template <class F>
  FEWSTEP_HOST_DEVICE void each_alone(const F& f) const {
#if defined(__CUDA_ARCH__)
    f((int)threadIdx.x);
#else
    for (int i = 0; i < kThreads; ++i) {
      f((index + cluster.rank()) % 2 == 0 ? i : kThreads - 1 - i);
    }
#endif
  }

  template <class F>
  FEWSTEP_HOST_DEVICE void each(const F& f) const {
    each_alone(f);
    barrier();
  }

  // A shared value, which may be written again once all threads have it.
  template <class T>
  FEWSTEP_HOST_DEVICE T get(const T& shared) const {
    const T value = shared;
    barrier();
    return value;
  }

  // The result of `op` on all threads' values, as a binary tree: first those half of the block
  // apart, in the order of the threads. scratch: [kThreads] in shared memory.
  template <class T, class Op>
  FEWSTEP_HOST_DEVICE T reduce(const Per<T>& x, T* scratch, const Op& op) const {
    static_assert((kThreads & (kThreads - 1)) == 0, "a binary tree");
    each([&](int t) { scratch[t] = x[t]; });
    for (int half = kThreads / 2; half > 0; half /= 2) {
      each([&](int t) {
        if (t < half) scratch[t] = op(scratch[t], scratch[t + half]);
      });
    }
    return get(scratch[0]);
  }

  // A thread's number in its cluster and how many there are, for what is divided among all.
  FEWSTEP_HOST_DEVICE int64_t place_of(int thread) const {
    return (int64_t)cluster.rank() * kThreads + thread;
  }
  FEWSTEP_HOST_DEVICE int64_t places() const { return (int64_t)cluster.size() * kThreads; }

  // The result of `op` on the values of a cluster's blocks, in their order. slot: in shared memory.
  template <class T, class Op>
  FEWSTEP_HOST_DEVICE T reduce_blocks(const T& value, T* slot, const Op& op) const {
    if (cluster.size() == 1) return value;
    each_alone([&](int t) {
      if (t == 0) *slot = value;
    });
    cluster.barrier();
    T all = cluster.of(0, slot);
    for (int32_t rank = 1; rank < cluster.size(); ++rank) all = op(all, cluster.of(rank, slot));
    cluster.barrier();
    return all;
  }

  // Replaces what each of a cluster's blocks has at `shared` by the result of `op` on it.
  template <class T, class Op>
  FEWSTEP_HOST_DEVICE T share(T* shared, const Op& op) const {
    const T own = get(*shared);
    if (cluster.size() == 1) return own;
    const T all = reduce_blocks(own, shared, op);
    each([&](int t) {
      if (t == 0) *shared = all;
    });
    return all;
  }

  // Copies the `count` values that each of a cluster's blocks has at `own`, block after block.
  template <class T>
  FEWSTEP_HOST_DEVICE void gather(const T* own, int count, T* all) const {
    if (cluster.size() > 1) cluster.barrier();
    each_alone([&](int t) {
      for (int i = t; i < count * cluster.size(); i += kThreads) {
        all[i] = cluster.of(i / count, own + i % count);
      }
    });
    cluster.barrier();
  }
};

}  // namespace
}  // namespace fewstep::gpu
