// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/box_copy.h"
#include "tree/cuda/attention_rows.h"

// Tiles of keys and values that come as boxes of a cache of 16-bit elements.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

template <bool kIsBf16, int kDims, int kTile>
struct KeyBoxes {
  gpu::TensorMap k{}, v{};
  int32_t rows;  // keys of a box; 0: there are none

  explicit KeyBoxes(const AttentionProblem& p) : rows(rows_of(p)) {
    const bool maps = rows > 0 && gpu::map_tensor(tensor_of(p, p.k), kIsBf16, &k) &&
                      gpu::map_tensor(tensor_of(p, p.v), kIsBf16, &v);
    if (!maps) rows = 0;
  }

  // Whether a tile comes so: all of it is cached. Behind the first that does not, none does.
  FEWSTEP_HOST_DEVICE bool have(const AttentionProblem& p, const AttentionTask& task,
                                int64_t begin) const {
    const bool is_apart = p.draft == Draft::kSeparate && task.prefix < task.end;
    return rows > 0 && begin + kTile <= (is_apart ? task.prefix : task.end);
  }

  // Begins with thread t's box of a tile's keys and values, where it has one. Keys on no page are
  // zero. Matrix: blocks of kSwizzledColumns dims, swizzled.
  template <class Matrix>
  FEWSTEP_HOST_DEVICE void load(const AttentionProblem& p, const AttentionTask& task, int64_t begin,
                                int t, Matrix& keys, Matrix& values,
                                gpu::CopyBarrier* barrier) const {
    if (t == 0) gpu::expect_bytes(barrier, (int)(2 * sizeof(Matrix)));
    const int first = t * rows;
    if (first >= kTile) return;
    const CachePlace place = cache_place(p, task, begin + first);
    FEWSTEP_UNROLL
    for (int b = 0; b < kDims / gpu::kSwizzledColumns; ++b) {
      const int32_t at[4] = {b * gpu::kSwizzledColumns, task.g, (int32_t)place.token,
                             (int32_t)place.page};
      gpu::copy_box(k, at, keys.dims[b] + first * gpu::kSwizzledRow, barrier);
      gpu::copy_box(v, at, values.dims[b] + first * gpu::kSwizzledRow, barrier);
    }
  }

 private:
  // A tile is one box or several: pages divide it, or it divides them.
  static int32_t rows_of(const AttentionProblem& p) {
    constexpr int64_t kMost = INT32_MAX;  // that a box's index tells
    if (p.page_tokens > kMost || p.pages > kMost) return 0;
    if (!p.page_table || p.page_tokens % kTile == 0) return kTile;
    return kTile % p.page_tokens == 0 && p.page_tokens % 8 == 0 ? (int32_t)p.page_tokens : 0;
  }
  gpu::BoxedTensor tensor_of(const AttentionProblem& p, const Tokens& tokens) const {
    return {tokens.data,
            {kDims, p.G, p.page_tokens, p.pages},
            {tokens.head, tokens.token, tokens.page},
            rows};
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
