// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "logits/cpu/weighing.h"

// Blocks of a row of logits as floats. Included by kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

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

// A block of 16-bit logits, as floats.
template <DType kType>
inline void widen_block(const uint16_t* logits, float* out) {
  for (int i = 0; i < kBlock; i += vec::kLanes) {
    vec::store(out + i, load_logits(logits, kType, i));
  }
}

// Tokens [begin, begin + kBlock) as floats: the logits themselves where that needs no work, else in
// `buffer`. Masked tokens and what lies past the row are -inf. begin is a multiple of kBlock.
inline const float* raw_block(const RowSpec& row, int64_t begin, float* buffer) {
  const bool whole = begin + kBlock <= row.V;
  const float* raw = buffer;
  if (whole && row.dtype == DType::kF32) {
    raw = (const float*)row.logits + begin;
  } else if (whole && row.dtype == DType::kF16) {
    widen_block<DType::kF16>((const uint16_t*)row.logits + begin, buffer);
  } else if (whole) {
    widen_block<DType::kBF16>((const uint16_t*)row.logits + begin, buffer);
  } else {
    int i = 0;
    for (; begin + i + vec::kLanes <= row.V; i += vec::kLanes) {
      vec::store(buffer + i, load_logits(row.logits, row.dtype, begin + i));
    }
    for (; begin + i < row.V; ++i) buffer[i] = logit_at(row, begin + i);
    for (; i < kBlock; ++i) buffer[i] = kMinusInfinity;
  }
  if (!row.bitmask) return raw;
  const vec::F32 none = vec::set(kMinusInfinity);
  const int64_t left = row.V - begin;  // bits past the row belong to no token
  for (int i = 0; i < kBlock && i < left; i += vec::kLanes) {
    const uint32_t allowed = row.bitmask[(begin + i) >> 5] >> (i & 31);
    vec::store(buffer + i, vec::select_bits(allowed, none, vec::load(raw + i)));
  }
  return buffer;
}

constexpr int kStrandVectors = 64 / vec::kLanes;

inline double strands_sum(const vec::F32 acc[kStrandVectors]) {
  constexpr int kSixteen = 16 / vec::kLanes;
  float parts[16];
  for (int i = 0; i < kSixteen; ++i) {
    const vec::F32 low = vec::add(acc[i], acc[i + kSixteen]);
    const vec::F32 high = vec::add(acc[i + 2 * kSixteen], acc[i + 3 * kSixteen]);
    vec::store(parts + i * vec::kLanes, vec::add(low, high));
  }
  return parts_sum(parts);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
