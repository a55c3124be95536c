// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"

// Products of packed narrow numbers, summed in each 32-bit lane. Every function gives the same bits
// on every ISA, but that of bfloat16 where it says otherwise.
namespace fewstep::vec {
namespace {

#if defined(__AVX512F__)
inline I32 load_i32(const void* p) { return {_mm512_loadu_si512(p)}; }
inline I32 bit_and(I32 a, I32 b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int kBits>
inline I32 shift_right(I32 a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
// The 2 kLanes signed bytes at p as signed 16-bit halves of lanes.
inline I32 widen_i8(const void* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))};
}
// c + the two products of signed halves, modulo 2^32.
inline I32 dot_i16(I32 a, I32 b, I32 c) {
#if defined(__AVX512VNNI__)
  // GCC 12 moves more than 16 sums through memory when they meet the intrinsic's other type.
  __asm__("vpdpwssd %2, %1, %0" : "+v"(c.v) : "v"(a.v), "v"(b.v));
  return c;
#else
  return {_mm512_add_epi32(c.v, _mm512_madd_epi16(a.v, b.v))};
#endif
}
// c + the four products of an unsigned byte of a, at most 15, and a signed byte of b.
inline I32 dot_u4_i8(I32 a, I32 b, I32 c) {
#if defined(__AVX512VNNI__)
  return {_mm512_dpbusd_epi32(c.v, a.v, b.v)};
#else
  const __m512i pairs = _mm512_maddubs_epi16(a.v, b.v);
  return {_mm512_add_epi32(c.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#endif
}
// c + the odd product, then + the even one, each fused: bfloat16 halves of lanes. The instruction
// takes subnormal numbers for zeros and gives zeros for them, which fma of floats does not.
#if defined(__AVX512BF16__)
inline F32 dot_bf16(I32 a, I32 b, F32 c) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
}
#endif
#elif defined(__AVX2__)
inline I32 load_i32(const void* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
inline I32 bit_and(I32 a, I32 b) { return {_mm256_and_si256(a.v, b.v)}; }
template <int kBits>
inline I32 shift_right(I32 a) {
  return {_mm256_srli_epi32(a.v, kBits)};
}
inline I32 widen_i8(const void* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p))};
}
inline I32 dot_i16(I32 a, I32 b, I32 c) {
  return {_mm256_add_epi32(c.v, _mm256_madd_epi16(a.v, b.v))};
}
inline I32 dot_u4_i8(I32 a, I32 b, I32 c) {
  const __m256i pairs = _mm256_maddubs_epi16(a.v, b.v);
  return {_mm256_add_epi32(c.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}
#else
inline I32 load_i32(const void* p) {
  I32 r;
  memcpy(&r.v, p, 4);
  return r;
}
inline I32 bit_and(I32 a, I32 b) { return {a.v & b.v}; }
template <int kBits>
inline I32 shift_right(I32 a) {
  return {a.v >> kBits};
}
inline I32 widen_i8(const void* p) {
  int8_t x[2];
  memcpy(x, p, 2);
  return {(uint32_t)(uint16_t)x[0] | (uint32_t)(uint16_t)x[1] << 16};
}
inline I32 dot_i16(I32 a, I32 b, I32 c) {
  const int32_t low = (int32_t)(int16_t)a.v * (int16_t)b.v;
  const int32_t high = (int32_t)(int16_t)(a.v >> 16) * (int16_t)(b.v >> 16);
  return {c.v + (uint32_t)low + (uint32_t)high};
}
inline I32 dot_u4_i8(I32 a, I32 b, I32 c) {
  int32_t sum = 0;
  for (int i = 0; i < 32; i += 8) sum += (int32_t)(uint8_t)(a.v >> i) * (int8_t)(b.v >> i);
  return {c.v + (uint32_t)sum};
}
#endif

// The lower and the upper bfloat16 of each lane, as floats.
inline F32 lower_bf16(I32 pairs) { return float_of_bits(shift_left<16>(pairs)); }
inline F32 upper_bf16(I32 pairs) {
  return float_of_bits(bit_and(pairs, set_i32((int32_t)0xffff0000)));
}

}  // namespace
}  // namespace fewstep::vec
