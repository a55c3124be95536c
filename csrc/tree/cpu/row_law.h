// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/cpu/exp.h"
#include "core/cpu/lanes.h"
#include "core/cpu/vec.h"
#include "core/dtype.h"

// softmax(logits / temperature) of a row, in one pass and in an order that no ISA changes: chunks
// of 512 logits, a chunk's exponentials in 16 lanes of float32 (element n to lane n % 16), lanes
// and chunks in float64.
namespace fewstep::tree {
namespace {

constexpr int kLawLanes = 16;
constexpr int kLawChunk = 512;
constexpr int kLawGroup = 64;  // has a maximum of its own, by which most are passed over
constexpr int kLawGroups = kLawChunk / kLawGroup;
constexpr int kLawVectors = kLawLanes / vec::kLanes;

struct RowLogits {
  const char* data;
  DType dtype;
  int64_t V;
  float scale;  // 1 / temperature
};

// Elements [begin, begin + 512) as scaled float32; -infinity behind the row's end.
inline void load_chunk(const RowLogits& row, int64_t begin, float* x) {
  const int64_t count = row.V - begin < kLawChunk ? row.V - begin : kLawChunk;
  const vec::F32 scale = vec::set(row.scale);
  int64_t i = 0;
  if (row.dtype == DType::kF32) {
    const float* from = (const float*)row.data + begin;
    for (; i + vec::kLanes <= count; i += vec::kLanes) {
      vec::store(x + i, vec::mul(vec::load(from + i), scale));
    }
    for (; i < count; ++i) x[i] = from[i] * row.scale;
  } else {
    const uint16_t* from = (const uint16_t*)row.data + begin;
    const bool half = row.dtype == DType::kF16;
    for (; i + vec::kLanes <= count; i += vec::kLanes) {
      const vec::F32 v = half ? vec::load_f16(from + i) : vec::load_bf16(from + i);
      vec::store(x + i, vec::mul(v, scale));
    }
    if (i < count) {  // the last few by way of a whole vector
      uint16_t rest[kLawLanes] = {};
      for (int64_t j = i; j < count; ++j) rest[j - i] = from[j];
      const vec::F32 v = half ? vec::load_f16(rest) : vec::load_bf16(rest);
      vec::store(x + i, vec::mul(v, scale));
      i = count;
    }
  }
  for (; i < kLawChunk; ++i) x[i] = -INFINITY;
}

// The weights exp(x - top) of a chunk, into w where that is not null, and their sum.
inline double chunk_weights(const float* x, float top, float* w) {
  vec::F32 sums[kLawVectors];
  for (int v = 0; v < kLawVectors; ++v) sums[v] = vec::set(0.0f);
  for (int i = 0; i < kLawChunk; i += kLawLanes) {
    for (int v = 0; v < kLawVectors; ++v) {
      const int at = i + v * vec::kLanes;
      const vec::F32 e = vec::exp_below_88(vec::sub(vec::load(x + at), vec::set(top)));
      if (w) vec::store(w + at, e);
      sums[v] = vec::add(sums[v], e);
    }
  }
  float lanes[kLawLanes];
  for (int v = 0; v < kLawVectors; ++v) vec::store(lanes + v * vec::kLanes, sums[v]);
  double total = 0.0;
  for (int i = 0; i < kLawLanes; ++i) total += (double)lanes[i];
  return total;
}

// The k greatest, descending; of equal ones the lower id first.
struct Best {
  float* value;
  int32_t* id;
  int k, count;

  float least() const { return count < k ? -INFINITY : value[k - 1]; }
  void offer(float x, int32_t at) {
    if (!(x > least())) return;
    int i = count < k ? count++ : k - 1;
    for (; i > 0 && x > value[i - 1]; --i) {
      value[i] = value[i - 1];
      id[i] = id[i - 1];
    }
    value[i] = x;
    id[i] = at;
  }
  // Of 512 values from `begin` on.
  void offer_chunk(const float* x, int64_t begin) {
    for (int g = 0; g < kLawGroups; ++g) {
      const float* group = x + g * kLawGroup;
      if (!(vec::largest_of(group, kLawGroup) > least())) continue;
      for (int i = 0; i < kLawGroup; ++i) offer(group[i], (int32_t)(begin + g * kLawGroup + i));
    }
  }
};

// top is the greatest scaled logit, sum that of exp(x - top): a token has probability exp(x - top)
// / sum. A row without a law (a NaN, +infinity, nothing above -infinity) has the sum NaN.
struct Law {
  float top;
  double sum;
  bool valid() const { return sum > 0.0; }
  double log_total() const { return (double)top + log(sum); }
};

inline Law law_of(const RowLogits& row, Best* best) {
  alignas(64) float x[kLawChunk];
  Law law = {-INFINITY, 0.0};
  for (int64_t begin = 0; begin < row.V; begin += kLawChunk) {
    load_chunk(row, begin, x);
    const float top = vec::largest_of(x, kLawChunk);
    if (top == -INFINITY) {  // no weight, unless max passed over a NaN
      for (int i = 0; i < kLawChunk; ++i) {
        if (x[i] != x[i]) law.sum = NAN;
      }
      continue;
    }
    if (top > law.top) {
      law.sum *= (double)vec::exp_of(law.top - top);
      law.top = top;
    }
    law.sum += chunk_weights(x, law.top, nullptr);
    if (best) best->offer_chunk(x, begin);
  }
  if (law.top == -INFINITY) law.sum = NAN;
  return law;
}

}  // namespace
}  // namespace fewstep::tree
