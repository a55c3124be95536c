// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/pack.h"

// What the 32 threads of a warp do together: products of small matrices on tensor cores (sm_80 and
// newer), and what becomes of values that four neighbouring threads hold. All warps of a block do
// the same. A thread's part of a matrix is what PTX calls its fragment: arguments are functions
// that give it for thread t. In emulation the fragments of a warp's threads are put together as PTX
// documents it, multiplied in float, and taken apart: a wrong layout shows in the results. The
// order in which a tensor core adds is not documented; the emulation's is that of the elements.
// Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

#if !defined(__CUDACC__)
template <bool kIsBf16>
inline float half_of(const uint32_t* words, int i) {
  const uint32_t half = words[i / 2] >> (i % 2 * 16) & 0xffffu;
  return kIsBf16 ? vec::float_of_bits({half << 16}).v : widen_f16(half);
}
#endif

// C += A B for A of 16 x 16 elements of bfloat16 or float16, B of 16 x 8, and C of 16 x 8 floats.
// Of thread 4 g + i: a is (g, 2 i), (g + 8, 2 i), (g, 2 i + 8), (g + 8, 2 i + 8), each with the
// element to its right; b is (2 i, g), (2 i + 8, g), each with the element below; c is (g, 2 i),
// (g, 2 i + 1), (g + 8, 2 i), (g + 8, 2 i + 1).
template <bool kIsBf16, int kThreads, class C, class A, class B>
FEWSTEP_HOST_DEVICE inline void multiply(const Block<kThreads>&, const C& c, const A& a,
                                         const B& b) {
#if defined(__CUDA_ARCH__)
  float* x = c((int)threadIdx.x);
  const uint32_t* l = a((int)threadIdx.x);
  const uint32_t* r = b((int)threadIdx.x);
  if constexpr (kIsBf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
        : "r"(l[0]), "r"(l[1]), "r"(l[2]), "r"(l[3]), "r"(r[0]), "r"(r[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
        : "r"(l[0]), "r"(l[1]), "r"(l[2]), "r"(l[3]), "r"(r[0]), "r"(r[1]));
  }
#elif !defined(__CUDACC__)
  for (int warp = 0; warp < kThreads; warp += 32) {
    float left[16][16], right[16][8];
    for (int t = 0; t < 32; ++t) {
      const int g = t / 4, i = t % 4;
      const uint32_t *l = a(warp + t), *r = b(warp + t);
      for (int e = 0; e < 8; ++e) {
        left[g + e / 2 % 2 * 8][2 * i + e / 4 * 8 + e % 2] = half_of<kIsBf16>(l, e);
      }
      for (int e = 0; e < 4; ++e) right[2 * i + e / 2 * 8 + e % 2][g] = half_of<kIsBf16>(r, e);
    }
    for (int t = 0; t < 32; ++t) {
      float* x = c(warp + t);
      for (int e = 0; e < 4; ++e) {
        const int row = t / 4 + e / 2 * 8, column = t % 4 * 2 + e % 2;
        for (int k = 0; k < 16; ++k) x[e] += left[row][k] * right[k][column];
      }
    }
  }
#endif
}

// The same of signed bytes: C += A B for A of 16 x 32 of them, B of 32 x 8, and C of 16 x 8
// integers of 32 bits, exactly, modulo 2^32. Of thread 4 g + i: a is (g, 4 i), (g + 8, 4 i), (g, 4
// i + 16), (g + 8, 4 i + 16), each with the three elements to its right; b is (4 i, g), (4 i + 16,
// g), each with the three below; c is as above.
template <int kThreads, class C, class A, class B>
FEWSTEP_HOST_DEVICE inline void multiply_bytes(const Block<kThreads>&, const C& c, const A& a,
                                               const B& b) {
#if defined(__CUDA_ARCH__)
  uint32_t* x = c((int)threadIdx.x);
  const uint32_t* l = a((int)threadIdx.x);
  const uint32_t* r = b((int)threadIdx.x);
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3])
      : "r"(l[0]), "r"(l[1]), "r"(l[2]), "r"(l[3]), "r"(r[0]), "r"(r[1]));
#elif !defined(__CUDACC__)
  const auto byte_of = [](const uint32_t* words, int i) {
    return (int32_t)(int8_t)(words[i / 4] >> (i % 4 * 8));
  };
  for (int warp = 0; warp < kThreads; warp += 32) {
    int32_t left[16][32], right[32][8];
    for (int t = 0; t < 32; ++t) {
      const int g = t / 4, i = t % 4;
      const uint32_t *l = a(warp + t), *r = b(warp + t);
      for (int e = 0; e < 16; ++e) {
        left[g + e / 4 % 2 * 8][4 * i + e / 8 * 16 + e % 4] = byte_of(l, e);
      }
      for (int e = 0; e < 8; ++e) right[4 * i + e / 4 * 16 + e % 4][g] = byte_of(r, e);
    }
    for (int t = 0; t < 32; ++t) {
      uint32_t* x = c(warp + t);
      for (int e = 0; e < 4; ++e) {
        const int row = t / 4 + e / 2 * 8, column = t % 4 * 2 + e % 2;
        for (int k = 0; k < 32; ++k) x[e] += (uint32_t)(left[row][k] * right[k][column]);
      }
    }
  }
#endif
}

// Four matrices of 8 x 8 elements of 16 bits from shared memory. Thread 8 m + i gives the address
// of row i of matrix m; thread 4 g + i gets as its word m the elements (g, 2 i) and (g, 2 i + 1) of
// matrix m, or of its transpose.
template <bool kTransposed, int kThreads, class From, class To>
FEWSTEP_HOST_DEVICE inline void load_matrices(const Block<kThreads>&, const From& from,
                                              const To& to) {
#if defined(__CUDA_ARCH__)
  const uint32_t p = (uint32_t)__cvta_generic_to_shared(from((int)threadIdx.x));
  uint32_t* w = to((int)threadIdx.x);
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(p)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(p)
                 : "memory");
  }
#elif !defined(__CUDACC__)
  for (int warp = 0; warp < kThreads; warp += 32) {
    for (int m = 0; m < 4; ++m) {
      uint16_t x[8][8];
      for (int i = 0; i < 8; ++i) {
        const void* row = from(warp + 8 * m + i);
        if ((uintptr_t)row % 16 != 0) throw_misaligned(16, row);
        memcpy(x[i], row, 16);
      }
      for (int t = 0; t < 32; ++t) {
        const int g = t / 4, i = t % 4 * 2;
        const uint32_t low = kTransposed ? x[i][g] : x[g][i];
        const uint32_t high = kTransposed ? x[i + 1][g] : x[g][i + 1];
        to(warp + t)[m] = low | high << 16;
      }
    }
  }
#endif
}

// Joins the value x(t) of each thread with those of the three others of its quad, 4 g .. 4 g + 3:
// op of neighbours, then op of the two results.
template <int kThreads, class X, class Op>
FEWSTEP_HOST_DEVICE inline void join_quads(const Block<kThreads>&, const X& x, const Op& op) {
#if defined(__CUDA_ARCH__)
  float& own = x((int)threadIdx.x);
  own = op(own, __shfl_xor_sync(0xffffffffu, own, 1));
  own = op(own, __shfl_xor_sync(0xffffffffu, own, 2));
#elif !defined(__CUDACC__)
  for (int step = 1; step < 4; step *= 2) {
    float before[kThreads];
    for (int t = 0; t < kThreads; ++t) before[t] = x(t);
    for (int t = 0; t < kThreads; ++t) x(t) = op(before[t], before[t ^ step]);
  }
#endif
}

}  // namespace
}  // namespace fewstep::gpu
