// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/cpu/normal.h"
#include "core/cuda/launch.h"
#include "core/dtype.h"
#include "core/host_device.h"

// Packs: the 8 elements of a sample that a thread works on at a time, as two quads. The 32 threads
// of a warp have 256 neighbouring elements, each thread one quad of the first 128 and one of the
// second: so every access of a warp covers whole sectors without a gap, 16 bytes per thread in
// float32 and 8 in a 16-bit type. (Eight neighbouring elements per thread would make every 16-byte
// store of a warp write half sectors: twice the write requests to the L2.)
// Included by CUDA kernel files only.
namespace fewstep::gpu {

// The emulation's answer to an access that a GPU would trap on.
[[noreturn]] void throw_misaligned(int bytes, const void* address);

namespace {

constexpr int kPack = 8, kQuad = 4;
constexpr int kQuadStep = 32 * kQuad;          // elements between a thread's quads
constexpr int kWholePack = kQuadStep + kQuad;  // elements from a pack's first to behind its last

// Elements from a pack's first to its i-th.
constexpr FEWSTEP_HOST_DEVICE inline int offset_of(int i) {
  return i / kQuad * kQuadStep + i % kQuad;
}

// Integers that stand for elements of any type.
typedef uint32_t __attribute__((may_alias)) Word;
typedef uint16_t __attribute__((may_alias)) HalfWord;

// The bytes of a pack as they were read: words [0, 8) of float32, [0, 4) of a 16-bit type, the
// first quad's before the second's.
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
  if ((uintptr_t)p % 16 != 0) throw_misaligned(16, p);
  memcpy(w, p, 16);
#endif
}

FEWSTEP_HOST_DEVICE inline void store16(char* p, const uint32_t w[4]) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
  *(uint4*)p = make_uint4(w[0], w[1], w[2], w[3]);
#else
  if ((uintptr_t)p % 16 != 0) throw_misaligned(16, p);
  memcpy(p, w, 16);
#endif
}

FEWSTEP_HOST_DEVICE inline void load8(const char* p, uint32_t w[2]) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
  const uint2 x = *(const uint2*)p;
  w[0] = x.x;
  w[1] = x.y;
#else
  if ((uintptr_t)p % 8 != 0) throw_misaligned(8, p);
  memcpy(w, p, 8);
#endif
}

FEWSTEP_HOST_DEVICE inline void store8(char* p, const uint32_t w[2]) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
  *(uint2*)p = make_uint2(w[0], w[1]);
#else
  if ((uintptr_t)p % 8 != 0) throw_misaligned(8, p);
  memcpy(p, w, 8);
#endif
}

FEWSTEP_HOST_DEVICE inline int element_bytes(DType t) { return t == DType::kF32 ? 4 : 2; }

// Whether the quads of rows that start at `data` and lie `stride` bytes apart can be accessed
// whole.
FEWSTEP_HOST_DEVICE inline bool is_wide(const void* data, int64_t stride, DType dtype) {
  const uintptr_t bytes = (uintptr_t)(kQuad * element_bytes(dtype));
  return (((uintptr_t)data | (uintptr_t)stride) & (bytes - 1)) == 0;
}

// Elements of the quad at p; those from count on are zero.
FEWSTEP_HOST_DEVICE inline void load_quad(const char* p, DType dtype, int count, uint32_t* w) {
  if (dtype == DType::kF32) {
    const Word* words = (const Word*)p;
    for (int i = 0; i < kQuad; ++i) w[i] = i < count ? words[i] : 0;
    return;
  }
  const HalfWord* halves = (const HalfWord*)p;
  for (int i = 0; i < kQuad; i += 2) {
    const uint32_t low = i < count ? halves[i] : 0, high = i + 1 < count ? halves[i + 1] : 0;
    w[i / 2] = low | high << 16;
  }
}

FEWSTEP_HOST_DEVICE inline void store_quad(char* p, DType dtype, int count, const uint32_t* w) {
  if (dtype == DType::kF32) {
    Word* words = (Word*)p;
    for (int i = 0; i < kQuad; ++i) {
      if (i < count) words[i] = w[i];
    }
    return;
  }
  HalfWord* halves = (HalfWord*)p;
  for (int i = 0; i < kQuad; ++i) {
    if (i < count) halves[i] = (uint16_t)(w[i / 2] >> (i % 2 * 16));
  }
}

// The pack whose first quad is at p, of which elements [0, count) from there on exist; the others
// are zero. wide: is_wide() says so of the tensor.
FEWSTEP_HOST_DEVICE inline void load_raw(const char* p, DType dtype, bool wide, int count,
                                         RawPack* x) {
  const char* q = p + kQuadStep * element_bytes(dtype);
  const bool is_f32 = dtype == DType::kF32;
  if (!wide || count < kWholePack) {
    load_quad(p, dtype, count, x->w);
    load_quad(q, dtype, count - kQuadStep, x->w + kQuad);
  } else if (is_f32) {
    load16(p, x->w);
    load16(q, x->w + kQuad);
  } else {
    load8(p, x->w);
    load8(q, x->w + kQuad);
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

// Element i of a quad.
FEWSTEP_HOST_DEVICE inline float element_of(const uint32_t w[kQuad], DType dtype, int i) {
  if (dtype == DType::kF32) return vec::float_of_bits({w[i]}).v;
  const uint32_t half = w[i / 2] >> (i % 2 * 16) & 0xffffu;
  if (dtype == DType::kF16) return widen_f16(half);
  return vec::float_of_bits({half << 16}).v;
}

// The word with elements i and i + 1 of a 16-bit type.
constexpr FEWSTEP_HOST_DEVICE inline int pair_word(int i) {
  return i / kQuad * kQuad + i % kQuad / 2;
}

FEWSTEP_HOST_DEVICE inline void widen(const RawPack& raw, DType dtype, float x[kPack]) {
  if (dtype == DType::kF32) {
    for (int i = 0; i < kPack; ++i) x[i] = vec::float_of_bits({raw.w[i]}).v;
  } else if (dtype == DType::kF16) {
    for (int i = 0; i < kPack; i += 2) {
      x[i] = widen_f16(raw.w[pair_word(i)] & 0xffffu);
      x[i + 1] = widen_f16(raw.w[pair_word(i)] >> 16);
    }
  } else {
    for (int i = 0; i < kPack; i += 2) {
      x[i] = vec::float_of_bits({raw.w[pair_word(i)] << 16}).v;
      x[i + 1] = vec::float_of_bits({raw.w[pair_word(i)] & 0xffff0000u}).v;
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

// One element of any address.
FEWSTEP_HOST_DEVICE inline float load_one(const char* p, DType dtype) {
  if (dtype == DType::kF32) return vec::float_of_bits({*(const Word*)p}).v;
  const uint32_t half = *(const HalfWord*)p;
  return dtype == DType::kF16 ? widen_f16(half) : vec::float_of_bits({half << 16}).v;
}

FEWSTEP_HOST_DEVICE inline void store_one(char* p, DType dtype, float x) {
  if (dtype == DType::kF32) {
    *(Word*)p = vec::bits({x}).v;
  } else {
    *(HalfWord*)p = (uint16_t)narrow_pair(dtype, x, 0.0f);
  }
}

FEWSTEP_HOST_DEVICE inline RawPack narrow(DType dtype, const float x[kPack]) {
  RawPack raw;
  for (int i = 0; i < kPack; ++i) raw.w[i] = vec::bits({x[i]}).v;
  if (dtype != DType::kF32) {
    for (int i = 0; i < kPack; i += 2) raw.w[pair_word(i)] = narrow_pair(dtype, x[i], x[i + 1]);
  }
  return raw;
}

FEWSTEP_HOST_DEVICE inline void store_raw(char* p, DType dtype, bool wide, int count,
                                          const RawPack& x) {
  char* q = p + kQuadStep * element_bytes(dtype);
  const bool is_f32 = dtype == DType::kF32;
  if (!wide || count < kWholePack) {
    store_quad(p, dtype, count, x.w);
    store_quad(q, dtype, count - kQuadStep, x.w + kQuad);
  } else if (is_f32) {
    store16(p, x.w);
    store16(q, x.w + kQuad);
  } else {
    store8(p, x.w);
    store8(q, x.w + kQuad);
  }
}

// Normals of the pack that starts at element n of a sample; n is a multiple of 4.
FEWSTEP_HOST_DEVICE inline void normals(uint64_t seed, uint32_t step, uint32_t stream, int64_t n,
                                        float x[kPack]) {
  static_assert(vec::kNormalTile == kQuad, "CUDA kernels take the scalar vector");
  for (int h = 0; h < 2; ++h) {
    vec::F32 z[kQuad];
    vec::normal_tile((uint64_t)(n + h * kQuadStep) / kQuad, seed, step, stream, z);
    for (int j = 0; j < kQuad; ++j) x[h * kQuad + j] = z[j].v;
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

// Calls f(b, n, count) for each pack of a thread: its quads are elements n and n + kQuadStep of
// sample b, and [n, n + count) exists. Requires: threads is a multiple of 32.
template <class F>
FEWSTEP_HOST_DEVICE inline void for_packs(const SampleGrid& grid, Thread thread, int threads,
                                          const F& f) {
  const int64_t b = sample_of(grid, thread), first = thread.block - b * grid.per_sample;
  const int64_t stride = grid.per_sample * threads * kPack;
  const int in_tile = thread.index / 32 * (32 * kPack) + thread.index % 32 * kQuad;
  for (int64_t n = first * threads * kPack + in_tile; n < grid.N; n += stride) {
    f(b, n, grid.N - n < kWholePack ? (int)(grid.N - n) : kWholePack);
  }
}

}  // namespace
}  // namespace fewstep::gpu
