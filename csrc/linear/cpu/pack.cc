// SPDX-License-Identifier: Apache-2.0
#include "linear/pack.h"

#include <math.h>

#include "core/cpu/parallel.h"
#include "linear/cpu/convert.h"

// Work is panel by panel, so that threads write apart. Within a panel, runs of inputs of all its 32
// outputs: what is written at one time fits the first cache.
//
// Requires: sizes as packed_bytes says; rows contiguous.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

constexpr int kInputs = 64;  // inputs at a time: a multiple of every step and group

inline uint16_t to_bf16(float x) {
  float run[kRun] = {x};
  uint16_t out[kRun];
  narrow_run(DType::kBF16, run, (char*)out);
  return out[0];
}
inline float of_bf16(uint16_t x) {
  const uint16_t run[kRun] = {x};
  float out[kRun];
  widen_run(DType::kBF16, (const char*)run, out);
  return out[0];
}

// Weights i .. i + kInputs of output o as floats, zeros where there are none.
inline void read_weights(const PackProblem& p, int64_t o, int64_t i, float* out) {
  const int64_t left = o < p.O ? p.I - i : 0;
  const int64_t n = left < 0 ? 0 : left < kInputs ? left : kInputs;
  const char* row = p.weight + (o < p.O ? o : 0) * p.stride_bytes;
  widen(p.type, row + i * bytes_of(p.type), n, out);
  for (int64_t k = n; k < kInputs; ++k) out[k] = 0.0f;
}

// One panel of 16-bit or 32-bit elements, `pair` of them side by side.
template <class T>
inline void pack_elements(const PackProblem& p, int64_t first, int pair, char* panel) {
  const DType stored = p.kind == Kind::kF32   ? DType::kF32
                       : p.kind == Kind::kF16 ? DType::kF16
                                              : DType::kBF16;
  const int64_t inputs = padded_inputs(p.kind, p.I, p.group);
  for (int64_t i = 0; i < inputs; i += kInputs) {
    const int64_t count = inputs - i < kInputs ? inputs - i : kInputs;
    T* to = (T*)panel + i * kPanel;
    for (int o = 0; o < kPanel; ++o) {
      // Room for float32 whatever T is: narrow() is compiled for every type.
      char values[kInputs * sizeof(float)] = {};
      const int64_t left = p.I - i < kInputs ? p.I - i : kInputs;
      if (p.type == stored && first + o < p.O) {  // every bit, NaN's too
        memcpy(values, p.weight + (first + o) * p.stride_bytes + i * (int64_t)sizeof(T),
               (size_t)left * sizeof(T));
      } else {
        float wide[kInputs];
        read_weights(p, first + o, i, wide);
        narrow(stored, wide, kInputs, values);
      }
      for (int64_t k = 0; k < count; ++k) {
        memcpy(to + (k / pair * kPanel + o) * pair + k % pair, values + k * (int64_t)sizeof(T),
               sizeof(T));
      }
    }
  }
}

inline float clamp_round(float x, float low, float high) {
  const float r = nearbyintf(x);
  return r >= low ? (r <= high ? r : high) : low;  // NaN: low
}

inline void pack_int8(const PackProblem& p, int64_t first, char* panel) {
  const int64_t inputs = padded_inputs(p.kind, p.I, p.group);
  for (int o = 0; o < kPanel; ++o) {
    float w[kInputs], largest = 0.0f;
    for (int64_t i = 0; i < p.I; i += kInputs) {
      read_weights(p, first + o, i, w);
      for (int k = 0; k < kInputs; ++k) {
        const float m = fabsf(w[k]);
        largest = m <= largest ? largest : m;  // NaN stays
        if (largest != largest) break;
      }
      if (largest != largest) break;
    }
    const float scale = largest / 127.0f;
    memcpy(panel + 4 * o, &scale, 4);
    int8_t* to = (int8_t*)panel + head_bytes(Kind::kInt8);
    for (int64_t i = 0; i < inputs; i += kInputs) {
      read_weights(p, first + o, i, w);
      for (int k = 0; k < kInputs && i + k < inputs; ++k) {
        const float q = scale > 0.0f ? clamp_round(w[k] / scale, -127.0f, 127.0f) : 0.0f;
        to[((i + k) / 2 * kPanel + o) * 2 + k % 2] = (int8_t)q;
      }
    }
  }
}

// The scale is the weight of largest magnitude, with its sign, over -8: all 16 values are in use.
inline void pack_int4(const PackProblem& p, int64_t first, char* panel) {
  const int64_t groups = padded_inputs(p.kind, p.I, p.group) / p.group;
  for (int64_t g = 0; g < groups; ++g) {
    char* record = panel + g * group_bytes(p.group);
    uint8_t* to = (uint8_t*)record + 2 * kPanel;
    memset(to, 0, (size_t)(group_bytes(p.group) - 2 * kPanel));
    for (int o = 0; o < kPanel; ++o) {
      float w[kInputs], largest = 0.0f;
      read_weights(p, first + o, g * p.group, w);
      for (int k = 0; k < p.group; ++k) {
        if (!(fabsf(w[k]) <= fabsf(largest))) largest = w[k];
        if (largest != largest) break;
      }
      const uint16_t stored = to_bf16(largest / -8.0f);
      const float scale = of_bf16(stored);
      memcpy(record + 2 * o, &stored, 2);
      for (int k = 0; k < p.group; ++k) {
        const float q = scale != 0.0f ? clamp_round(w[k] / scale, -8.0f, 7.0f) : 0.0f;
        const int nibble = (int)q + 8;
        to[k / 4 * 64 + o % 16 * 4 + k % 4] |= (uint8_t)(o < 16 ? nibble : nibble << 4);
      }
    }
  }
}

void pack_panels(void* context, int64_t begin, int64_t end) {
  const PackProblem& p = *static_cast<const PackProblem*>(context);
  const int64_t bytes = panel_bytes(p.kind, p.I, p.group);
  for (int64_t n = begin; n < end; ++n) {
    char* panel = p.out + n * bytes;
    const int64_t first = n * kPanel;
    if (p.kind == Kind::kF32) pack_elements<uint32_t>(p, first, 1, panel);
    if (p.kind == Kind::kF16) pack_elements<uint16_t>(p, first, 1, panel);
    if (p.kind == Kind::kBF16) pack_elements<uint16_t>(p, first, 2, panel);
    if (p.kind == Kind::kInt8) pack_int8(p, first, panel);
    if (p.kind == Kind::kInt4) pack_int4(p, first, panel);
  }
}

}  // namespace

void pack(const PackProblem& p) {
  parallel_for(p.threads, ceil_div(p.O, kPanel), 1 + (1 << 18) / (kPanel * p.I), &pack_panels,
               const_cast<PackProblem*>(&p));
}

}  // namespace fewstep::linear::FEWSTEP_ISA
