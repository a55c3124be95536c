// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "core/cuda/math.h"
#include "core/cuda/pack.h"
#include "tree/merge.h"

// Mapping: a warp has a row of a head, and every 32nd of its elements a thread.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct MergeKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  static constexpr int kRows = kThreads / 32;
  using Block = gpu::Block<kThreads>;
  struct Shared {};

  MergeProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared&) const {
    block.each_alone([&](int t) {
      const int64_t row = block.index * kRows + t / 32;
      if (row < p.N * p.H) merge_row(row / p.H, row % p.H, t % 32);
    });
  }

  FEWSTEP_HOST_DEVICE float lse_of(int i, int64_t n, int64_t h) const {
    return p.parts[i].lse[n * p.parts[i].lse_row + h];
  }

  FEWSTEP_HOST_DEVICE void merge_row(int64_t n, int64_t h, int lane) const {
    const float none = -__builtin_inff();
    float largest = none, sum = 0.0f, weights[kMaxMerge];
    FEWSTEP_UNROLL
    for (int i = 0; i < kMaxMerge; ++i) {
      weights[i] = i < p.n_parts ? lse_of(i, n, h) : none;
      if (weights[i] != none && !(weights[i] <= largest)) largest = weights[i];  // a NaN stays
    }
    const bool is_empty = largest == none;
    uint32_t kept = 0;  // a bit for each part that counts
    FEWSTEP_UNROLL
    for (int i = 0; i < kMaxMerge; ++i) {
      kept |= weights[i] != none ? 1u << i : 0u;
      weights[i] = weights[i] == none ? 0.0f : vec::exp_below_88({weights[i] - largest}).v;
      sum += weights[i];
    }
    FEWSTEP_UNROLL
    for (int i = 0; i < kMaxMerge; ++i) weights[i] = is_empty ? 0.0f : weights[i] / sum;
    char* to = p.out + n * p.out_row + h * p.out_head;
    const int bytes = gpu::element_bytes(p.out_type);
    for (int64_t d = lane; d < p.D; d += 32) {
      gpu::store_one(to + d * bytes, p.out_type, joined(n, h, d, kept, weights));
    }
    if (p.lse && lane == 0) {
      p.lse[n * p.lse_row + h] = is_empty ? none : (float)((double)largest + gpu::log_of(sum));
    }
  }

  FEWSTEP_HOST_DEVICE float joined(int64_t n, int64_t h, int64_t d, uint32_t kept,
                                   const float (&weights)[kMaxMerge]) const {
    float sum = 0.0f;
    FEWSTEP_UNROLL
    for (int i = 0; i < kMaxMerge; ++i) {
      if ((kept >> i & 1u) == 0) continue;
      const MergeProblem::Part& part = p.parts[i];
      const char* row = part.data + n * part.row + h * part.head;
      const float x = gpu::load_one(row + d * gpu::element_bytes(part.type), part.type);
      sum = fmaf(x, weights[i], sum);
    }
    return sum;
  }
};

}  // namespace

void merge(const MergeProblem& p) {
  const int64_t rows = p.N * p.H;
  if (rows == 0) return;
  constexpr int kRows = MergeKernel::kRows;
  gpu::launch("fewstep_tree_merge", MergeKernel{p}, (rows + kRows - 1) / kRows, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
