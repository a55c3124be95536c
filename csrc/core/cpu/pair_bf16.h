// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"

// Pairs of bfloat16 in the 32-bit lanes of F32, for AVX512-BF16's dot product. Included by kernels
// where __AVX512BF16__ is defined.
#if defined(__AVX512BF16__)
namespace fewstep::vec {
namespace {

inline F32 set_pair(const void* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return {_mm512_castsi512_ps(_mm512_set1_epi32(word))};
}
// 16 or, with `half`, the first 8 pairs; the others are zero.
inline F32 load_pairs(const void* p, bool half) {
  const __m512i low = _mm512_maskz_loadu_epi32((__mmask16)(half ? 0xff : 0xffff), p);
  return {_mm512_castsi512_ps(low)};
}
// Element i of two rows of 32 becomes pair i: pairs 0 .. 15 and 16 .. 31.
inline void interleave_rows(F32 even, F32 odd, F32* low, F32* high) {
  alignas(64) static const uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first = _mm512_load_si512(kLow);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  const __m512i a = _mm512_castps_si512(even.v), b = _mm512_castps_si512(odd.v);
  low->v = _mm512_castsi512_ps(_mm512_permutex2var_epi16(a, first, b));
  high->v = _mm512_castsi512_ps(_mm512_permutex2var_epi16(a, second, b));
}
// The same of rows in memory, in the order that costs least: of each 8 pairs the first four are
// low's, the others high's.
inline void unpack_rows(const char* even, const char* odd, F32* low, F32* high) {
  const __m512i a = _mm512_loadu_si512(even), b = _mm512_loadu_si512(odd);
  low->v = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b));
  high->v = _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b));
}
// Puts 32 floats that stand in that order in their own.
inline void reorder_unpacked(float* x) {
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
  const __m512 first = _mm512_shuffle_f32x4(low, high, 0x44);
  const __m512 second = _mm512_shuffle_f32x4(low, high, 0xee);
  _mm512_storeu_ps(x, _mm512_shuffle_f32x4(first, first, 0xd8));
  _mm512_storeu_ps(x + 16, _mm512_shuffle_f32x4(second, second, 0xd8));
}
// Rounds 32 floats to 16 pairs in their order; nearest even, subnormals to zero.
inline F32 narrow_to_pairs(F32 low, F32 high) {
  return {(__m512)_mm512_cvtne2ps_pbh(high.v, low.v)};
}
// The same, lane by lane: pair i is low's and high's lane i.
inline F32 narrow_lanes(F32 low, F32 high) {
  alignas(64) static const uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                  21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                  11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high.v, low.v);
  const __m512i mixed = _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
  return {_mm512_castsi512_ps(mixed)};
}

}  // namespace
}  // namespace fewstep::vec
#endif
