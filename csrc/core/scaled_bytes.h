// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/dtype.h"
#include "core/e4m3.h"

// Elements of caches with scales, int8 or float8_e4m3fn: a scale times the number that a byte
// stands for. Kernels include it: nothing here may be shared between instruction sets.
namespace fewstep {
namespace {

// What the largest magnitude becomes.
FEWSTEP_HOST_DEVICE inline float largest_number(DType type) {
  return type == DType::kI8 ? 127.0f : 448.0f;
}

// The byte of x / scale, rounded to nearest even. Requires: a number within the type's range.
FEWSTEP_HOST_DEVICE inline uint8_t byte_of(DType type, float x, float inverse_scale) {
  if (type != DType::kI8) return narrow_e4m3(x * inverse_scale);
  // 1.5 * 2^23: the sum's low bits are the product rounded to nearest even.
  const float sum = fmaf(x, inverse_scale, 12582912.0f);
  uint32_t u;
  memcpy(&u, &sum, sizeof u);
  return (uint8_t)u;
}

FEWSTEP_HOST_DEVICE inline float number_of_byte(DType type, uint8_t byte) {
  return type == DType::kI8 ? (float)(int8_t)byte : widen_e4m3(byte);
}

}  // namespace
}  // namespace fewstep
