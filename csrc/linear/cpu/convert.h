// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"
#include "core/dtype.h"

// Runs of floats from and to memory of any floating type. Included by kernel files only.
namespace fewstep::linear {
namespace {

constexpr int kRun = 16;  // a multiple of every ISA's lanes

inline int64_t bytes_of(DType type) { return type == DType::kF32 ? 4 : 2; }

// The 16 elements at p.
inline void widen_run(DType type, const char* p, float* out) {
  for (int i = 0; i < kRun; i += vec::kLanes) {
    if (type == DType::kF32) vec::store(out + i, vec::load((const float*)p + i));
    if (type == DType::kF16) vec::store(out + i, vec::load_f16((const uint16_t*)p + i));
    if (type == DType::kBF16) vec::store(out + i, vec::load_bf16((const uint16_t*)p + i));
  }
}
inline void narrow_run(DType type, const float* in, char* p) {
  for (int i = 0; i < kRun; i += vec::kLanes) {
    const vec::F32 x = vec::load(in + i);
    if (type == DType::kF32) vec::store((float*)p + i, x);
    if (type == DType::kF16) vec::store_f16((uint16_t*)p + i, x);
    if (type == DType::kBF16) vec::store_bf16((uint16_t*)p + i, x);
  }
}

// The same for n elements, which need not fill the last run.
inline void widen(DType type, const char* p, int64_t n, float* out) {
  const int64_t size = bytes_of(type);
  for (; n >= kRun; n -= kRun, p += kRun * size, out += kRun) widen_run(type, p, out);
  if (n == 0) return;
  char edge[4 * kRun] = {};
  float values[kRun];
  memcpy(edge, p, (size_t)(n * size));
  widen_run(type, edge, values);
  memcpy(out, values, (size_t)n * sizeof(float));
}
inline void narrow(DType type, const float* in, int64_t n, char* p) {
  const int64_t size = bytes_of(type);
  for (; n >= kRun; n -= kRun, p += kRun * size, in += kRun) narrow_run(type, in, p);
  if (n == 0) return;
  char edge[4 * kRun];
  float values[kRun] = {};
  memcpy(values, in, (size_t)n * sizeof(float));
  narrow_run(type, values, edge);
  memcpy(p, edge, (size_t)(n * size));
}

}  // namespace
}  // namespace fewstep::linear
