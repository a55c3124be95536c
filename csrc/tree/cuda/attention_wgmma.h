// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/wgmma.h"
#include "tree/cuda/attention_boxes.h"
#include "tree/cuda/attention_scores.h"

// Attention of bfloat16 and float16 to a cache of the same type, on warpgroups' tensor cores: for
// 64 rows and more of a request and KV head, on sm_90a.
//
// Mapping: a block has two warpgroups, each with one or two matrices of 64 rows, and a part of the
// keys, over whose tiles it walks. While a warpgroup turns the logits of one of its matrices into
// weights, tensor cores have the other's logits or values to multiply. The next tile's keys and
// values are on their way meanwhile, and up to 256 rows share what the second cache delivers: 64
// rows would ask it for more than it has. Tiles come as boxes of the cache (attention_boxes.h)
// where its pages let them, and the last of a part, drafts in memory of their own and other pages
// by copies of each thread.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// kDims: the head dims. kTiles: matrices of 64 rows of a warpgroup.
template <bool kIsBf16, int kDims, int kTiles>
struct WarpgroupAttentionKernel {
  static constexpr int kThreads = 256, kBlocks = 1;
  static constexpr int kMostShared = gpu::kMostSharedOfSm90;
  static constexpr DType kType = kIsBf16 ? DType::kBF16 : DType::kF16;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kWarpgroups = kThreads / gpu::kWarpgroup;
  static constexpr int kRows = kWarpgroups * kTiles * 64;
  static constexpr int kTile = 64;
  static constexpr int kStages = 2, kRing = 3;
  static constexpr int kColumns = gpu::kSwizzledColumns, kBlocksOfDims = kDims / kColumns;
  static_assert(kDims % kColumns == 0, "whole blocks of a swizzled matrix");
  using Block = gpu::Block<kThreads>;
  using Products = gpu::WarpgroupProducts<kThreads>;
  template <class T>
  using Per = gpu::PerThread<T, kThreads>;

  template <int kCount>
  struct Matrix {
    char dims[kBlocksOfDims][kCount * gpu::kSwizzledRow];
  };
  struct alignas(gpu::kSwizzledAtom) Tiles {
    Matrix<kRows> q;
    Matrix<kTile> k[kStages], v[kStages];
  };
  struct Shared {
    union {
      Tiles tiles;
      float sums[kRows][kDims];  // once the tiles are done
    };
    RunningSoftmax softmax[kRows];
    const char* query[kRows];
    const char *key[kRing][kTile], *value[kRing][kTile];  // of this tile and the next two, in turn
    int64_t gap[kRing];                                   // the tile, where it has keys on no page
    gpu::CopyBarrier boxed[kStages];
    int64_t left[kRows];
    uint64_t seen[kRows];  // keys of a tile
    AttentionTask task;
    LeftWindow window;
  };
  struct Sums {
    gpu::WarpgroupSums dims[kTiles][kBlocksOfDims];
  };
  struct Scores {
    gpu::WarpgroupSums tile[kTiles];
  };
  struct Rows {  // a thread's two of each matrix, eight apart; logits to the base 2
    RunningSoftmax softmax[kTiles][2];
    float factor[2], top[2];
  };
  struct Weights {  // a matrix's, as fragments of 16 keys
    uint32_t w[kTiles][kTile / 16][4];
  };
  struct State {
    Products products;
    Per<Sums> sums;
    Per<Scores> scores;
    Per<Weights> weights;
    Per<Rows> rows;
  };

  AttentionProblem p;
  KeyBoxes<kIsBf16, kDims, kTile> boxes;

  explicit WarpgroupAttentionKernel(const AttentionProblem& problem) : p(problem), boxes(problem) {}

  // Of thread t: its warpgroup's first row in matrix i, and its own first row and column.
  FEWSTEP_HOST_DEVICE static int first_row(int t, int i) {
    return (t / gpu::kWarpgroup * kTiles + i) * 64;
  }
  FEWSTEP_HOST_DEVICE static int own_row(int t, int i) {
    return first_row(t, i) + t % gpu::kWarpgroup / 32 * 16 + t % 32 / 4;
  }
  FEWSTEP_HOST_DEVICE static int own_column(int t) { return t % 4 * 2; }

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    const AttentionTask task = shared_task(block, p, block.index, kRows, &s.task);
    if (task.rows == 0) return;
    find_queries(block, task, s);
    const LeftWindow window = s.window;
    int64_t begin = first_tile(task, window.every, kTile);
    block.each([&](int t) {
      find_keys(task, begin, 0, t, s);
      find_keys(task, begin + kTile, 1, t, s);
    });
    load_keys(block, task, begin, 0, 0, s);
    State state;
    block.each_alone([&](int t) {
      state.sums[t] = Sums{};
      FEWSTEP_UNROLL
      for (int i = 0; i < 2 * kTiles; ++i) {
        state.rows[t].softmax[i / 2][i % 2] = {minus_infinity(), 0.0f};
      }
    });
    int stage = 0, ring = 0, parity = 0;
    FEWSTEP_NO_UNROLL
    for (; begin < task.end; begin += kTile) {
      if (boxes.have(p, task, begin)) gpu::wait_for_boxes(&s.boxed[stage], parity);
      do_tile(block, task, window, begin, stage, ring, state, s);
      stage = after(stage, kStages);
      if (stage == 0) parity = 1 - parity;
      ring = after(ring, kRing);
    }
    state.products.template wait<0>();
    end_rows(block, task, state, s);
#endif
  }

  FEWSTEP_HOST_DEVICE static int after(int i, int count) { return i + 1 == count ? 0 : i + 1; }

  FEWSTEP_HOST_DEVICE void find_queries(const Block& block, const AttentionTask& task,
                                        Shared& s) const {
    block.each([&](int t) {
      for (int row = t; row < kRows; row += kThreads) {
        const bool is_row = row < task.rows;
        s.query[row] = is_row ? query_of(p, task, row) : nullptr;
        s.left[row] = is_row ? left_by(p, task, token_of(p, task, row)) : -1;
      }
      if (t < kRing) s.gap[t] = -1;
      if (t < kStages) gpu::begin_barrier(&s.boxed[t]);
    });
    block.each([&](int t) {
      load_tile(s.query, s.tiles.q, t);
      if (t == 0) s.window = p.window > 0 ? window_of(task, s.left) : LeftWindow{-1, -1};
    });
  }

  FEWSTEP_HOST_DEVICE void find_keys(const AttentionTask& task, int64_t begin, int ring, int t,
                                     Shared& s) const {
    if (t >= kTile) return;
    const KeyRow row = key_row(p, task, begin + t);
    s.key[ring][t] = row.k;
    s.value[ring][t] = row.v;
    if (!row.k && begin + t < task.end) s.gap[ring] = begin;
  }

  // Begins to copy rows; those that there are not are zero, as weights of keys that nobody sees
  // are multiplied with them.
  template <int kCount>
  FEWSTEP_HOST_DEVICE static void load_tile(const char* const (&rows)[kCount], Matrix<kCount>& to,
                                            int t) {
    constexpr int kChunks = kDims / 8;
    FEWSTEP_UNROLL
    for (int c = t; c < kCount * kChunks; c += kThreads) {
      const int row = c / kChunks, chunk = c % kChunks;
      char* place = to.dims[chunk / 8] + gpu::swizzled(row, chunk % 8);
      gpu::copy16_async(place, rows[row] ? rows[row] + 16 * chunk : nullptr);
    }
  }

  FEWSTEP_HOST_DEVICE void load_keys(const Block& block, const AttentionTask& task, int64_t begin,
                                     int stage, int ring, Shared& s) const {
    const bool is_boxed = boxes.have(p, task, begin);
    block.each_alone([&](int t) {
      if (is_boxed) {
        boxes.load(p, task, begin, t, s.tiles.k[stage], s.tiles.v[stage], &s.boxed[stage]);
      } else {
        load_tile(s.key[ring], s.tiles.k[stage], t);
        load_tile(s.value[ring], s.tiles.v[stage], t);
      }
    });
    gpu::end_copies();
  }

  FEWSTEP_HOST_DEVICE void do_tile(const Block& block, const AttentionTask& task,
                                   const LeftWindow& window, int64_t begin, int stage, int ring,
                                   State& state, Shared& s) const {
    gpu::show_to_products(block);
    if (begin + kTile < task.end) {
      load_keys(block, task, begin + kTile, after(stage, kStages), after(ring, kRing), s);
    }
    block.each_alone(
        [&](int t) { find_keys(task, begin + 2 * kTile, after(after(ring, kRing), kRing), t, s); });
    const bool is_masked = begin + kTile > smaller_of(task.prefix, task.end) ||
                           begin <= window.some || s.gap[ring] == begin;
    if (is_masked) block.each([&](int t) { find_seen(task, begin, s.key[ring], t, s); });
    score<0>(state, s.tiles.k[stage], s);
    if constexpr (kTiles == 2) score<1>(state, s.tiles.k[stage], s);
    end_tile<0>(block, is_masked, s.tiles.v[stage], state, s);
    if constexpr (kTiles == 2) end_tile<1>(block, is_masked, s.tiles.v[stage], state, s);
    state.products.template wait<0>();
  }

  template <int kIndex>
  FEWSTEP_HOST_DEVICE void end_tile(const Block& block, bool is_masked, const Matrix<kTile>& v,
                                    State& state, const Shared& s) const {
    state.products.template wait<kTiles - 1>();
    weigh<kIndex>(block, is_masked, state, s);
    add_values<kIndex>(block, state, v);
  }

  FEWSTEP_HOST_DEVICE void find_seen(const AttentionTask& task, int64_t begin,
                                     const char* const (&key)[kTile], int t, Shared& s) const {
    FEWSTEP_NO_UNROLL
    for (int row = t; row < task.rows; row += kThreads) {
      uint64_t seen = 0;
      FEWSTEP_NO_UNROLL
      for (int j = 0; j < kTile; ++j) {
        const bool is_seen =
            key[j] && sees(p, task, token_of(p, task, row), s.left[row], begin + j);
        seen |= (uint64_t)is_seen << j;
      }
      s.seen[row] = seen;
    }
  }

  // Begins with the logits of matrix kIndex, unscaled.
  template <int kIndex>
  FEWSTEP_HOST_DEVICE void score(State& state, const Matrix<kTile>& k, const Shared& s) const {
    Products& products = state.products;
    products.begin();
    FEWSTEP_UNROLL
    for (int d = 0; d < kDims; d += 16) {
      const int block = d / kColumns, first = d % kColumns * 2;
      products.template multiply<kIsBf16>(
          [&](int t) -> gpu::WarpgroupSums& { return state.scores[t].tile[kIndex]; },
          [&](int t) {
            return s.tiles.q.dims[block] + first_row(t, kIndex) * gpu::kSwizzledRow + first;
          },
          k.dims[block] + first, d > 0);
    }
    products.end();
  }

  // Turns logits into weights, and takes them into the rows' sums.
  template <int kIndex>
  FEWSTEP_HOST_DEVICE void weigh(const Block& block, bool is_masked, State& state,
                                 const Shared& s) const {
    Per<Rows>& rows = state.rows;
    block.each_alone([&](int t) {
      gpu::WarpgroupSums& scores = state.scores[t].tile[kIndex];
      gpu::pin(scores);
      if (p.softcap > 0.0f) cap(p, scores.x);
      if (is_masked) hide(own_row(t, kIndex), own_column(t), s, scores);
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) rows[t].top[h] = top_of(scores.x, h);
    });
    join_tops(block, [&](int t) { return rows[t].top; });
    block.each_alone([&](int t) {
      gpu::WarpgroupSums& scores = state.scores[t].tile[kIndex];
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) {
        Rows& own = rows[t];
        weigh_row(p, scores.x, h, own.top[h], own.softmax[kIndex][h], &own.factor[h]);
      }
      FEWSTEP_UNROLL
      for (int i = 0; i < kTile / 4; ++i) {  // sums' layout is that of a half of a fragment
        const float* x = scores.x[i / 2] + i % 2 * 2;
        state.weights[t].w[kIndex][i / 4][i % 4] = gpu::narrow_pair(kType, x[0], x[1]);
      }
    });
  }

  FEWSTEP_HOST_DEVICE static void hide(int row, int column, const Shared& s,
                                       gpu::WarpgroupSums& scores) {
    FEWSTEP_UNROLL
    for (int h = 0; h < 2; ++h) {
      const uint64_t seen = s.seen[row + 8 * h] >> column;
      FEWSTEP_UNROLL
      for (int i = 0; i < kTile / 4; ++i) {
        if ((seen >> (i / 2 * 8 + i % 2) & 1) == 0) {
          scores.x[i / 2][2 * h + i % 2] = minus_infinity();
        }
      }
    }
  }

  // Begins to add the values, times their weights, to matrix kIndex.
  template <int kIndex>
  FEWSTEP_HOST_DEVICE void add_values(const Block& block, State& state,
                                      const Matrix<kTile>& v) const {
    block.each_alone([&](int t) {
      FEWSTEP_UNROLL
      for (int b = 0; b < kBlocksOfDims; ++b) gpu::pin(state.sums[t].dims[kIndex][b]);
      const float* factor = state.rows[t].factor;
      if (factor[0] == 1.0f && factor[1] == 1.0f) return;  // no larger logit, as in most tiles
      FEWSTEP_UNROLL
      for (int b = 0; b < kBlocksOfDims; ++b) {
        gpu::WarpgroupSums& sums = state.sums[t].dims[kIndex][b];
        FEWSTEP_UNROLL
        for (int i = 0; i < 32; ++i) sums.x[i / 4][i % 4] *= factor[i % 4 / 2];
      }
    });
    Products& products = state.products;
    products.begin();
    FEWSTEP_UNROLL
    for (int k = 0; k < kTile; k += 16) {
      FEWSTEP_UNROLL
      for (int b = 0; b < kBlocksOfDims; ++b) {
        products.template multiply_fragments<kIsBf16>(
            [&](int t) -> gpu::WarpgroupSums& { return state.sums[t].dims[kIndex][b]; },
            [&](int t) { return state.weights[t].w[kIndex][k / 16]; },
            v.dims[b] + k * gpu::kSwizzledRow);
      }
    }
    products.end();
  }

  FEWSTEP_HOST_DEVICE void end_rows(const Block& block, const AttentionTask& task, State& state,
                                    Shared& s) const {
    const auto add = [](float a, float b) { return a + b; };
    FEWSTEP_UNROLL
    for (int i = 0; i < 2 * kTiles; ++i) {
      gpu::join_quads(
          block, [&](int t) -> float& { return state.rows[t].softmax[i / 2][i % 2].sum; }, add);
    }
    gpu::wait_for_copies<0>(block);  // nobody needs the tiles any more, nor writes to them
    block.each([&](int t) {
      FEWSTEP_UNROLL
      for (int i = 0; i < kTiles; ++i) store_sums(i, t, state.sums[t], state.rows[t], s);
    });
    block.each_alone([&](int t) {
      FEWSTEP_NO_UNROLL
      for (int row = t / 32; row < task.rows; row += kWarps) {
        end_row<kDims / 32>(p, task, row, t % 32, s.softmax[row],
                            [&](int i) { return s.sums[row][t % 32 + 32 * i]; });
      }
    });
  }

  FEWSTEP_HOST_DEVICE static void store_sums(int i, int t, Sums& sums, const Rows& rows,
                                             Shared& s) {
    FEWSTEP_UNROLL
    for (int b = 0; b < kBlocksOfDims; ++b) {
      gpu::pin(sums.dims[i][b]);
      FEWSTEP_UNROLL
      for (int j = 0; j < 32; ++j) {
        const int row = own_row(t, i) + j % 4 / 2 * 8;
        s.sums[row][b * kColumns + j / 4 * 8 + own_column(t) + j % 2] =
            sums.dims[i][b].x[j / 4][j % 4];
      }
    }
    if (t % 4 != 0) return;
    FEWSTEP_UNROLL
    for (int h = 0; h < 2; ++h) {
      s.softmax[own_row(t, i) + 8 * h] = rows.softmax[i][h].to_base_e();
    }
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
