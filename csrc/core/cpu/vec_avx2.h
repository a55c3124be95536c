// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>
#include <stdint.h>

// AVX2, FMA, F16C. See vec.h; vec_avx512.h has the comments on each function.
namespace fewstep::vec {
namespace {

constexpr int kLanes = 8;

struct F32 {
  __m256 v;
};
struct I32 {
  __m256i v;
};
struct I64 {
  __m256i v;
};

inline F32 set(float x) { return {_mm256_set1_ps(x)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F32 sqrt(F32 a) { return {_mm256_sqrt_ps(a.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline float largest_lane(F32 a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

inline I32 set_i32(int32_t x) { return {_mm256_set1_epi32(x)}; }
inline I32 add(I32 a, I32 b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline I32 sub(I32 a, I32 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
template <int kBits>
inline I32 shift_left(I32 a) {
  return {_mm256_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline I32 shift_right_signed(I32 a) {
  return {_mm256_srai_epi32(a.v, kBits)};
}
inline I32 bits(F32 a) { return {_mm256_castps_si256(a.v)}; }
inline F32 float_of_bits(I32 a) { return {_mm256_castsi256_ps(a.v)}; }
inline F32 to_float(I32 a) { return {_mm256_cvtepi32_ps(a.v)}; }
// Both halves convert exactly, so that the one rounding is the fma's.
inline F32 unsigned_to_float(I32 a) {
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(a.v, 16));
  const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(a.v, _mm256_set1_epi32(0xffff)));
  return {_mm256_fmadd_ps(high, _mm256_set1_ps(65536.0f), low)};
}
inline F32 select(I32 mask, F32 a, F32 b) {
  return {_mm256_blendv_ps(a.v, b.v, _mm256_castsi256_ps(mask.v))};
}
inline F32 flip_sign(F32 a, I32 sign) {
  const __m256i top = _mm256_and_si256(sign.v, _mm256_set1_epi32(INT32_MIN));
  return {_mm256_xor_ps(a.v, _mm256_castsi256_ps(top))};
}

inline I64 set_i64(int64_t x) { return {_mm256_set1_epi64x(x)}; }
inline I64 add(I64 a, I64 b) { return {_mm256_add_epi64(a.v, b.v)}; }
inline I64 mul_low_halves(I64 a, I64 b) { return {_mm256_mul_epu32(a.v, b.v)}; }
inline I64 high_half(I64 a) { return {_mm256_srli_epi64(a.v, 32)}; }
inline I64 exclusive_or(I64 a, I64 b, I64 c) {
  return {_mm256_xor_si256(_mm256_xor_si256(a.v, b.v), c.v)};
}
inline I32 interleave_low_halves(I64 even, I64 odd) {
  return {_mm256_blend_epi32(even.v, _mm256_slli_epi64(odd.v, 32), 0xAA)};
}

inline F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, F32 a) { _mm256_storeu_ps(p, a.v); }
inline void stream(float* p, F32 a) { _mm256_stream_ps(p, a.v); }

inline F32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))};
}
inline __m128i narrow_f16(F32 a) {
  return _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store_f16(uint16_t* p, F32 a) { _mm_storeu_si128((__m128i*)p, narrow_f16(a)); }
inline void stream_f16(uint16_t* p, F32 a) { _mm_stream_si128((__m128i*)p, narrow_f16(a)); }

inline F32 load_bf16(const uint16_t* p) {
  const __m128i h = _mm_loadu_si128((const __m128i*)p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
}
inline __m128i narrow_bf16(F32 a) {
  const __m256i u = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
  r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(nan));
  r = _mm256_srli_epi32(r, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
inline void store_bf16(uint16_t* p, F32 a) { _mm_storeu_si128((__m128i*)p, narrow_bf16(a)); }
inline void stream_bf16(uint16_t* p, F32 a) { _mm_stream_si128((__m128i*)p, narrow_bf16(a)); }

inline F32 load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
}
inline F32 load_e4m3(const uint8_t* p) {
  const __m128i x = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)p)), 7);
  const __m128i half = _mm_and_si128(x, _mm_set1_epi16((int16_t)0xbf80));
  const __m128i rest = _mm_and_si128(x, _mm_set1_epi16(0x3f80));
  const __m128i nan = _mm_cmpeq_epi16(rest, _mm_set1_epi16(0x3f80));
  const __m128i quiet = _mm_and_si128(nan, _mm_set1_epi16(0x7e00));
  return {_mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(half, quiet)), _mm256_set1_ps(256.0f))};
}

inline void stream_fence() { _mm_sfence(); }
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }
// Into the first.
inline void prefetch_first(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

struct F64 {
  __m256d low, high;
};
inline F64 zero_f64() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
inline F64 widen(F32 a) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.v)),
          _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))};
}
inline F64 add(F64 a, F64 b) {
  return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}
inline F64 add_exact_product(F64 a, F64 b, F64 c) {
  return {_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
inline F64 set(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
inline F64 sub(F64 a, F64 b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
inline F64 mul(F64 a, F64 b) {
  return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
inline F64 div(F64 a, F64 b) {
  return {_mm256_div_pd(a.low, b.low), _mm256_div_pd(a.high, b.high)};
}
inline F64 max(F64 a, F64 b) {
  return {_mm256_max_pd(a.low, b.low), _mm256_max_pd(a.high, b.high)};
}
inline F64 load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
inline void store(double* p, F64 a) {
  _mm256_storeu_pd(p, a.low);
  _mm256_storeu_pd(p + 4, a.high);
}

// Lane i of each four, in all four.
template <int i>
inline F32 spread(F32 a) {
  return {_mm256_permute_ps(a.v, i * 0x55)};
}
inline void transpose_quads(F32 z[4]) {
  const __m256 a = _mm256_unpacklo_ps(z[0].v, z[1].v);
  const __m256 b = _mm256_unpackhi_ps(z[0].v, z[1].v);
  const __m256 c = _mm256_unpacklo_ps(z[2].v, z[3].v);
  const __m256 d = _mm256_unpackhi_ps(z[2].v, z[3].v);
  z[0].v = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(c)));
  z[1].v = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(c)));
  z[2].v = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
  z[3].v = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
}
inline void transpose(F32 z[kLanes]) {
  transpose_quads(z);
  transpose_quads(z + 4);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m256 low = _mm256_permute2f128_ps(z[j].v, z[4 + j].v, 0x20);
    z[4 + j].v = _mm256_permute2f128_ps(z[j].v, z[4 + j].v, 0x31);
    z[j].v = low;
  }
}
inline void interleave(float* x) {
  const __m256 even = _mm256_loadu_ps(x), odd = _mm256_loadu_ps(x + 8);
  const __m256 a = _mm256_unpacklo_ps(even, odd), b = _mm256_unpackhi_ps(even, odd);
  _mm256_storeu_ps(x, _mm256_permute2f128_ps(a, b, 0x20));
  _mm256_storeu_ps(x + 8, _mm256_permute2f128_ps(a, b, 0x31));
}
// Lane 4 q + i is block 2 i + q.
inline I64 even_lane_blocks() { return {_mm256_setr_epi64x(0, 4, 1, 5)}; }
inline I64 odd_lane_blocks() { return {_mm256_setr_epi64x(2, 6, 3, 7)}; }

}  // namespace
}  // namespace fewstep::vec
