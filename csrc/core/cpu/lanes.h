// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"
#include "core/host_device.h"

// Lanes as bits of a word: comparisons, choices, and what a loop over few lanes needs. Bit i is
// lane i. Included by kernel files only.
namespace fewstep::vec {
namespace {

#if defined(__AVX512F__)

// Ordered comparisons: a NaN gives 0.
inline uint32_t greater_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
inline uint32_t equal_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
// b where the bit is set, a elsewhere.
inline F32 select_bits(uint32_t bits, F32 a, F32 b) {
  return {_mm512_mask_blend_ps((__mmask16)bits, a.v, b.v)};
}
// The larger of acc and x without its sign, as integers: above 0x7f800000 once a NaN was seen.
inline I32 max_magnitude(I32 acc, F32 x) {
  const __m512i bare = _mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff));
  return {_mm512_max_epi32(acc.v, bare)};
}
inline void store_i32(int32_t* p, I32 a) { _mm512_storeu_si512(p, a.v); }

#elif defined(__AVX2__)

inline uint32_t greater_bits(F32 a, F32 b) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ));
}
inline uint32_t equal_bits(F32 a, F32 b) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ));
}
inline F32 select_bits(uint32_t bits, F32 a, F32 b) {
  const __m256i one = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)bits), one);
  return {_mm256_blendv_ps(a.v, b.v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, one)))};
}
inline I32 max_magnitude(I32 acc, F32 x) {
  const __m256i bare = _mm256_and_si256(_mm256_castps_si256(x.v), _mm256_set1_epi32(0x7fffffff));
  return {_mm256_max_epi32(acc.v, bare)};
}
inline void store_i32(int32_t* p, I32 a) { _mm256_storeu_si256((__m256i*)p, a.v); }

#else

FEWSTEP_HOST_DEVICE inline uint32_t greater_bits(F32 a, F32 b) { return a.v > b.v ? 1u : 0u; }
FEWSTEP_HOST_DEVICE inline uint32_t equal_bits(F32 a, F32 b) { return a.v == b.v ? 1u : 0u; }
FEWSTEP_HOST_DEVICE inline F32 select_bits(uint32_t bits, F32 a, F32 b) {
  return (bits & 1u) ? b : a;
}
FEWSTEP_HOST_DEVICE inline I32 max_magnitude(I32 acc, F32 x) {
  const uint32_t bare = bits(x).v & 0x7fffffffu;
  return {(int32_t)acc.v > (int32_t)bare ? acc.v : bare};
}
FEWSTEP_HOST_DEVICE inline void store_i32(int32_t* p, I32 a) { *p = (int32_t)a.v; }

#endif

constexpr uint32_t kAllLanes = kLanes == 32 ? ~0u : (1u << (kLanes % 32)) - 1u;

// Bits of the first `count` lanes; none for count <= 0.
FEWSTEP_HOST_DEVICE inline uint32_t first_lanes(int64_t count) {
  if (count >= kLanes) return kAllLanes;
  return count <= 0 ? 0u : (1u << count) - 1u;
}

// The largest of `count` floats, a multiple of kLanes.
inline float largest_of(const float* x, int count) {
  F32 m = load(x);
  for (int i = kLanes; i < count; i += kLanes) m = max(m, load(x + i));
  float lanes[kLanes];
  store(lanes, m);
  float best = lanes[0];
  for (int i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

}  // namespace
}  // namespace fewstep::vec
