// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "linear/cuda/operand.h"

// What products of panels share. A block of threads has a panel and some rows. Its eight warps have
// their own inputs, in turn, so each reads its weights with nothing to wait for but memory; what
// they found is added up in their order. Which inputs a warp has follows from their number alone.
// Included by CUDA kernel files only.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
using Block = gpu::Block<kThreads>;

struct Weights {
  int64_t I;
  int32_t group;
  int64_t bytes;  // of a panel
  const char* data;
};

// A panel and rows of x.
struct Task {
  const char* panel;
  int64_t row;
  int rows;
};

// What the warps have found, and what it adds up to: output t % 32 of every eighth row from t / 32
// on is thread t's, here and in what is made of it.
template <int kRows>
struct Sums {
  float parts[kWarps][kRows][kPanel + 1];  // one more, so that rows begin in different banks
  float x[2][kRows][kPanel];               // of a panel, and of a second one
};

// Calls f(row, output) for what is thread t's.
template <int kRows, class F>
FEWSTEP_HOST_DEVICE inline void for_own(const Task& task, int t, const F& f) {
  FEWSTEP_UNROLL
  for (int row = t / 32; row < kRows; row += kWarps) {
    if (row < task.rows) f(row, t % 32);
  }
}

// The block's rows and panel: blocks of the same panel are neighbours.
template <int kRows>
FEWSTEP_HOST_DEVICE inline Task task_of(const Weights& w, int64_t M, int64_t block) {
  const int64_t parts = ceil_div(M, kRows), row = block % parts * kRows;
  const int rows = M - row < kRows ? (int)(M - row) : kRows;
  return {w.data + block / parts * w.bytes, row, rows};
}

// Adds the first `count` warps' parts to the sums of panel `which`; those of quantised kinds times
// the scale of their row and block, the first of which is `n`.
template <bool kIsScaled, int kRows>
FEWSTEP_HOST_DEVICE inline void add_parts(const Block& block, const Operand& x, const Task& task,
                                          int64_t n, int count, int which, Sums<kRows>& s) {
  block.each([&](int t) {
    for_own<kRows>(task, t, [&](int row, int o) {
      const float* scales =
          kIsScaled ? x.scales + (task.row + row) * ceil_div(x.I, kBlock) + n : nullptr;
      float sum = n == 0 ? 0.0f : s.x[which][row][o];
      for (int w = 0; w < count; ++w) {
        const float part = s.parts[w][row][o];
        sum = kIsScaled ? fmaf(part, scales[w], sum) : sum + part;
      }
      s.x[which][row][o] = sum;
    });
  });
}

// Element i of a row.
FEWSTEP_HOST_DEVICE inline char* at(const Rows& rows, int64_t row, int64_t i) {
  return rows.data + row * rows.stride_bytes + i * gpu::element_bytes(rows.type);
}

// Calls f.mma<kind>() or f.fma<kind>(): the products of weights and activations of their types.
template <class F>
inline void with_products(const ActivationsProblem& in, const F& f) {
  const bool is_half = form_of(in.kind, in.x.type) == Form::kHalf;
  switch (in.kind) {
    case Kind::kInt4:
      return f.template mma<4>();
    case Kind::kInt8:
      return f.template mma<3>();
    case Kind::kBF16:
      return is_half ? f.template mma<2>() : f.template fma<2>();
    case Kind::kF16:
      return is_half ? f.template mma<1>() : f.template fma<1>();
    default:
      return f.template fma<0>();
  }
}

// A word of weights.
FEWSTEP_HOST_DEVICE inline uint32_t load4(const char* p) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
#endif
  return *(const gpu::Word*)p;
}

}  // namespace
}  // namespace fewstep::linear::FEWSTEP_ISA
