// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/e4m3.h"
#include "core/host_device.h"

// One lane of portable C++, which defines what the vector ISAs and CUDA must give. See vec.h;
// vec_avx512.h has the comments on each function. It has no 64-bit lanes: Philox's scalar form is
// in core/philox.h.
namespace fewstep::vec {
namespace {

constexpr int kLanes = 1;

struct F32 {
  float v;
};
struct I32 {
  uint32_t v;
};

FEWSTEP_HOST_DEVICE inline F32 set(float x) { return {x}; }
FEWSTEP_HOST_DEVICE inline F32 fma(F32 a, F32 b, F32 c) { return {fmaf(a.v, b.v, c.v)}; }
FEWSTEP_HOST_DEVICE inline F32 mul(F32 a, F32 b) { return {a.v * b.v}; }
FEWSTEP_HOST_DEVICE inline F32 add(F32 a, F32 b) { return {a.v + b.v}; }
FEWSTEP_HOST_DEVICE inline F32 sub(F32 a, F32 b) { return {a.v - b.v}; }
FEWSTEP_HOST_DEVICE inline F32 div(F32 a, F32 b) { return {a.v / b.v}; }
FEWSTEP_HOST_DEVICE inline F32 sqrt(F32 a) { return {sqrtf(a.v)}; }
FEWSTEP_HOST_DEVICE inline F32 min(F32 a, F32 b) { return {a.v < b.v ? a.v : b.v}; }
FEWSTEP_HOST_DEVICE inline F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
FEWSTEP_HOST_DEVICE inline float largest_lane(F32 a) { return a.v; }

FEWSTEP_HOST_DEVICE inline I32 set_i32(int32_t x) { return {(uint32_t)x}; }
FEWSTEP_HOST_DEVICE inline I32 add(I32 a, I32 b) { return {a.v + b.v}; }
FEWSTEP_HOST_DEVICE inline I32 sub(I32 a, I32 b) { return {a.v - b.v}; }
template <int kBits>
FEWSTEP_HOST_DEVICE inline I32 shift_left(I32 a) {
  return {a.v << kBits};
}
template <int kBits>
FEWSTEP_HOST_DEVICE inline I32 shift_right_signed(I32 a) {
  return {(uint32_t)((int32_t)a.v >> kBits)};
}
FEWSTEP_HOST_DEVICE inline I32 bits(F32 a) {
  I32 r;
  memcpy(&r.v, &a.v, 4);
  return r;
}
FEWSTEP_HOST_DEVICE inline F32 float_of_bits(I32 a) {
  F32 r;
  memcpy(&r.v, &a.v, 4);
  return r;
}
FEWSTEP_HOST_DEVICE inline F32 to_float(I32 a) { return {(float)(int32_t)a.v}; }
FEWSTEP_HOST_DEVICE inline F32 unsigned_to_float(I32 a) { return {(float)a.v}; }
FEWSTEP_HOST_DEVICE inline F32 select(I32 mask, F32 a, F32 b) {
  return (int32_t)mask.v < 0 ? b : a;
}
FEWSTEP_HOST_DEVICE inline F32 flip_sign(F32 a, I32 sign) {
  return float_of_bits({bits(a).v ^ (sign.v & 0x80000000u)});
}

FEWSTEP_HOST_DEVICE inline F32 load(const float* p) { return {*p}; }
FEWSTEP_HOST_DEVICE inline void store(float* p, F32 a) { *p = a.v; }
FEWSTEP_HOST_DEVICE inline void stream(float* p, F32 a) { *p = a.v; }

FEWSTEP_HOST_DEVICE inline F32 load_f16(const uint16_t* p) {
  const uint32_t h = *p, sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) {  // infinity, or a NaN made quiet
    return float_of_bits({sign | 0x7f800000u | (rest << 13) | (rest > 0x7c00u ? 0x400000u : 0u)});
  }
  // A subnormal half is its mantissa times 2^-24; both branches are exact.
  if (rest < 0x400u) return float_of_bits({bits({(float)rest * 0x1p-24f}).v | sign});
  return float_of_bits({sign | ((rest << 13) + (112u << 23))});
}
FEWSTEP_HOST_DEVICE inline uint16_t narrow_f16(F32 a) {
  const uint32_t u = bits(a).v, sign = (u >> 16) & 0x8000u, rest = u & 0x7fffffffu;
  if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((rest >> 13) & 0x3ffu));
  if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);  // 65520 and more round to infinity
  if (rest < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 puts the unit in the last place at 2^-24, and the
    // addition rounds to nearest even.
    const F32 r = add(float_of_bits({rest}), set(0.5f));
    return (uint16_t)(sign | (bits(r).v - 0x3f000000u));
  }
  const uint32_t odd = (rest >> 13) & 1u;
  return (uint16_t)(sign | ((rest - (112u << 23) + 0xfffu + odd) >> 13));
}
FEWSTEP_HOST_DEVICE inline void store_f16(uint16_t* p, F32 a) { *p = narrow_f16(a); }
FEWSTEP_HOST_DEVICE inline void stream_f16(uint16_t* p, F32 a) { *p = narrow_f16(a); }

FEWSTEP_HOST_DEVICE inline F32 load_bf16(const uint16_t* p) {
  return float_of_bits({(uint32_t)*p << 16});
}
FEWSTEP_HOST_DEVICE inline uint16_t narrow_bf16(F32 a) {
  const uint32_t u = bits(a).v;
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
FEWSTEP_HOST_DEVICE inline void store_bf16(uint16_t* p, F32 a) { *p = narrow_bf16(a); }
FEWSTEP_HOST_DEVICE inline void stream_bf16(uint16_t* p, F32 a) { *p = narrow_bf16(a); }

FEWSTEP_HOST_DEVICE inline F32 load_i8(const int8_t* p) { return {(float)*p}; }
FEWSTEP_HOST_DEVICE inline F32 load_e4m3(const uint8_t* p) { return {widen_e4m3(*p)}; }

FEWSTEP_HOST_DEVICE inline void stream_fence() {}
FEWSTEP_HOST_DEVICE inline void prefetch(const void*) {}
FEWSTEP_HOST_DEVICE inline void prefetch_first(const void*) {}
FEWSTEP_HOST_DEVICE inline void transpose(F32*) {}
FEWSTEP_HOST_DEVICE inline void transpose_quads(F32*) {}

struct F64 {
  double v;
};
FEWSTEP_HOST_DEVICE inline F64 zero_f64() { return {0.0}; }
FEWSTEP_HOST_DEVICE inline F64 widen(F32 a) { return {(double)a.v}; }
FEWSTEP_HOST_DEVICE inline F64 add(F64 a, F64 b) { return {a.v + b.v}; }
FEWSTEP_HOST_DEVICE inline F64 add_exact_product(F64 a, F64 b, F64 c) {
#if defined(__CUDA_ARCH__)
  return {__fma_rn(a.v, b.v, c.v)};
#else
  return {a.v * b.v + c.v};
#endif
}
FEWSTEP_HOST_DEVICE inline F64 set(double x) { return {x}; }
FEWSTEP_HOST_DEVICE inline F64 sub(F64 a, F64 b) { return {a.v - b.v}; }
FEWSTEP_HOST_DEVICE inline F64 mul(F64 a, F64 b) { return {a.v * b.v}; }
FEWSTEP_HOST_DEVICE inline F64 div(F64 a, F64 b) { return {a.v / b.v}; }
FEWSTEP_HOST_DEVICE inline F64 max(F64 a, F64 b) { return {a.v > b.v ? a.v : b.v}; }
FEWSTEP_HOST_DEVICE inline F64 load(const double* p) { return {*p}; }
FEWSTEP_HOST_DEVICE inline void store(double* p, F64 a) { *p = a.v; }

}  // namespace
}  // namespace fewstep::vec
