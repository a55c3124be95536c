// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/cpu/normal.h"
#include "core/cuda/launch.h"
#include "core/dtype.h"
#include "core/host_device.h"

// Packs: the 8 neighbouring elements of a sample that a thread works on at a time. They are 16
// bytes of a 16-bit type, which is the widest access, and two of those in float32; the halves of
// neighbouring threads complete each other's sectors in the L1 on reading, in the L2 on writing.
// Included by CUDA kernel files only.
namespace fewstep::gpu {

// The emulation's answer to an access that a GPU would trap on.
[[noreturn]] void throw_misaligned(const void* address);

namespace {

constexpr int kPack = 8;

// Integers that stand for elements of any type.
typedef uint32_t __attribute__((may_alias)) Word;
typedef uint16_t __attribute__((may_alias)) HalfWord;

// The bytes of a pack as they were read: words [0, 8) of float32, [0, 4) of a 16-bit type.
struct RawPack {
  uint32_t w[kPack];
};

// Tensors are in global memory, which the compiler cannot see where a kernel picks one at run time:
// it would take the slower generic access.
FEWSTEP_HOST_DEVICE inline void load16(const char* p, uint32_t w[4]) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
  const uint4 x = *(const uint4*)p;
  w[0] = x.x;
  w[1] = x.y;
  w[2] = x.z;
  w[3] = x.w;
#else
  if ((uintptr_t)p % 16 != 0) throw_misaligned(p);
  memcpy(w, p, 16);
#endif
}

FEWSTEP_HOST_DEVICE inline void store16(char* p, const uint32_t w[4]) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
  *(uint4*)p = make_uint4(w[0], w[1], w[2], w[3]);
#else
  if ((uintptr_t)p % 16 != 0) throw_misaligned(p);
  memcpy(p, w, 16);
#endif
}

FEWSTEP_HOST_DEVICE inline int element_bytes(DType t) { return t == DType::kF32 ? 4 : 2; }

// Elements [0, count) at p; the others are zero. wide: p is a multiple of 16.
FEWSTEP_HOST_DEVICE inline void load_raw(const char* p, DType dtype, bool wide, int count,
                                         RawPack* x) {
  if (wide && count == kPack) {
    load16(p, x->w);
    if (dtype == DType::kF32) load16(p + 16, x->w + 4);
    return;
  }
  if (dtype == DType::kF32) {
    const Word* words = (const Word*)p;
    for (int i = 0; i < kPack; ++i) x->w[i] = i < count ? words[i] : 0;
    return;
  }
  const HalfWord* halves = (const HalfWord*)p;
  for (int i = 0; i < kPack / 2; ++i) {
    const uint32_t low = 2 * i < count ? halves[2 * i] : 0;
    const uint32_t high = 2 * i + 1 < count ? halves[2 * i + 1] : 0;
    x->w[i] = low | high << 16;
  }
}

FEWSTEP_HOST_DEVICE inline float widen_f16(uint32_t half) {
#if defined(__CUDA_ARCH__)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((uint16_t)half));
  return x;
#else
  const uint16_t bits = (uint16_t)half;
  return vec::load_f16(&bits).v;
#endif
}

FEWSTEP_HOST_DEVICE inline void widen(const RawPack& raw, DType dtype, float x[kPack]) {
  if (dtype == DType::kF32) {
    for (int i = 0; i < kPack; ++i) x[i] = vec::float_of_bits({raw.w[i]}).v;
  } else if (dtype == DType::kF16) {
    for (int i = 0; i < kPack / 2; ++i) {
      x[2 * i] = widen_f16(raw.w[i] & 0xffffu);
      x[2 * i + 1] = widen_f16(raw.w[i] >> 16);
    }
  } else {
    for (int i = 0; i < kPack / 2; ++i) {
      x[2 * i] = vec::float_of_bits({raw.w[i] << 16}).v;
      x[2 * i + 1] = vec::float_of_bits({raw.w[i] & 0xffff0000u}).v;
    }
  }
}

// Two floats as neighbouring 16-bit elements, rounded to nearest even.
FEWSTEP_HOST_DEVICE inline uint32_t narrow_pair(DType dtype, float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  if (dtype == DType::kF16) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  const bool is_f16 = dtype == DType::kF16;
  const uint32_t l = is_f16 ? vec::narrow_f16({low}) : vec::narrow_bf16({low});
  const uint32_t h = is_f16 ? vec::narrow_f16({high}) : vec::narrow_bf16({high});
  return l | h << 16;
#endif
}

FEWSTEP_HOST_DEVICE inline RawPack narrow(DType dtype, const float x[kPack]) {
  RawPack raw;
  for (int i = 0; i < kPack; ++i) raw.w[i] = vec::bits({x[i]}).v;
  if (dtype != DType::kF32) {
    for (int i = 0; i < kPack / 2; ++i) raw.w[i] = narrow_pair(dtype, x[2 * i], x[2 * i + 1]);
  }
  return raw;
}

FEWSTEP_HOST_DEVICE inline void store_raw(char* p, DType dtype, bool wide, int count,
                                          const RawPack& x) {
  if (wide && count == kPack) {
    store16(p, x.w);
    if (dtype == DType::kF32) store16(p + 16, x.w + 4);
    return;
  }
  if (dtype == DType::kF32) {
    Word* words = (Word*)p;
    for (int i = 0; i < kPack; ++i) {
      if (i < count) words[i] = x.w[i];
    }
    return;
  }
  HalfWord* halves = (HalfWord*)p;
  for (int i = 0; i < kPack; ++i) {
    if (i < count) halves[i] = (uint16_t)(x.w[i / 2] >> (i % 2 * 16));
  }
}

// Normals of elements [n, n + 8) of a sample; n is a multiple of 8.
FEWSTEP_HOST_DEVICE inline void normals(uint64_t seed, uint32_t step, uint32_t stream, int64_t n,
                                        float x[kPack]) {
  static_assert(vec::kNormalTile == 4, "CUDA kernels take the scalar vector");
  for (int i = 0; i < kPack; i += vec::kNormalTile) {
    vec::F32 z[vec::kNormalTile];
    vec::normal_tile((uint64_t)(n + i) / 4, seed, step, stream, z);
    for (int j = 0; j < vec::kNormalTile; ++j) x[i + j] = z[j].v;
  }
}

// Samples over blocks: sample b has blocks [b * per_sample, (b + 1) * per_sample), whose threads
// take its packs in turn.
struct SampleGrid {
  int64_t N, blocks, per_sample;
};

inline SampleGrid sample_grid(int64_t B, int64_t N, int threads) {
  const int64_t tile = (int64_t)threads * kPack;
  int64_t per_sample = (N + tile - 1) / tile;
  if (per_sample > kMaxBlocks / B) per_sample = kMaxBlocks > B ? kMaxBlocks / B : 1;
  return {N, B * per_sample, per_sample};
}

// The sample that a block works on.
FEWSTEP_HOST_DEVICE inline int64_t sample_of(const SampleGrid& grid, Thread thread) {
  return (uint32_t)thread.block / (uint32_t)grid.per_sample;
}

// Calls f(b, n, count) for each pack of a thread: elements [n, n + count) of sample b.
template <class F>
FEWSTEP_HOST_DEVICE inline void for_packs(const SampleGrid& grid, Thread thread, int threads,
                                          const F& f) {
  const int64_t b = sample_of(grid, thread), first = thread.block - b * grid.per_sample;
  const int64_t stride = grid.per_sample * threads * kPack;
  for (int64_t n = (first * threads + thread.index) * kPack; n < grid.N; n += stride) {
    f(b, n, grid.N - n < kPack ? (int)(grid.N - n) : kPack);
  }
}

}  // namespace
}  // namespace fewstep::gpu
