// SPDX-License-Identifier: Apache-2.0
#include "tree/rerank.h"

#include "core/cpu/parallel.h"

// Requires: indptr and parent checked, N enough for what the budgets allow.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int64_t kNodesOfARange = 2048;
constexpr uint64_t kNone = ~0ull;  // above the root's key

// A node's key: its score, at most its parent's, and of equal ones the lower index first. So a
// parent's key is above its children's, and the m greatest keys hold every ancestor.
void make_keys(const RerankProblem& p, int64_t begin, int64_t size, uint64_t* keys) {
  for (int64_t i = 0; i < size; ++i) {
    const int32_t up = p.parent[(begin + i) * p.parent_stride];
    uint32_t score = ordered(p.cum_logp[(begin + i) * p.cum_logp_stride]);
    if (up < 0) score = kRootScore;
    if (up >= 0 && score > (uint32_t)(keys[up] >> 32)) score = (uint32_t)(keys[up] >> 32);
    keys[i] = (uint64_t)score << 32 | (uint32_t)~(uint32_t)i;
  }
}

void swap_keys(uint64_t* a, uint64_t* b) {
  const uint64_t old = *a;
  *a = *b;
  *b = old;
}

// The m-th greatest of n distinct keys, 1 <= m <= n; reorders them. Quickselect, the pivot being
// the median of three.
uint64_t select_greatest(uint64_t* keys, int64_t n, int64_t m) {
  int64_t low = 0, high = n - 1;
  const int64_t wanted = m - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] > keys[low]) swap_keys(keys + middle, keys + low);
    if (keys[high] > keys[low]) swap_keys(keys + high, keys + low);
    if (keys[high] > keys[middle]) swap_keys(keys + high, keys + middle);
    const uint64_t pivot = keys[middle];
    int64_t i = low, j = high;
    while (i <= j) {
      while (keys[i] > pivot) ++i;
      while (keys[j] < pivot) --j;
      if (i <= j) swap_keys(keys + i++, keys + j--);
    }
    if (wanted <= j) {
      high = j;
    } else if (wanted >= i) {
      low = i;
    } else {
      return keys[wanted];
    }
  }
  return keys[wanted];
}

// The least key that is kept; kNone where none is.
uint64_t threshold_of(uint64_t* keys, uint64_t* copy, int64_t size, int64_t budget) {
  int64_t known = 0;  // nodes that have a probability
  for (int64_t i = 0; i < size; ++i) {
    if (keys[i] >> 32) copy[known++] = keys[i];
  }
  const int64_t m = known < budget ? known : budget;
  return m > 0 ? select_greatest(copy, known, m) : kNone;
}

void rank_range(void* context, int64_t from, int64_t to) {
  const RerankProblem& p = *static_cast<const RerankProblem*>(context);
  for (int64_t b = from; b < to; ++b) {
    const int64_t begin = p.indptr[b * p.indptr_stride];
    const int64_t size = p.indptr[(b + 1) * p.indptr_stride] - begin;
    uint64_t* keys = p.keys + 2 * begin;
    make_keys(p, begin, size, keys);
    const uint64_t least = threshold_of(keys, keys + size, size, p.budget[b * p.budget_stride]);
    int32_t count = 0;
    for (int64_t i = 0; i < size; ++i) {  // a kept node's number in the place of its key
      keys[i] = keys[i] >= least ? (uint64_t)count++ : kNone;
    }
  }
}

}  // namespace

void rerank(const RerankProblem& p) {
  RerankProblem own = p;
  parallel_for(p.threads, p.B, 1 + kNodesOfARange * p.B / (p.M + 1), rank_range, &own);
  p.kept_indptr[0] = 0;
  int64_t row = 0;
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t begin = p.indptr[b * p.indptr_stride];
    const int64_t size = p.indptr[(b + 1) * p.indptr_stride] - begin;
    const uint64_t* number = p.keys + 2 * begin;
    for (int64_t i = 0; i < size; ++i) {
      if (number[i] == kNone) continue;
      const int32_t up = p.parent[(begin + i) * p.parent_stride];
      p.kept[row * p.kept_stride] = (int32_t)(begin + i);
      p.kept_parent[row * p.kept_parent_stride] = up < 0 ? -1 : (int32_t)number[up];
      ++row;
    }
    p.kept_indptr[(b + 1) * p.kept_indptr_stride] = (int32_t)row;
  }
  for (; row < p.N; ++row) {
    p.kept[row * p.kept_stride] = -1;
    p.kept_parent[row * p.kept_parent_stride] = -1;
  }
}

}  // namespace fewstep::tree::FEWSTEP_ISA
