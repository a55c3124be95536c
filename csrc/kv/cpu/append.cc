// SPDX-License-Identifier: Apache-2.0
#include "kv/append.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/cpu/parallel.h"
#include "core/cpu/vec.h"
#include "core/scaled_bytes.h"

// One head at a time: into floats on the stack, turned, and out in the cache's type; rows that are
// neither turned nor converted are copied. Requires: every slot and position in range; nothing
// overlaps; D <= kMaxHeadDim.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

constexpr int64_t kGrainBytes = 65536;  // of rows per thread, some 10 us

// f(full vectors), then once more on a copy of what is left.
template <class Load, class T>
inline void load_head(const T* p, int64_t D, float* x, const Load& load) {
  int64_t d = 0;
  for (; d + vec::kLanes <= D; d += vec::kLanes) vec::store(x + d, load(p + d));
  if (d == D) return;
  T rest[vec::kLanes] = {};
  float wide[vec::kLanes];
  memcpy(rest, p + d, size_t(D - d) * sizeof(T));
  vec::store(wide, load(rest));
  memcpy(x + d, wide, size_t(D - d) * sizeof(float));
}

template <class Store, class T>
inline void store_head(T* p, int64_t D, const float* x, const Store& store) {
  int64_t d = 0;
  for (; d + vec::kLanes <= D; d += vec::kLanes) store(p + d, vec::load(x + d));
  if (d == D) return;
  T rest[vec::kLanes];
  float wide[vec::kLanes] = {};
  memcpy(wide, x + d, size_t(D - d) * sizeof(float));
  store(rest, vec::load(wide));
  memcpy(p + d, rest, size_t(D - d) * sizeof(T));
}

void load_floats(const char* p, DType type, int64_t D, float* x) {
  if (type == DType::kF32) {
    memcpy(x, p, size_t(D) * sizeof(float));
  } else if (type == DType::kBF16) {
    load_head((const uint16_t*)p, D, x, [](const uint16_t* q) { return vec::load_bf16(q); });
  } else {
    load_head((const uint16_t*)p, D, x, [](const uint16_t* q) { return vec::load_f16(q); });
  }
}

inline uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}

// Scaled bytes of a head; returns the scale.
template <DType kType>
float store_bytes(uint8_t* __restrict p, int64_t D, const float* __restrict x) {
  uint32_t largest = 0;  // magnitudes compare as their bits do
  for (int64_t d = 0; d < D; ++d) {
    const uint32_t u = bits_of(x[d]) & 0x7fffffffu;
    largest = u > largest ? u : largest;
  }
  float m;
  memcpy(&m, &largest, sizeof m);
  if (largest >= 0x7f800000u || m <= 0x1p-100f) {
    memset(p, 0, size_t(D));
    return largest >= 0x7f800000u ? NAN : 0.0f;
  }
  const float inverse = largest_number(kType) / m;
  for (int64_t d = 0; d < D; ++d) p[d] = byte_of(kType, x[d], inverse);
  return m / largest_number(kType);
}

void turn_neox(float* __restrict x, float* __restrict y, const float* __restrict cos,
               const float* __restrict sin, int64_t pairs) {
  for (int64_t j = 0; j < pairs; ++j) {
    const float a = x[j], b = y[j];
    x[j] = fmaf(a, cos[j], -(b * sin[j]));
    y[j] = fmaf(b, cos[j], a * sin[j]);
  }
}

void turn_gptj(float* __restrict x, const float* __restrict cos, const float* __restrict sin,
               int64_t pairs) {
  for (int64_t j = 0; j < pairs; ++j) {
    const float a = x[2 * j], b = x[2 * j + 1];
    x[2 * j] = fmaf(a, cos[j], -(b * sin[j]));
    x[2 * j + 1] = fmaf(b, cos[j], a * sin[j]);
  }
}

// What is done to the heads of a row on their way.
struct Change {
  HeadNorm norm;
  int32_t rope;  // 0: none
  int64_t pairs;
  const float *cos, *sin;
};

// As linear.run norms its rows: element d is summed in lane d % 16, the lanes as a tree.
void norm_head(const HeadNorm& norm, int64_t D, float* __restrict x) {
  constexpr int kSums = 16;
  alignas(64) float weight[kMaxHeadDim];
  float sums[kSums] = {};
  for (int64_t d = 0; d < D; d += kSums) {
    for (int k = 0; k < kSums; ++k) sums[k] = fmaf(x[d + k], x[d + k], sums[k]);
  }
  for (int half = kSums / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  }
  const float inverse = 1.0f / sqrtf(sums[0] / (float)D + norm.eps);
  load_floats(norm.weight, norm.type, D, weight);
  for (int64_t d = 0; d < D; ++d) x[d] = x[d] * inverse * weight[d];
}

void load_changed(const char* p, DType type, int64_t D, const Change& change, float* x) {
  load_floats(p, type, D, x);
  if (change.norm.weight) norm_head(change.norm, D, x);
  if (change.rope == 1) turn_neox(x, x + change.pairs, change.cos, change.sin, change.pairs);
  if (change.rope == 2) turn_gptj(x, change.cos, change.sin, change.pairs);
}

void store_floats(char* p, DType type, int64_t D, const float* x) {
  if (type == DType::kF32) {
    memcpy(p, x, size_t(D) * sizeof(float));
  } else if (type == DType::kBF16) {
    store_head((uint16_t*)p, D, x, [](uint16_t* q, vec::F32 a) { vec::store_bf16(q, a); });
  } else {
    store_head((uint16_t*)p, D, x, [](uint16_t* q, vec::F32 a) { vec::store_f16(q, a); });
  }
}

void turn_queries(const AppendProblem& p, int64_t n, const Change& change) {
  alignas(64) float x[kMaxHeadDim];
  for (int64_t h = 0; h < p.q.H; ++h) {
    char* head = p.q.rows + n * p.q.row + h * p.q.head;
    load_changed(head, p.in, p.D, change, x);
    store_floats(head, p.in, p.D, x);
  }
}

void put_row(const AppendProblem& p, const AppendRows& r, int64_t n, int64_t b, int64_t slot,
             const Change& change) {
  const char* from = r.rows + n * r.row;
  char* to = r.cache.data + offset_of(p.pages, r.cache, b, slot);
  const int64_t bytes = p.D * p.out_bytes;
  if (p.in == p.out && !change.rope && !change.norm.weight) {
    if (r.head == bytes && r.cache.head == bytes) {
      memcpy(to, from, size_t(p.G * bytes));
      return;
    }
    for (int64_t g = 0; g < p.G; ++g) {
      memcpy(to + g * r.cache.head, from + g * r.head, size_t(bytes));
    }
    return;
  }
  alignas(64) float x[kMaxHeadDim];
  for (int64_t g = 0; g < p.G; ++g) {
    load_changed(from + g * r.head, p.in, p.D, change, x);
    char* head = to + g * r.cache.head;
    if (!r.scale.data) {
      store_floats(head, p.out, p.D, x);
    } else {
      const float scale = p.out == DType::kI8 ? store_bytes<DType::kI8>((uint8_t*)head, p.D, x)
                                              : store_bytes<DType::kE4M3>((uint8_t*)head, p.D, x);
      char* target = r.scale.data + offset_of(p.pages, r.scale, b, slot) + g * r.scale.head;
      memcpy(target, &scale, sizeof scale);
    }
  }
}

void put_rows(void* context, int64_t begin, int64_t end) {
  const AppendProblem& p = *(const AppendProblem*)context;
  int64_t b = 0;
  for (int64_t n = begin; n < end; ++n) {
    while (at(p.indptr, b + 1) <= n) ++b;
    const int64_t slot = at(p.length, b) + (n - at(p.indptr, b));
    Change change{p.k_norm, p.rope, p.pairs, nullptr, nullptr};
    if (p.rope) {
      const int64_t position = p.positions.data ? at(p.positions, n) : slot;
      change.cos = p.cos + position * p.cos_stride;
      change.sin = p.sin + position * p.sin_stride;
    }
    put_row(p, p.k, n, b, slot, change);
    change.norm = p.q.norm;
    if (p.q.rows) turn_queries(p, n, change);
    put_row(p, p.v, n, b, slot, Change{});
  }
}

}  // namespace

void append(const AppendProblem& p) {
  const int64_t row = 2 * p.D * (p.G * (p.in_bytes + p.out_bytes) + p.q.H * p.in_bytes);
  const int64_t grain = row < kGrainBytes ? kGrainBytes / row : 1;
  parallel_for(p.threads, p.N, grain, &put_rows, (void*)&p);
}

}  // namespace fewstep::kv::FEWSTEP_ISA
