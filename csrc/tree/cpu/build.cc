// SPDX-License-Identifier: Apache-2.0
#include "tree/build.h"

#include "core/cpu/parallel.h"

// Requires: indptr and parent checked, W words enough for every request's nodes.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int64_t kNodesOfARange = 16384;  // tens of microseconds of one thread

void depths(const BuildProblem& p, int64_t begin, int64_t size, int32_t base) {
  const int32_t* parent = p.parent + begin * p.parent_stride;
  int32_t* depth = p.depth + begin * p.depth_stride;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t up = parent[i * p.parent_stride];
    depth[i * p.depth_stride] = up < 0 ? 0 : depth[up * p.depth_stride] + 1;
  }
  if (!p.positions) return;
  int32_t* positions = p.positions + begin * p.positions_stride;
  for (int64_t i = 0; i < size; ++i) {
    positions[i * p.positions_stride] = base + depth[i * p.depth_stride];
  }
}

// Nodes in descending order, each in front of its parent's list: lists ascend.
void links(const BuildProblem& p, int64_t begin, int64_t size) {
  const int32_t* parent = p.parent + begin * p.parent_stride;
  int32_t* first = p.first_child + begin * p.first_child_stride;
  int32_t* next = p.next_sibling + begin * p.next_sibling_stride;
  for (int64_t i = 0; i < size; ++i) first[i * p.first_child_stride] = -1;
  for (int64_t i = size - 1; i > 0; --i) {
    int32_t* head = first + parent[i * p.parent_stride] * p.first_child_stride;
    next[i * p.next_sibling_stride] = *head;
    *head = (int32_t)i;
  }
  if (size > 0) next[0] = -1;
}

void ancestors(const BuildProblem& p, int64_t begin, int64_t size) {
  const int32_t* parent = p.parent + begin * p.parent_stride;
  uint32_t* bits = p.bits + begin * p.bits_stride;
  for (int64_t i = 0; i < size; ++i) {
    uint32_t* own = bits + i * p.bits_stride;
    const int32_t up = parent[i * p.parent_stride];
    const uint32_t* above = up < 0 ? nullptr : bits + up * p.bits_stride;
    for (int64_t w = 0; w < p.W; ++w) own[w] = above ? above[w] : 0u;
    own[i / 32] |= 1u << (i % 32);
  }
}

void build_range(void* context, int64_t from, int64_t to) {
  const BuildProblem& p = *static_cast<const BuildProblem*>(context);
  for (int64_t b = from; b < to; ++b) {
    const int64_t begin = p.indptr[b * p.indptr_stride];
    const int64_t size = p.indptr[(b + 1) * p.indptr_stride] - begin;
    depths(p, begin, size, p.base ? p.base[b * p.base_stride] : 0);
    if (p.first_child) links(p, begin, size);
    if (p.bits) ancestors(p, begin, size);
  }
}

}  // namespace

void build(const BuildProblem& p) {
  const int64_t cost = p.N * (3 + (p.bits ? p.W : 0)) / 4;
  const int64_t grain = 1 + kNodesOfARange * p.B / (cost + 1);
  BuildProblem own = p;
  parallel_for(p.threads, p.B, grain, build_range, &own);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
