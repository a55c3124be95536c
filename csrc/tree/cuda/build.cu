// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "tree/build.h"

// Mapping: a block has a request, a thread nodes of it in turn, each of which it follows up to the
// root and looks for among its elder siblings. Requires: W words enough for every request's nodes.
// A parent that is no earlier node of the request is taken for none: nobody looked at it before.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct BuildKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  using Block = gpu::Block<kThreads>;
  struct Shared {};

  BuildProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared&) const {
    const int64_t b = block.index;
    const int64_t begin = p.indptr[b * p.indptr_stride];
    int64_t size = p.indptr[(b + 1) * p.indptr_stride] - begin;
    if (begin < 0 || begin + size > p.N) size = 0;
    const int32_t base = p.base ? p.base[b * p.base_stride] : 0;
    if (p.first_child) {
      block.each([&](int t) {
        for (int64_t i = t; i < size; i += kThreads) {
          p.first_child[(begin + i) * p.first_child_stride] = -1;
          p.next_sibling[(begin + i) * p.next_sibling_stride] = -1;
        }
      });
    }
    block.each_alone([&](int t) {
      for (int64_t i = t; i < size; i += kThreads) {
        climb(begin, i, base);
        if (p.first_child && i > 0) link(begin, (int32_t)i);
      }
    });
  }

  // The parent of node i; -1 where it has none.
  FEWSTEP_HOST_DEVICE int32_t parent_of(int64_t begin, int64_t i) const {
    const int32_t up = p.parent[(begin + i) * p.parent_stride];
    return up >= 0 && up < i ? up : -1;
  }

  FEWSTEP_HOST_DEVICE void climb(int64_t begin, int64_t i, int32_t base) const {
    uint32_t* bits = p.bits ? p.bits + (begin + i) * p.bits_stride : nullptr;
    for (int64_t w = 0; bits && w < p.W; ++w) bits[w] = 0;
    int32_t depth = -1;
    for (int64_t at = i; at >= 0; at = parent_of(begin, at)) {
      ++depth;
      if (bits && at / 32 < p.W) bits[at / 32] |= 1u << (at % 32);
    }
    p.depth[(begin + i) * p.depth_stride] = depth;
    if (p.positions) p.positions[(begin + i) * p.positions_stride] = base + depth;
  }

  // Node i behind the sibling before it, or as the first of its parent's children.
  FEWSTEP_HOST_DEVICE void link(int64_t begin, int32_t i) const {
    const int32_t up = parent_of(begin, i);
    if (up < 0) return;
    for (int64_t before = i - 1; before > up; --before) {
      if (parent_of(begin, before) != up) continue;
      p.next_sibling[(begin + before) * p.next_sibling_stride] = i;
      return;
    }
    p.first_child[(begin + up) * p.first_child_stride] = i;
  }
};

}  // namespace

void build(const BuildProblem& p) {
  if (p.B > 0) gpu::launch("fewstep_tree_build", BuildKernel{p}, p.B, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
