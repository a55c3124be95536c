// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/cpu/exp.h"
#include "core/cpu/lanes.h"
#include "core/cpu/vec.h"
#include "logits/row.h"

// Blocks of a row of logits as floats. Included by kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

constexpr int kBlock = 1024;  // tokens; 4 KB of floats stay in the first cache
constexpr float kMinusInfinity = -__builtin_inff();

inline vec::F32 load_logits(const void* logits, DType dtype, int64_t at) {
  if (dtype == DType::kF32) return vec::load((const float*)logits + at);
  if (dtype == DType::kF16) return vec::load_f16((const uint16_t*)logits + at);
  return vec::load_bf16((const uint16_t*)logits + at);
}

// One logit, through the vector's own conversions.
inline float logit_at(const void* logits, DType dtype, int64_t v) {
  if (dtype == DType::kF32) return ((const float*)logits)[v];
  uint16_t one[vec::kLanes] = {((const uint16_t*)logits)[v]};
  float wide[vec::kLanes];
  vec::store(wide, dtype == DType::kF16 ? vec::load_f16(one) : vec::load_bf16(one));
  return wide[0];
}
inline float logit_at(const RowSpec& row, int64_t v) { return logit_at(row.logits, row.dtype, v); }
inline void put_logit(void* logits, DType dtype, int64_t v, float x) {
  if (dtype == DType::kF32) {
    ((float*)logits)[v] = x;
    return;
  }
  uint16_t narrow[vec::kLanes];
  dtype == DType::kF16 ? vec::store_f16(narrow, vec::set(x)) : vec::store_bf16(narrow, vec::set(x));
  ((uint16_t*)logits)[v] = narrow[0];
}

inline bool is_allowed(const RowSpec& row, int64_t v) {
  return !row.bitmask || (row.bitmask[v >> 5] >> (v & 31) & 1u);
}

// Tokens [begin, begin + kBlock) as floats: the logits themselves where that needs no work, else in
// `buffer`. Masked tokens and what lies past the row are -inf. begin is a multiple of kBlock.
inline const float* raw_block(const RowSpec& row, int64_t begin, float* buffer) {
  const bool whole = begin + kBlock <= row.V;
  if (whole && !row.bitmask && row.dtype == DType::kF32) return (const float*)row.logits + begin;
  const vec::F32 none = vec::set(kMinusInfinity);
  for (int i = 0; i < kBlock; i += vec::kLanes) {
    const int64_t left = row.V - begin - i;
    vec::F32 x = none;
    if (left >= vec::kLanes) {
      x = load_logits(row.logits, row.dtype, begin + i);
    } else if (left > 0) {
      float tail[vec::kLanes];
      for (int j = 0; j < vec::kLanes; ++j) {
        tail[j] = j < left ? logit_at(row, begin + i + j) : kMinusInfinity;
      }
      x = vec::load(tail);
    }
    if (row.bitmask && left > 0) {
      const int64_t at = begin + i;
      x = vec::select_bits(row.bitmask[at >> 5] >> (at & 31), none, x);
    }
    vec::store(buffer + i, x);
  }
  return buffer;
}

// Sums of a block: element i belongs to strand i % 64, strands are added up in ascending order of
// i, then 64 to 16 as (a + b) + (c + d), then 16 as a binary tree in float64. The same on every
// ISA.
constexpr int kStrandVectors = 64 / vec::kLanes;

inline double strands_sum(const vec::F32 acc[kStrandVectors]) {
  float lanes[64];
  for (int i = 0; i < kStrandVectors; ++i) vec::store(lanes + i * vec::kLanes, acc[i]);
  double tree[16];
  for (int i = 0; i < 16; ++i) {
    tree[i] = (double)((lanes[i] + lanes[i + 16]) + (lanes[i + 32] + lanes[i + 48]));
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) tree[i] += tree[i + half];
  }
  return tree[0];
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
