// SPDX-License-Identifier: Apache-2.0
#include "linear/unpack.h"

#include "core/cpu/parallel.h"
#include "linear/cpu/convert.h"

// Requires: packed holds packed_bytes, and the outputs that index names; rows of out contiguous; of
// an unquantised kind, out has its type.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

template <class T>
inline void unpack_elements(const UnpackProblem& p, int lane, int pair, const char* panel, T* out) {
  const T* from = (const T*)panel + lane * pair;
  for (int64_t i = 0; i < p.I; ++i) out[i] = from[i / pair * pair * kPanel + i % pair];
}

// Writes value(i) of each input, rounded to the output's type.
template <class Value>
inline void unpack_values(const UnpackProblem& p, const Value& value, char* out) {
  float run[kRun];
  for (int64_t i = 0; i < p.I; i += kRun) {
    const int64_t n = p.I - i < kRun ? p.I - i : kRun;
    for (int64_t k = 0; k < n; ++k) run[k] = value(i + k);
    narrow(p.type, run, n, out + i * bytes_of(p.type));
  }
}

inline void unpack_int8(const UnpackProblem& p, int lane, const char* panel, char* out) {
  float scale;
  memcpy(&scale, panel + 4 * lane, 4);
  const int8_t* from = (const int8_t*)panel + head_bytes(Kind::kInt8) + lane * 2;
  unpack_values(p, [&](int64_t i) { return scale * (float)from[i / 2 * 2 * kPanel + i % 2]; }, out);
}

inline void unpack_int4(const UnpackProblem& p, int lane, const char* panel, char* out) {
  const auto value = [&](int64_t i) {
    const char* record = panel + i / p.group * group_bytes(p.group);
    uint16_t stored[kRun] = {};
    float scale[kRun];
    memcpy(stored, record + 2 * lane, 2);
    widen_run(DType::kBF16, (const char*)stored, scale);
    const int64_t k = i % p.group;
    const uint8_t both = (uint8_t)record[2 * kPanel + k / 4 * 64 + lane % 16 * 4 + k % 4];
    return scale[0] * (float)((lane < 16 ? both & 15 : both >> 4) - 8);
  };
  unpack_values(p, value, out);
}

void unpack_rows(void* context, int64_t begin, int64_t end) {
  const UnpackProblem& p = *static_cast<const UnpackProblem*>(context);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t o = p.index ? p.index[n * p.index_stride] : n;
    const char* panel = p.packed + o / kPanel * panel_bytes(p.kind, p.I, p.group);
    char* out = p.out + n * p.stride_bytes;
    const int lane = (int)(o % kPanel);
    if (p.kind == Kind::kF32) unpack_elements(p, lane, 1, panel, (uint32_t*)out);
    if (p.kind == Kind::kF16) unpack_elements(p, lane, 1, panel, (uint16_t*)out);
    if (p.kind == Kind::kBF16) unpack_elements(p, lane, 2, panel, (uint16_t*)out);
    if (p.kind == Kind::kInt8) unpack_int8(p, lane, panel, out);
    if (p.kind == Kind::kInt4) unpack_int4(p, lane, panel, out);
  }
}

}  // namespace

void unpack(const UnpackProblem& p) {
  parallel_for(p.threads, p.O, 1 + (1 << 18) / p.I, &unpack_rows, const_cast<UnpackProblem*>(&p));
}

}  // namespace fewstep::linear::FEWSTEP_ISA
