// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/atomic.h"
#include "core/cuda/launch.h"
#include "tree/from_template.h"

// Mapping: a block has a request; level after level, a thread fills nodes of it in turn, whose
// parents' tokens are there. Requires: nothing overlaps. A parent that is no earlier node is taken
// for the root, and a rank, a head or a root that there is not gives no token: nobody looked at
// them before.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct FromTemplateKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    uint32_t deepest;
  };

  FromTemplateProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    int32_t* tokens = p.tokens + block.index * p.tokens_stride;
    const int32_t* heads = p.heads ? p.heads + block.index * p.heads_stride : nullptr;
    block.each([&](int t) {
      if (t == 0) s.deepest = 0;
      if (t != 0) return;
      const int32_t root = p.root[block.index * p.root_stride];
      tokens[0] = root < 0 || (p.table && root >= p.V) ? -1 : root;
    });
    block.each([&](int t) {
      uint32_t deepest = 0;
      for (int64_t i = t; i < p.Q; i += kThreads) {
        const uint32_t depth = depth_of(i);
        deepest = depth > deepest ? depth : deepest;
      }
      gpu::atomic_max(&s.deepest, deepest);
    });
    const uint32_t levels = block.get(s.deepest);
    for (uint32_t level = 1; level <= levels; ++level) {
      block.each([&](int t) {
        for (int64_t i = t; i < p.Q; i += kThreads) {
          if (depth_of(i) == level) tokens[i] = token_of(i, level, heads, tokens);
        }
      });
    }
  }

  FEWSTEP_HOST_DEVICE int64_t parent_of(int64_t i) const {
    const int32_t up = p.parent[i * p.parent_stride];
    return up >= 0 && up < i ? up : 0;
  }
  FEWSTEP_HOST_DEVICE uint32_t depth_of(int64_t i) const {
    uint32_t depth = 0;
    for (; i > 0; i = parent_of(i)) ++depth;
    return depth;
  }

  FEWSTEP_HOST_DEVICE int32_t token_of(int64_t i, int64_t depth, const int32_t* heads,
                                       const int32_t* tokens) const {
    const int64_t above = tokens[parent_of(i)], rank = p.rank[i * p.rank_stride];
    if (above < 0 || rank < 0 || rank >= p.K) return -1;
    if (heads) {
      const int32_t token = depth <= p.H ? heads[(depth - 1) * p.K + rank] : -1;
      return token < 0 ? -1 : token;
    }
    const int32_t token = p.table[above * p.table_stride + rank];
    return token < 0 || token >= p.V ? -1 : token;
  }
};

}  // namespace

void from_template(const FromTemplateProblem& p) {
  gpu::launch("fewstep_tree_from_template", FromTemplateKernel{p}, p.B, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
