// SPDX-License-Identifier: Apache-2.0
#pragma once

// GCC 12 takes the "undefined" operands of its own AVX-512 intrinsics for a mistake (PR 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#include <stdint.h>

// AVX-512 F, BW, VL, DQ. See vec.h.
namespace fewstep::vec {
namespace {

constexpr int kLanes = 16;

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};
// kLanes / 2 lanes of 64 bits.
struct I64 {
  __m512i v;
};

inline F32 set(float x) { return {_mm512_set1_ps(x)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
// A NaN in the second operand stays.
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline float largest_lane(F32 a) { return _mm512_reduce_max_ps(a.v); }

inline I32 set_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I32 add(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 sub(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
template <int kBits>
inline I32 shift_left(I32 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline I32 shift_right_signed(I32 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
inline I32 bits(F32 a) { return {_mm512_castps_si512(a.v)}; }
inline F32 float_of_bits(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
// Nearest float of a signed / an unsigned integer, ties to even.
inline F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline F32 unsigned_to_float(I32 a) { return {_mm512_cvtepu32_ps(a.v)}; }
// b where the top bit of mask is set, a elsewhere.
inline F32 select(I32 mask, F32 a, F32 b) {
  return {_mm512_mask_blend_ps(_mm512_movepi32_mask(mask.v), a.v, b.v)};
}
// a, negated where the top bit of sign is set.
inline F32 flip_sign(F32 a, I32 sign) {
  const __m512i top = _mm512_set1_epi32(INT32_MIN);
  // a ^ (sign & top)
  return {
      _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a.v), sign.v, top, 0x78))};
}

inline I64 set_i64(int64_t x) { return {_mm512_set1_epi64(x)}; }
inline I64 add(I64 a, I64 b) { return {_mm512_add_epi64(a.v, b.v)}; }
// Product of the low halves.
inline I64 mul_low_halves(I64 a, I64 b) { return {_mm512_mul_epu32(a.v, b.v)}; }
inline I64 high_half(I64 a) { return {_mm512_srli_epi64(a.v, 32)}; }
inline I64 exclusive_or(I64 a, I64 b, I64 c) {
  return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)};
}
// Lane 2 i from the low half of even's lane i, lane 2 i + 1 from that of odd's.
inline I32 interleave_low_halves(I64 even, I64 odd) {
  return {_mm512_mask_shuffle_epi32(even.v, 0xAAAA, odd.v, _MM_PERM_CCAA)};
}

inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline void stream(float* p, F32 a) { _mm512_stream_ps(p, a.v); }

inline F32 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))};
}
inline __m256i narrow_f16(F32 a) {
  return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store_f16(uint16_t* p, F32 a) { _mm256_storeu_si256((__m256i*)p, narrow_f16(a)); }
inline void stream_f16(uint16_t* p, F32 a) { _mm256_stream_si256((__m256i*)p, narrow_f16(a)); }

inline F32 load_bf16(const uint16_t* p) {
  const __m256i h = _mm256_loadu_si256((const __m256i*)p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
// Not vcvtneps2bf16: that flushes subnormals, which the other ISAs keep.
inline __m256i narrow_bf16(F32 a) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
inline void store_bf16(uint16_t* p, F32 a) { _mm256_storeu_si256((__m256i*)p, narrow_bf16(a)); }
inline void stream_bf16(uint16_t* p, F32 a) { _mm256_stream_si256((__m256i*)p, narrow_bf16(a)); }

inline F32 load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
// Of core/e4m3.h, by way of float16, which has the exponent's bits too, with a bias more by 8.
inline F32 load_e4m3(const uint8_t* p) {
  const __m256i x = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)), 7);
  const __m256i half = _mm256_and_si256(x, _mm256_set1_epi16((int16_t)0xbf80));
  const __m256i rest = _mm256_and_si256(x, _mm256_set1_epi16(0x3f80));
  const __m256i nan = _mm256_cmpeq_epi16(rest, _mm256_set1_epi16(0x3f80));
  const __m256i quiet = _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00));
  return {_mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(half, quiet)), _mm512_set1_ps(256.0f))};
}

inline void stream_fence() { _mm_sfence(); }
// Into the second-level cache: asking the first for more than it holds costs a third of the
// bandwidth on Zen 4.
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }
// Into the first.
inline void prefetch_first(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// kLanes doubles.
struct F64 {
  __m512d low, high;
};
inline F64 zero_f64() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
inline F64 widen(F32 a) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v)),
          _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))};
}
inline F64 add(F64 a, F64 b) {
  return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
}
// a * b + c where the product is exact, as that of two widened floats is: fused or not, the sum is
// rounded once.
inline F64 add_exact_product(F64 a, F64 b, F64 c) {
  return {_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
}
inline F64 set(double x) { return {_mm512_set1_pd(x), _mm512_set1_pd(x)}; }
inline F64 sub(F64 a, F64 b) {
  return {_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)};
}
inline F64 mul(F64 a, F64 b) {
  return {_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)};
}
inline F64 div(F64 a, F64 b) {
  return {_mm512_div_pd(a.low, b.low), _mm512_div_pd(a.high, b.high)};
}
inline F64 max(F64 a, F64 b) {
  return {_mm512_max_pd(a.low, b.low), _mm512_max_pd(a.high, b.high)};
}
inline F64 load(const double* p) { return {_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)}; }
inline void store(double* p, F64 a) {
  _mm512_storeu_pd(p, a.low);
  _mm512_storeu_pd(p + 8, a.high);
}

// Transposes each group of four lanes over the four vectors: lane 4 q + j of row i becomes lane
// 4 q + i of row j.
inline void transpose_quads(F32 z[4]) {
  const __m512 a = _mm512_unpacklo_ps(z[0].v, z[1].v);
  const __m512 b = _mm512_unpackhi_ps(z[0].v, z[1].v);
  const __m512 c = _mm512_unpacklo_ps(z[2].v, z[3].v);
  const __m512 d = _mm512_unpackhi_ps(z[2].v, z[3].v);
  z[0].v = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
  z[1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
  z[2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
  z[3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
}
// Lane i of each four, in all four.
template <int i>
inline F32 spread(F32 a) {
  return {_mm512_permute_ps(a.v, i * 0x55)};
}
// Transposes kLanes vectors of kLanes lanes.
inline void transpose(F32 z[kLanes]) {
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) transpose_quads(z + i);
  // Block q of vector 4 b + j holds lanes 4 b .. 4 b + 3 of what becomes row 4 q + j.
  __m512 r[kLanes];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(z[j].v, z[4 + j].v, 0x44);
    const __m512 b = _mm512_shuffle_f32x4(z[j].v, z[4 + j].v, 0xee);
    const __m512 c = _mm512_shuffle_f32x4(z[8 + j].v, z[12 + j].v, 0x44);
    const __m512 d = _mm512_shuffle_f32x4(z[8 + j].v, z[12 + j].v, 0xee);
    r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
    r[4 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[8 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
    r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) z[i].v = r[i];
}
// Puts lane i of the vector at x and of that behind it at x + 2 i.
inline void interleave(float* x) {
  const __m512 even = _mm512_loadu_ps(x), odd = _mm512_loadu_ps(x + 16);
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  _mm512_storeu_ps(x, _mm512_permutex2var_ps(even, low, odd));
  _mm512_storeu_ps(x + 16, _mm512_permutex2var_ps(even, high, odd));
}
// After transpose_quads, lane group q of vector i holds what lane 4 q + i held. Numbering lane
// 4 q + i as block 4 i + q puts the blocks in order: these are the numbers of the even and odd
// lanes.
inline I64 even_lane_blocks() { return {_mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11)}; }
inline I64 odd_lane_blocks() { return {_mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15)}; }

}  // namespace
}  // namespace fewstep::vec
