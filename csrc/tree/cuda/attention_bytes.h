// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/pack.h"

// Elements of 8 bits for tensor cores: as bfloat16 and float16 they are exact. Their scales stay
// apart, a key's for its logit and a value's for its weight.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// a b + c of pairs of halves.
template <bool kIsBf16>
FEWSTEP_HOST_DEVICE inline uint32_t fma_pair(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  if constexpr (kIsBf16) {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  }
  return pair;
#else
  constexpr DType kType = kIsBf16 ? DType::kBF16 : DType::kF16;
  float x[2];
  for (int i = 0; i < 2; ++i) {
    const uint32_t words[3] = {a, b, c};
    x[i] = fmaf(gpu::element_of(&words[0], kType, i), gpu::element_of(&words[1], kType, i),
                gpu::element_of(&words[2], kType, i));
  }
  return gpu::narrow_pair(kType, x[0], x[1]);
#endif
}

// The first or last two bytes of a word, each in the low half of 16 bits.
template <bool kIsLast>
FEWSTEP_HOST_DEVICE inline uint32_t spread(uint32_t bytes) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(bytes, 0, kIsLast ? 0x4342 : 0x4140);
#else
  const uint32_t two = kIsLast ? bytes >> 16 : bytes & 0xffffu;
  return (two & 0xffu) | (two & 0xff00u) << 8;
#endif
}

// Two elements of 8 bits, spread, as halves.
template <DType kFrom, bool kIsBf16>
FEWSTEP_HOST_DEVICE inline uint32_t halves_of(uint32_t two) {
  static_assert(contains(kScaledBytes, kFrom));
  if constexpr (kFrom == DType::kE4M3) {
    // Its exponent and mantissa in their places are the number but for the exponents' biases, also
    // where it is subnormal; a NaN's exponent is all ones.
    constexpr uint32_t kBiases = kIsBf16 ? 0x7b807b80u : 0x5c005c00u;  // 2^120 and 2^8
    const uint32_t rest = two & 0x007f007fu, is_nan = (rest + 0x00010001u) & 0x00800080u;
    const uint32_t number = rest << (kIsBf16 ? 4 : 7) | is_nan * (kIsBf16 ? 0xff : 0xf8);
    return fma_pair<kIsBf16>(number | (two & 0x00800080u) << 8, kBiases, 0x80008000u);
  }
  // An integer's low 7 bits are the last ones of a half above a power of two, 128 or 1024; it and,
  // where the integer is negative, 128 more are taken off.
  constexpr uint32_t kAbove = kIsBf16 ? 0x43004300u : 0x64006400u;
  constexpr uint32_t kOne = kIsBf16 ? 0x3f803f80u : 0x3c003c00u;
  return fma_pair<kIsBf16>((two & 0x007f007fu) | kAbove, kOne,
                           (two & 0x00800080u) | kAbove | 0x80008000u);
}

// What sums of weighted values count in, a power of two: float16 has not the range of scales.
// Weights times scales become less than 2 of it: what float16 loses of one is nothing beside the
// largest that the row has seen.
struct Unit {
  float size;

  // Takes in a tile whose largest scaled weight is `top`, after sums were multiplied by *factor,
  // which becomes what they are multiplied by in the new unit. Returns what weights are.
  FEWSTEP_HOST_DEVICE float raise(float top, float* factor) {
    constexpr uint32_t kSmallest = 1u << 23, kLargest = 253u << 23;
    const float before = size * *factor;
    uint32_t bits = vec::bits({before > top ? before : top}).v & 0x7f800000u;
    bits = bits < kSmallest ? kSmallest : bits > kLargest ? kLargest : bits;
    size = vec::float_of_bits({bits}).v;
    const float inverse = vec::float_of_bits({(254u << 23) - bits}).v;
    *factor = before * inverse;
    return inverse;
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
