// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/atomic.h"
#include "core/cuda/launch.h"
#include "tree/rerank.h"

// Mapping: a block has a request, a thread nodes of it in turn. A node's place is how many keys of
// its request are above its own; where the request's rows begin, the block counts for itself, a
// warp having an earlier request: trees are small, and nobody waits for another block. Requires:
// nothing overlaps. A parent that is no earlier node is taken for none: nobody looked at it before.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct RerankKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr int kWarps = kThreads / 32;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    uint32_t known[kWarps];  // nodes of a request that have a probability
    uint32_t first, kept;    // rows of earlier requests, and of this one
  };

  RerankProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t b = block.index;
    const Tree tree = b < p.B ? tree_of(b) : Tree{0, 0, 0};  // a batch of none has a block too
    block.each([&](int t) {
      if (t == 0) s.first = s.kept = 0;
      for (int64_t i = t; i < tree.size; i += kThreads) {
        keys(tree)[i] = (uint64_t)score_of(tree, i) << 32 | (uint32_t)~(uint32_t)i;
      }
    });
    for (int64_t r = 0; r < b; r += kWarps) count_earlier(block, s, r, b);
    block.each([&](int t) {
      for (int64_t i = t; i < tree.size; i += kThreads) {
        const bool is_kept = place_of(tree, i) < tree.budget;
        keys(tree)[tree.size + i] = is_kept ? 1 : 0;
        if (is_kept) gpu::atomic_add(&s.kept, 1);
      }
    });
    const int64_t first = block.get(s.first), end = first + block.get(s.kept);
    block.each_alone([&](int t) {
      if (t == 0) {
        if (b == 0) p.kept_indptr[0] = 0;
        if (b < p.B) p.kept_indptr[(b + 1) * p.kept_indptr_stride] = (int32_t)end;
      }
      for (int64_t i = t; i < tree.size; i += kThreads) put(tree, i, first);
      if (b + 1 < p.B) return;
      for (int64_t row = end + t; row < p.N; row += kThreads) {
        p.kept[row * p.kept_stride] = -1;
        p.kept_parent[row * p.kept_parent_stride] = -1;
      }
    });
  }

  struct Tree {
    int64_t begin, size, budget;
  };
  FEWSTEP_HOST_DEVICE Tree tree_of(int64_t b) const {
    const int64_t begin = p.indptr[b * p.indptr_stride], end = p.indptr[(b + 1) * p.indptr_stride];
    if (begin < 0 || end < begin || end > p.M) return {0, 0, 0};
    return {begin, end - begin, p.budget[b * p.budget_stride]};
  }

  // Of a tree's nodes, and then whether each is kept.
  FEWSTEP_HOST_DEVICE uint64_t* keys(const Tree& tree) const { return p.keys + 2 * tree.begin; }

  FEWSTEP_HOST_DEVICE int32_t parent_of(const Tree& tree, int64_t i) const {
    const int32_t up = p.parent[(tree.begin + i) * p.parent_stride];
    return up >= 0 && up < i ? up : -1;
  }

  // The least score on the way to the root, 0 where one has no probability.
  FEWSTEP_HOST_DEVICE uint32_t score_of(const Tree& tree, int64_t i) const {
    uint32_t least = kRootScore;
    for (int64_t up = parent_of(tree, i); up >= 0; i = up, up = parent_of(tree, i)) {
      const uint32_t own = ordered(p.cum_logp[(tree.begin + i) * p.cum_logp_stride]);
      least = own < least ? own : least;
    }
    return least;
  }

  // How many nodes are before node i; past any budget where it has no probability.
  FEWSTEP_HOST_DEVICE int64_t place_of(const Tree& tree, int64_t i) const {
    const uint64_t* key = keys(tree);
    if (key[i] >> 32 == 0) return p.M;
    int64_t place = 0;
    for (int64_t j = 0; j < tree.size; ++j) place += key[j] > key[i];
    return place;
  }

  // Adds what requests [r, r + kWarps) below b keep to `first`.
  FEWSTEP_HOST_DEVICE void count_earlier(const Block& block, Shared& s, int64_t r,
                                         int64_t b) const {
    block.each([&](int t) {
      if (t < kWarps) s.known[t] = 0;
    });
    block.each([&](int t) {
      if (r + t / 32 >= b) return;
      const Tree tree = tree_of(r + t / 32);
      uint32_t known = 0;
      for (int64_t i = t % 32; i < tree.size; i += 32) known += score_of(tree, i) > 0;
      gpu::atomic_add(&s.known[t / 32], known);
    });
    block.each([&](int t) {
      if (t >= kWarps || r + t >= b) return;
      const int64_t budget = tree_of(r + t).budget, known = s.known[t];
      if (budget > 0) gpu::atomic_add(&s.first, (uint32_t)(known < budget ? known : budget));
    });
  }

  // Kept nodes of a tree before node i.
  FEWSTEP_HOST_DEVICE int64_t number_of(const Tree& tree, int64_t i) const {
    const uint64_t* kept = keys(tree) + tree.size;
    int64_t number = 0;
    for (int64_t j = 0; j < i; ++j) number += (int64_t)kept[j];
    return number;
  }

  FEWSTEP_HOST_DEVICE void put(const Tree& tree, int64_t i, int64_t first) const {
    if (keys(tree)[tree.size + i] == 0) return;
    const int64_t row = first + number_of(tree, i);
    if (row >= p.N) return;
    const int32_t up = parent_of(tree, i);
    p.kept[row * p.kept_stride] = (int32_t)(tree.begin + i);
    p.kept_parent[row * p.kept_parent_stride] = up < 0 ? -1 : (int32_t)number_of(tree, up);
  }
};

}  // namespace

void rerank(const RerankProblem& p) {
  gpu::launch("fewstep_tree_rerank", RerankKernel{p}, p.B > 0 ? p.B : 1, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
