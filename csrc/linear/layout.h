// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/dtype.h"
#include "core/host_device.h"

// The blocked layout of packed weights, and that of prepared activations. Host and kernel code.
//
// Outputs are cut into panels of 32, stored one after the other, the last one filled up with zeros.
// A panel is a sequence of steps, each a few inputs of its 32 outputs, in the order of the inputs:
//
//   float32   a step is 1 input:  32 floats
//   float16   a step is 1 input:  32 halves
//   bfloat16  a step is 2 inputs: 32 pairs
//   int8      a step is 2 inputs: 32 pairs of signed bytes; before the first, 32 scales (float32)
//   int4      a step is 4 inputs: 64 bytes, byte 4 o + i holds input i of outputs o (low half) and
//             16 + o (high half), each plus 8; before each group's steps, 32 scales (bfloat16)
//
// Where the inputs do not fill the last step, or int4's last group, weights of 0 follow.
//
// Sums run in blocks of 512 inputs: one chain of fused multiply-adds, or one exact integer sum, for
// each output and block, and the blocks' sums are added in order. So a row's result depends on
// nothing but the row, however many rows, threads and vector lanes share the work.
namespace fewstep::linear {

enum class Kind : int32_t { kF32 = 0, kF16 = 1, kBF16 = 2, kInt8 = 3, kInt4 = 4 };
constexpr int kKinds = 5;

// The type of unpacked weights; of quantised ones, which may become any, what they stand for.
static inline DType dtype_of(Kind kind) {
  if (kind == Kind::kF16) return DType::kF16;
  return kind == Kind::kBF16 ? DType::kBF16 : DType::kF32;
}

constexpr int kPanel = 32;   // outputs
constexpr int kBlock = 512;  // inputs

// Largest magnitude of a quantised activation: it is 256 h + l with signed bytes h and l, and 512
// products with signed bytes fit 32 bits.
constexpr int kMaxActivation = 127 * 256 + 127;

FEWSTEP_HOST_DEVICE static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

FEWSTEP_HOST_DEVICE static inline int step_inputs(Kind kind) {
  return kind == Kind::kInt4 ? 4 : kind == Kind::kBF16 || kind == Kind::kInt8 ? 2 : 1;
}
FEWSTEP_HOST_DEVICE static inline int step_bytes(Kind kind) {
  return kind == Kind::kF32 || kind == Kind::kBF16 ? 128 : 64;
}
// Inputs with those that fill up the last step or group.
FEWSTEP_HOST_DEVICE static inline int64_t padded_inputs(Kind kind, int64_t I, int group) {
  const int64_t unit = kind == Kind::kInt4 ? group : step_inputs(kind);
  return ceil_div(I, unit) * unit;
}
// Bytes before a panel's first step.
FEWSTEP_HOST_DEVICE static inline int64_t head_bytes(Kind kind) {
  return kind == Kind::kInt8 ? 4 * kPanel : 0;
}
// Bytes of a group of int4: the scales and its steps.
FEWSTEP_HOST_DEVICE static inline int64_t group_bytes(int group) {
  return 2 * kPanel + group / 4 * 64;
}

// Where input i, the first of a group and of a step, begins in a panel.
FEWSTEP_HOST_DEVICE static inline int64_t input_offset(Kind kind, int64_t i, int group) {
  if (kind == Kind::kInt4) return i / group * group_bytes(group);
  return head_bytes(kind) + i / step_inputs(kind) * step_bytes(kind);
}
FEWSTEP_HOST_DEVICE static inline int64_t panel_bytes(Kind kind, int64_t I, int group) {
  return input_offset(kind, padded_inputs(kind, I, group), group);
}
FEWSTEP_HOST_DEVICE static inline int64_t packed_bytes(Kind kind, int64_t O, int64_t I, int group) {
  return ceil_div(O, kPanel) * panel_bytes(kind, I, group);
}

// Prepared activations are 32-bit words: a float, a pair of bfloat16 or of 16-bit integers, or four
// signed bytes; beside them a scale for each row and block, and 8 times the sum of each row and
// group of int4.
struct PreparedSize {
  int64_t words, scales, sums;  // of a row
};
FEWSTEP_HOST_DEVICE static inline PreparedSize prepared_size(Kind kind, int64_t I, int group) {
  const int64_t inputs = padded_inputs(kind, I, group);
  const int64_t words = ceil_div(inputs, 8) * 8;  // rows begin at multiples of 16 bytes
  if (kind == Kind::kInt4) return {words / 2, ceil_div(I, kBlock), inputs / group};
  if (kind == Kind::kInt8) return {words / 2, ceil_div(I, kBlock), 0};
  return {words, 0, 0};
}

}  // namespace fewstep::linear
