// SPDX-License-Identifier: Apache-2.0
#include "linear/unpack.h"

#include "core/cpu/parallel.h"
#include "linear/cpu/convert.h"

// Requires: packed holds packed_bytes; rows of out contiguous; of an unquantised kind, out has its
// type.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

template <class T>
inline void unpack_elements(const UnpackProblem& p, int64_t o, int pair, const char* panel) {
  T* out = (T*)(p.out + o * p.stride_bytes);
  const T* from = (const T*)panel + o % kPanel * pair;
  for (int64_t i = 0; i < p.I; ++i) out[i] = from[i / pair * pair * kPanel + i % pair];
}

inline void unpack_int8(const UnpackProblem& p, int64_t o, const char* panel) {
  float scale;
  memcpy(&scale, panel + 4 * (o % kPanel), 4);
  float* out = (float*)(p.out + o * p.stride_bytes);
  const int8_t* from = (const int8_t*)panel + head_bytes(Kind::kInt8) + o % kPanel * 2;
  for (int64_t i = 0; i < p.I; ++i) out[i] = scale * (float)from[i / 2 * 2 * kPanel + i % 2];
}

inline void unpack_int4(const UnpackProblem& p, int64_t o, const char* panel) {
  float* out = (float*)(p.out + o * p.stride_bytes);
  const int n = (int)(o % kPanel);
  for (int64_t i = 0; i < p.I; ++i) {
    const char* record = panel + i / p.group * group_bytes(p.group);
    uint16_t stored[kRun] = {};
    float scale[kRun];
    memcpy(stored, record + 2 * n, 2);
    widen_run(DType::kBF16, (const char*)stored, scale);
    const int64_t k = i % p.group;
    const uint8_t both = (uint8_t)record[2 * kPanel + k / 4 * 64 + n % 16 * 4 + k % 4];
    out[i] = scale[0] * (float)((n < 16 ? both & 15 : both >> 4) - 8);
  }
}

void unpack_rows(void* context, int64_t begin, int64_t end) {
  const UnpackProblem& p = *static_cast<const UnpackProblem*>(context);
  for (int64_t o = begin; o < end; ++o) {
    const char* panel = p.packed + o / kPanel * panel_bytes(p.kind, p.I, p.group);
    if (p.kind == Kind::kF32) unpack_elements<uint32_t>(p, o, 1, panel);
    if (p.kind == Kind::kF16) unpack_elements<uint16_t>(p, o, 1, panel);
    if (p.kind == Kind::kBF16) unpack_elements<uint16_t>(p, o, 2, panel);
    if (p.kind == Kind::kInt8) unpack_int8(p, o, panel);
    if (p.kind == Kind::kInt4) unpack_int4(p, o, panel);
  }
}

}  // namespace

void unpack(const UnpackProblem& p) {
  parallel_for(p.threads, p.O, 1 + (1 << 18) / p.I, &unpack_rows, const_cast<UnpackProblem*>(&p));
}

}  // namespace fewstep::linear::FEWSTEP_ISA
