// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/async_copy.h"
#include "core/cuda/mma.h"
#include "core/cuda/swizzle.h"

// Products of warpgroups, four warps each, whose operands a tensor core fetches from shared memory
// by itself while the threads do something else: wgmma, of sm_90a alone. On other GPUs nothing of
// this does anything; hosts ask gpu::has_warpgroups(). In emulation a product is done as late as a
// GPU may do it, when it is waited for: what was changed too early shows in the results.
// Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

constexpr int kWarpgroup = 128;

// A warpgroup's accumulators: 64 x 64 floats, of which each of its warps has 16 rows, and a thread
// of each 8 columns what it has of a product of a warp (core/cuda/mma.h).
struct WarpgroupSums {
  float x[8][4];
};

// Keeps the compiler from moving a use of the sums over the wait for them.
FEWSTEP_HOST_DEVICE inline void pin(WarpgroupSums& sums) {
#if defined(__CUDA_ARCH__)
  FEWSTEP_UNROLL
  for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(sums.x[i / 4][i % 4])::"memory");
#else
  (void)sums;
#endif
}

#if defined(__CUDACC__)

// What the tensor core is told of a matrix: where its first element is, that eight rows are 1024
// bytes, and the swizzling.
__device__ inline uint64_t matrix_descriptor(const void* start) {
  const uint64_t address = (uint64_t)__cvta_generic_to_shared(start) & 0x3ffff;
  return address >> 4 | (uint64_t)1 << 16 | (uint64_t)(kSwizzledAtom >> 4) << 32 |
         (uint64_t)1 << 62;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FEWSTEP_WGMMA(type, a, b, add, ...)                                                       \
  asm volatile(                                                                                   \
      "{.reg .pred p; setp.ne.b32 p, " add                                                        \
      ", 0; "                                                                                     \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                 \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "   \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, " a ", " b ";}"          \
      : "+f"(x[0][0]), "+f"(x[0][1]), "+f"(x[0][2]), "+f"(x[0][3]), "+f"(x[1][0]), "+f"(x[1][1]), \
        "+f"(x[1][2]), "+f"(x[1][3]), "+f"(x[2][0]), "+f"(x[2][1]), "+f"(x[2][2]), "+f"(x[2][3]), \
        "+f"(x[3][0]), "+f"(x[3][1]), "+f"(x[3][2]), "+f"(x[3][3]), "+f"(x[4][0]), "+f"(x[4][1]), \
        "+f"(x[4][2]), "+f"(x[4][3]), "+f"(x[5][0]), "+f"(x[5][1]), "+f"(x[5][2]), "+f"(x[5][3]), \
        "+f"(x[6][0]), "+f"(x[6][1]), "+f"(x[6][2]), "+f"(x[6][3]), "+f"(x[7][0]), "+f"(x[7][1]), \
        "+f"(x[7][2]), "+f"(x[7][3])                                                              \
      : __VA_ARGS__)
#endif

#endif

// The products of a block's warpgroups, in the groups in which they are waited for.
template <int kThreads>
struct WarpgroupProducts {
  static_assert(kThreads % kWarpgroup == 0, "whole warpgroups");

  // Before products whose sums or fragments threads have written.
  FEWSTEP_HOST_DEVICE void begin() const {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
  }

  // C = A B^T, or C += A B^T, of 64 x 16 elements each: sums(t) is thread t's part of C, a(t) where
  // its warpgroup's A begins in shared memory, and b where B does.
  template <bool kIsBf16, class Sums, class A>
  FEWSTEP_HOST_DEVICE void multiply(const Sums& sums, const A& a, const void* b, bool adds) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    auto& x = sums((int)threadIdx.x).x;
    const uint64_t left = matrix_descriptor(a((int)threadIdx.x)), right = matrix_descriptor(b);
    if constexpr (kIsBf16) {
      FEWSTEP_WGMMA("bf16", "%32", "%33, p, 1, 1, 0, 0", "%34", "l"(left), "l"(right),
                    "r"((int)adds));
    } else {
      FEWSTEP_WGMMA("f16", "%32", "%33, p, 1, 1, 0, 0", "%34", "l"(left), "l"(right),
                    "r"((int)adds));
    }
#elif !defined(__CUDACC__)
    Product& last = append(b, adds, sums);
    last.run = run<kIsBf16, false>;
    for (int w = 0; w < kThreads / kWarpgroup; ++w) last.a[w] = a(w * kWarpgroup);
#endif
  }

  // C += A B for A of 64 x 16 elements, of which fragment(t) is thread t's, each warp's like that
  // of a product of warps, and B of 16 x 64 in shared memory.
  template <bool kIsBf16, class Sums, class Fragment>
  FEWSTEP_HOST_DEVICE void multiply_fragments(const Sums& sums, const Fragment& fragment,
                                              const void* b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    auto& x = sums((int)threadIdx.x).x;
    const uint32_t* w = fragment((int)threadIdx.x);
    const uint64_t right = matrix_descriptor(b);
    if constexpr (kIsBf16) {
      FEWSTEP_WGMMA("bf16", "{%32, %33, %34, %35}", "%36, p, 1, 1, 1", "%37", "r"(w[0]), "r"(w[1]),
                    "r"(w[2]), "r"(w[3]), "l"(right), "r"(1));
    } else {
      FEWSTEP_WGMMA("f16", "{%32, %33, %34, %35}", "%36, p, 1, 1, 1", "%37", "r"(w[0]), "r"(w[1]),
                    "r"(w[2]), "r"(w[3]), "l"(right), "r"(1));
    }
#elif !defined(__CUDACC__)
    Product& last = append(b, true, sums);
    last.run = run<kIsBf16, true>;
    for (int t = 0; t < kThreads; ++t) last.fragment[t] = fragment(t);
#endif
  }

  // Ends a group.
  FEWSTEP_HOST_DEVICE void end() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#elif !defined(__CUDACC__)
    ++groups_;
#endif
  }

  // Waits for all groups but the last `kPending`.
  template <int kPending>
  FEWSTEP_HOST_DEVICE void wait() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#elif !defined(__CUDACC__)
    int done = 0;
    while (done < count_ && pending_[done].group + kPending < groups_) ++done;
    do_first(done);
#endif
  }

#if !defined(__CUDACC__)
 private:
  struct Product {
    void (*run)(const Product&);
    const void *a[kThreads / kWarpgroup], *b;
    const uint32_t* fragment[kThreads];
    WarpgroupSums* sums[kThreads];
    bool adds;
    int group;
  };

  template <class Sums>
  Product& append(const void* b, bool adds, const Sums& sums) {
    if (count_ == kMost) do_first(1);
    Product& last = pending_[count_++];
    last.b = b;
    last.adds = adds;
    last.group = groups_;
    for (int t = 0; t < kThreads; ++t) last.sums[t] = &sums(t);
    return last;
  }

  void do_first(int count) {
    for (int i = 0; i < count; ++i) pending_[i].run(pending_[i]);
    for (int i = count; i < count_; ++i) pending_[i - count] = pending_[i];
    count_ -= count;
  }

  // Element (row, column) of the matrix that begins at `start`, as its descriptor says.
  template <bool kIsBf16>
  static float element(const void* start, int row, int column) {
    if ((uintptr_t)start % 16 != 0) throw_misaligned(16, start);
    if ((uintptr_t)start % kSwizzledAtom >= kSwizzledRow) throw_misaligned(kSwizzledAtom, start);
    const uintptr_t plain = (uintptr_t)start + row / 8 * kSwizzledAtom + row % 8 * kSwizzledRow +
                            (uintptr_t)(2 * column);
    uint16_t half;
    memcpy(&half, (const void*)swizzled_address(plain), 2);
    const uint32_t word = half;
    return half_of<kIsBf16>(&word, 0);
  }

  // Of 64 rows of A and 64 columns of C; B's rows are the columns of C, or what is summed over.
  template <bool kIsBf16, bool kHasFragments>
  static void run(const Product& p) {
    for (int w = 0; w < kThreads / kWarpgroup; ++w) {
      float left[64][16], right[16][64];
      for (int k = 0; k < 16; ++k) {
        for (int n = 0; n < 64; ++n) {
          right[k][n] = kHasFragments ? element<kIsBf16>(p.b, k, n) : element<kIsBf16>(p.b, n, k);
          if (!kHasFragments) left[n][k] = element<kIsBf16>(p.a[w], n, k);
        }
      }
      for (int t = 0; t < kWarpgroup; ++t) {
        const int g = t / 32 * 16 + t % 32 / 4, i = t % 4 * 2;
        for (int e = 0; kHasFragments && e < 8; ++e) {
          left[g + e / 2 % 2 * 8][i + e / 4 * 8 + e % 2] =
              half_of<kIsBf16>(p.fragment[w * kWarpgroup + t], e);
        }
      }
      for (int t = 0; t < kWarpgroup; ++t) {
        for (int j = 0; j < 32; ++j) {
          float& x = p.sums[w * kWarpgroup + t]->x[j / 4][j % 4];
          const int row = t / 32 * 16 + t % 32 / 4 + j % 4 / 2 * 8;
          const int column = j / 4 * 8 + t % 4 * 2 + j % 2;
          float sum = p.adds ? x : 0.0f;
          for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
          x = sum;
        }
      }
    }
  }

  static constexpr int kMost = 64;
  Product pending_[kMost];
  int count_ = 0, groups_ = 0;
#endif
};

// Waits for all groups of copies of all threads of the block, and for what else they have written
// to shared memory, and shows it to products: these read it by another way than threads do.
template <int kThreads>
FEWSTEP_HOST_DEVICE inline void show_to_products(const Block<kThreads>& block) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  block.barrier();
#else
  wait_for_copies<0>(block);
#endif
}

}  // namespace
}  // namespace fewstep::gpu
