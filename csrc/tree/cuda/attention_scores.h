// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/mma.h"
#include "tree/cuda/attention_rows.h"

// What a thread does with its logits of a tile between two products on tensor cores. They are as
// products leave them: of each 8 keys two of one row, and two of the row eight below.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

template <int kCount>
FEWSTEP_HOST_DEVICE inline void cap(const AttentionProblem& p, float (&x)[kCount][4]) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4 * kCount; ++i) x[i / 4][i % 4] = capped(p, x[i / 4][i % 4]);
}

// The largest of row h.
template <int kCount>
FEWSTEP_HOST_DEVICE inline float top_of(const float (&x)[kCount][4], int h) {
  float top = minus_infinity();
  FEWSTEP_UNROLL
  for (int i = 0; i < 2 * kCount; ++i) top = larger_of(top, x[i / 2][2 * h + i % 2]);
  return top;
}

// Joins what the four threads of a row have as the largest of each of their two: top(t) is theirs.
template <int kThreads, class Top>
FEWSTEP_HOST_DEVICE inline void join_tops(const gpu::Block<kThreads>& block, const Top& top) {
  const auto larger = [](float a, float b) { return larger_of(a, b); };
  gpu::join_quads(block, [&](int t) -> float& { return top(t)[0]; }, larger);
  gpu::join_quads(block, [&](int t) -> float& { return top(t)[1]; }, larger);
}

// Turns the logits of row h, of which `top` is the largest, into weights, and takes them into its
// softmax, which is to the base 2; *factor becomes what its sums are multiplied by.
template <int kCount>
FEWSTEP_HOST_DEVICE inline void weigh_row(const AttentionProblem& p, float (&x)[kCount][4], int h,
                                          float top, RunningSoftmax& softmax, float* factor) {
  const float scale = scale_of(p) * kLog2E;
  const float base = softmax.raise2(top * scale, factor);
  FEWSTEP_UNROLL
  for (int i = 0; i < 2 * kCount; ++i) {
    float& own = x[i / 2][2 * h + i % 2];
    own = gpu::about_exp2(fmaf(own, scale, -base));
    softmax.sum += own;
  }
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
