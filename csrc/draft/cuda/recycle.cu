// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "draft/recycle.h"

// Mapping: a block has a row, which it copies unless a later one has the same token: so the last
// one stays, in whatever order blocks run. Requires: nothing overlaps. A token outside of the table
// is passed over, and an entry that is none becomes -1: nobody looked at them before.
namespace fewstep::draft::FEWSTEP_ISA {
namespace {

struct RecycleKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    int32_t is_last;
  };

  RecycleProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t n = block.index;
    const int32_t token = p.tokens[n * p.tokens_stride];
    if (token < 0 || token >= p.V) return;
    block.each([&](int t) {
      if (t == 0) s.is_last = 1;
    });
    block.each([&](int t) {
      for (int64_t i = n + 1 + t; i < p.N; i += kThreads) {
        if (p.tokens[i * p.tokens_stride] == token) s.is_last = 0;
      }
    });
    if (!block.get(s.is_last)) return;
    block.each_alone([&](int t) {
      for (int64_t k = t; k < p.K; k += kThreads) {
        const int32_t id = p.top_ids[n * p.top_ids_stride + k];
        p.table[token * p.table_stride + k] = id < 0 || id >= p.V ? -1 : id;
      }
    });
  }
};

}  // namespace

void recycle(const RecycleProblem& p) {
  if (p.N > 0) gpu::launch("fewstep_draft_recycle", RecycleKernel{p}, p.N, p.cuda_stream);
}

}  // namespace fewstep::draft::FEWSTEP_ISA
