// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "tree/attention.h"
#include "tree/cuda/attention_fma.h"
#include "tree/cuda/attention_mma.h"
#include "tree/cuda/attention_wgmma.h"

// Requires: what the host can check of shapes; memory for the parts' sums where there are several.
//
// Launches: a block of threads for each block of rows, KV head and part of the keys that there may
// be; most have work, others end at once. Where there may be several parts, a second launch joins
// them in their order.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr const char* kFunction = "fewstep_tree_attention";

// Mapping: a warp has a row, and every 32nd of its dims a thread.
struct JoinKernel {
  static constexpr int kThreads = 128, kBlocks = 4;
  static constexpr int kWarps = kThreads / 32, kRows = 16, kDims = kMaxHeadDim / 32;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    AttentionTask task;
  };

  AttentionProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    constexpr int kBlocksOfRows = kRows / kWarps;
    const AttentionTask task = shared_task(block, p, block.index / kBlocksOfRows, kRows, &s.task);
    if (task.rows == 0 || task.parts == 1) return;
    block.each_alone([&](int t) {
      const int row = (int)(block.index % kBlocksOfRows) * kWarps + t / 32;
      if (row < task.rows) join(task, row, t % 32);
    });
  }

  FEWSTEP_HOST_DEVICE void join(const AttentionTask& task, int row, int lane) const {
    const int64_t n = task.n + token_of(p, task, row);
    const int32_t h = head_of(p, task, row);
    float largest = minus_infinity(), sum = 0.0f, values[kDims] = {};
    for (int part = 0; part < task.parts; ++part) {
      largest = larger_of(largest, partial_row(p, part, n, h)[p.D]);
    }
    const float base = largest == minus_infinity() ? 0.0f : largest;
    for (int part = 0; part < task.parts; ++part) {
      const float* from = partial_row(p, part, n, h);
      const float factor = exp_of(from[p.D] - base);
      sum = fmaf(from[p.D + 1], factor, sum);
      FEWSTEP_UNROLL
      for (int i = 0; i < kDims; ++i) {
        if (lane + 32 * i < p.D) values[i] = fmaf(from[lane + 32 * i], factor, values[i]);
      }
    }
    finish_row<kDims>(p, n, h, lane, largest, sum, [&](int i) { return values[i]; });
  }
};

// Blocks of rows times KV heads.
int64_t row_blocks(const AttentionProblem& p, int rows) {
  return first_block(p, p.N, p.B, rows) * p.G;
}

template <class Kernel>
void launch_rows(const AttentionProblem& p) {
  gpu::launch(kFunction, Kernel{p}, row_blocks(p, Kernel::kRows) * p.cuda_parts, p.cuda_stream);
}

// Few rows: then a block's warps share them, and always where a row's bits must not depend on how
// many there are.
template <bool kIsBf16, int kWidth, bool kIsBytes>
void attend_by_warps(const AttentionProblem& p) {
  if (p.deterministic || p.N * p.ratio <= 16 * p.B) {
    launch_rows<HalfAttentionKernel<kIsBf16, kWidth, 1, kIsBytes>>(p);
  } else {
    launch_rows<HalfAttentionKernel<kIsBf16, kWidth, 4, kIsBytes>>(p);
  }
}

template <bool kIsBf16, int kWidth>
void attend_halves(const AttentionProblem& p, bool is_bytes) {
  if (is_bytes) {
    attend_by_warps<kIsBf16, kWidth, true>(p);
  } else if (p.warpgroup_rows == 0) {
    attend_by_warps<kIsBf16, kWidth, false>(p);
  } else if (p.warpgroup_rows == 128) {
    launch_rows<WarpgroupAttentionKernel<kIsBf16, kWidth, 1>>(p);
  } else if constexpr (kWidth < 256) {
    launch_rows<WarpgroupAttentionKernel<kIsBf16, kWidth, 2>>(p);
  }
}

template <int kWidth>
void attend(const AttentionProblem& p) {
  const bool is_bytes = contains(kScaledBytes, p.kv_type);
  if (p.q_type == DType::kBF16) {
    attend_halves<true, kWidth>(p, is_bytes);
  } else if (p.q_type == DType::kF16) {
    attend_halves<false, kWidth>(p, is_bytes);
  } else if (is_bytes) {
    launch_rows<FloatAttentionKernel<true, kWidth>>(p);
  } else {
    launch_rows<FloatAttentionKernel<false, kWidth>>(p);
  }
}

}  // namespace

void attention(const AttentionProblem& p) {
  if (p.N == 0) return;
  if (p.D <= 64) {
    attend<64>(p);
  } else if (p.D <= 128) {
    attend<128>(p);
  } else {
    attend<256>(p);
  }
  if (p.cuda_parts == 1) return;
  constexpr int kBlocksOfRows = JoinKernel::kRows / JoinKernel::kWarps;
  gpu::launch(kFunction, JoinKernel{p}, row_blocks(p, JoinKernel::kRows) * kBlocksOfRows,
              p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
