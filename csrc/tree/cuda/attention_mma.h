// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/mma.h"
#include "tree/cuda/attention_rows.h"
#include "tree/cuda/attention_scores.h"
#include "tree/cuda/attention_tile.h"

// Attention of bfloat16 and float16 to a cache of the same type or of 8 bits, on tensor cores.
//
// Mapping: a block has up to 16 or 64 rows of a KV head and a part of its keys, and walks over
// tiles of them. A warp has 16 rows: with 64 rows in the block all keys of a tile, and with 16 a
// quarter of them, so that few rows keep four warps busy; what the warps of a row found is joined
// at the end. Values are on their way while the keys are multiplied, and then the next tile's keys.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// kWidth: the head dims that there is room for; kIsBytes: the cache's elements have 8 bits, and
// scales.
template <bool kIsBf16, int kWidth, int kRowWarps, bool kIsBytes>
struct HalfAttentionKernel {
  // Few rows wait for memory: three blocks of them are to share a multiprocessor.
  static constexpr int kThreads = 128, kBlocks = kWidth == 128 && kRowWarps == 1 ? 3 : 1;
  static constexpr DType kType = kIsBf16 ? DType::kBF16 : DType::kF16;
  static constexpr int kWarps = kThreads / 32, kKeyWarps = kWarps / kRowWarps;
  static constexpr int kRows = 16 * kRowWarps;
  static constexpr int kTile = kWidth == 256 && kRowWarps == 4 ? 32 : 64;
  static constexpr int kWarpKeys = kTile / kKeyWarps;
  static constexpr int kPitch = kWidth + kPad;
  using Block = gpu::Block<kThreads>;
  template <class T>
  using Per = gpu::PerThread<T, kThreads>;
  using Read = TileRead<kIsBytes, kIsBf16, kTile, kWidth, kThreads>;

  struct Tiles {
    alignas(16) uint16_t q[kRows][kPitch], k[kTile][kPitch], v[kTile][kPitch];
  };
  struct Shared {
    union {
      Tiles tiles;
      float sums[kWarps][16][kWidth];  // once the tiles are done
    };
    RunningSoftmax softmax[kWarps][16];
    const char* query[kRows];
    const char *key[2][kTile], *value[2][kTile];  // of this tile and the next, in turn
    float k_scale[2][kIsBytes ? kTile : 1], v_scale[2][kIsBytes ? kTile : 1];
    int64_t gap[2];  // the tile, where it has keys on no page
    int64_t left[kRows];
    uint8_t seen[kRows][kTile];
    AttentionTask task;
    LeftWindow window;
  };
  struct Scores {
    float x[kWarpKeys / 8][4];
  };
  struct Sums {
    float x[kWidth / 8][4];
  };
  struct Rows {  // a thread's two, eight apart; logits to the base 2
    RunningSoftmax softmax[2];
    Unit unit[2];
    float factor[2], top[2];
  };

  AttentionProblem p;

  // Of thread t: its warp's first row and key, and its own first row and column in fragments.
  FEWSTEP_HOST_DEVICE static int first_row(int t) { return t / 32 % kRowWarps * 16; }
  FEWSTEP_HOST_DEVICE static int first_key(int t) { return t / 32 / kRowWarps * kWarpKeys; }
  FEWSTEP_HOST_DEVICE static int own_row(int t) { return first_row(t) + t % 32 / 4; }
  FEWSTEP_HOST_DEVICE static int own_column(int t) { return t % 4 * 2; }

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const AttentionTask task = shared_task(block, p, block.index, kRows, &s.task);
    if (task.rows == 0) return;
    find_queries(block, task, s);
    const LeftWindow window = s.window;
    int64_t begin = first_tile(task, window.every, kTile);
    block.each([&](int t) { find_keys(task, begin, 0, t, s); });
    Per<Read> read;
    begin_read(block, bytes_of(task, begin), s.key[0], s.tiles.k, read);
    gpu::end_copies();
    Per<Sums> sums;
    Per<Rows> rows;
    block.each_alone([&](int t) {
      sums[t] = Sums{};
      rows[t] = Rows{{{minus_infinity(), 0.0f}, {minus_infinity(), 0.0f}}, {}, {}, {}};
    });
    FEWSTEP_NO_UNROLL
    for (int turn = 0; begin < task.end; turn ^= 1) {
      do_tile(block, task, window, begin, turn, read, sums, rows, s);
      begin += kTile;
    }
    gpu::wait_for_copies<0>(block);
    end_rows(block, task, sums, rows, s);
  }

  FEWSTEP_HOST_DEVICE void find_queries(const Block& block, const AttentionTask& task,
                                        Shared& s) const {
    block.each([&](int t) {
      if (t < kRows) {
        const bool is_row = t < task.rows;
        s.query[t] = is_row ? query_of(p, task, t) : nullptr;
        s.left[t] = is_row ? left_by(p, task, token_of(p, task, t)) : -1;
      }
      if (t < 2) s.gap[t] = -1;
    });
    block.each([&](int t) {
      copy_halves<kThreads>(s.query, 0, p.D, p.is_wide, s.tiles.q, t);
      if (t == 0) s.window = p.window > 0 ? window_of(task, s.left) : LeftWindow{-1, -1};
    });
  }

  FEWSTEP_HOST_DEVICE void find_keys(const AttentionTask& task, int64_t begin, int turn, int t,
                                     Shared& s) const {
    if (t >= kTile) return;
    const KeyRow row = key_row(p, task, begin + t);
    s.key[turn][t] = row.k;
    s.value[turn][t] = row.v;
    if constexpr (kIsBytes) {
      s.k_scale[turn][t] = row.k_scale;
      s.v_scale[turn][t] = row.v_scale;
    }
    if (!row.k && begin + t < task.end) s.gap[turn] = begin;
  }

  // Rows of the tile at `begin` that are of bytes: its first ones, as drafted tokens are behind.
  FEWSTEP_HOST_DEVICE int bytes_of(const AttentionTask& task, int64_t begin) const {
    if (!kIsBytes) return 0;
    if (p.draft != Draft::kSeparate) return kTile;
    return (int)smaller_of(larger_of(task.prefix - begin, int64_t(0)), int64_t(kTile));
  }

  FEWSTEP_HOST_DEVICE void begin_read(const Block& block, int bytes,
                                      const typename Read::Rows& from, typename Read::Tile& to,
                                      Per<Read>& read) const {
    block.each_alone([&](int t) { read[t].begin(from, bytes, p.kv_type, p.D, p.is_wide, to, t); });
  }

  FEWSTEP_HOST_DEVICE void do_tile(const Block& block, const AttentionTask& task,
                                   const LeftWindow& window, int64_t begin, int turn,
                                   Per<Read>& read, Per<Sums>& sums, Per<Rows>& rows,
                                   Shared& s) const {
    const int bytes = bytes_of(task, begin);
    block.each_alone([&](int t) { read[t].end(bytes, p.kv_type, p.D, p.is_wide, s.tiles.k, t); });
    begin_read(block, bytes, s.value[turn], s.tiles.v, read);
    gpu::end_copies();
    gpu::wait_for_copies<1>(block);
    Per<Scores> scores;
    score(block, scores, s);
    const bool is_masked = begin + kTile > smaller_of(task.prefix, task.end) ||
                           begin <= window.some || s.gap[turn] == begin;
    block.each([&](int t) {
      if (is_masked) find_seen(task, begin, s.key[turn], t, s);
      find_keys(task, begin + kTile, turn ^ 1, t, s);
    });
    block.each_alone([&](int t) { read[t].end(bytes, p.kv_type, p.D, p.is_wide, s.tiles.v, t); });
    if (begin + kTile < task.end) {
      begin_read(block, bytes_of(task, begin + kTile), s.key[turn ^ 1], s.tiles.k, read);
    }
    gpu::end_copies();
    weigh(block, is_masked, turn, scores, rows, s);
    if constexpr (kIsBytes) scale_weights(block, turn, scores, rows, s);
    gpu::wait_for_copies<1>(block);
    add_values(block, scores, rows, sums, s);
    block.barrier();
  }

  FEWSTEP_HOST_DEVICE void find_seen(const AttentionTask& task, int64_t begin,
                                     const char* const (&key)[kTile], int t, Shared& s) const {
    FEWSTEP_NO_UNROLL
    for (int c = t; c < kRows * kTile; c += kThreads) {
      const int row = c / kTile, j = c % kTile;
      s.seen[row][j] = row < task.rows && key[j] &&
                       sees(p, task, token_of(p, task, row), s.left[row], begin + j);
    }
  }

  // The logits of a warp's rows and keys, unscaled.
  FEWSTEP_HOST_DEVICE void score(const Block& block, Per<Scores>& scores, Shared& s) const {
    Per<Words> a, b;
    block.each_alone([&](int t) { scores[t] = Scores{}; });
    FEWSTEP_NO_UNROLL
    for (int d = 0; d < p.D; d += 16) {
      gpu::load_matrices<false>(
          block, [&](int t) { return &s.tiles.q[first_row(t) + t % 16][d + t / 16 % 2 * 8]; },
          [&](int t) { return a[t].w; });
      FEWSTEP_UNROLL
      for (int j = 0; j < kWarpKeys / 8; j += 2) {
        gpu::load_matrices<false>(
            block,
            [&](int t) {
              const int key = first_key(t) + 8 * j + t / 16 % 2 * 8 + t % 8;
              return &s.tiles.k[key][d + t / 8 % 2 * 8];
            },
            [&](int t) { return b[t].w; });
        FEWSTEP_UNROLL
        for (int i = 0; i < 2; ++i) {
          gpu::multiply<kIsBf16>(
              block, [&](int t) { return scores[t].x[j + i]; }, [&](int t) { return a[t].w; },
              [&](int t) { return b[t].w + 2 * i; });
        }
      }
    }
  }

  // Turns logits into weights, and takes them into the rows' sums.
  FEWSTEP_HOST_DEVICE void weigh(const Block& block, bool is_masked, int turn, Per<Scores>& scores,
                                 Per<Rows>& rows, const Shared& s) const {
    block.each_alone([&](int t) {
      if constexpr (kIsBytes) multiply_keys(t, s.k_scale[turn], scores[t]);
      if (p.softcap > 0.0f) cap(p, scores[t].x);
      if (is_masked) hide(t, s, scores[t]);
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) rows[t].top[h] = top_of(scores[t].x, h);
    });
    join_tops(block, [&](int t) { return rows[t].top; });
    block.each_alone([&](int t) {
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) {
        Rows& own = rows[t];
        weigh_row(p, scores[t].x, h, own.top[h], own.softmax[h], &own.factor[h]);
      }
    });
  }

  // Weights take in the scales of their values, in float16 those of the rows' units.
  FEWSTEP_HOST_DEVICE void scale_weights(const Block& block, int turn, Per<Scores>& scores,
                                         Per<Rows>& rows, const Shared& s) const {
    block.each_alone([&](int t) { multiply_keys(t, s.v_scale[turn], scores[t]); });
    if constexpr (kIsBf16) return;
    block.each_alone([&](int t) {
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) {
        float top = 0.0f;
        FEWSTEP_UNROLL
        for (int i = 0; i < kWarpKeys / 4; ++i) {
          const float x = scores[t].x[i / 2][2 * h + i % 2];
          top = larger_of(top, larger_of(x, -x));
        }
        rows[t].top[h] = top;
      }
    });
    join_tops(block, [&](int t) { return rows[t].top; });
    block.each_alone([&](int t) {
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float inverse = rows[t].unit[h].raise(rows[t].top[h], &rows[t].factor[h]);
        FEWSTEP_UNROLL
        for (int i = 0; i < kWarpKeys / 4; ++i) scores[t].x[i / 2][2 * h + i % 2] *= inverse;
      }
    });
  }

  // Of a warp's keys, times `scale` of each.
  FEWSTEP_HOST_DEVICE static void multiply_keys(int t, const float* scale, Scores& scores) {
    FEWSTEP_UNROLL
    for (int j = 0; j < kWarpKeys / 8; ++j) {
      const float* own = scale + first_key(t) + 8 * j + own_column(t);
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; ++i) scores.x[j][i] *= own[i % 2];
    }
  }

  FEWSTEP_HOST_DEVICE static void hide(int t, const Shared& s, Scores& scores) {
    FEWSTEP_UNROLL
    for (int j = 0; j < kWarpKeys / 8; ++j) {
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = own_row(t) + i / 2 * 8, key = first_key(t) + 8 * j + own_column(t) + i % 2;
        if (!s.seen[row][key]) scores.x[j][i] = minus_infinity();
      }
    }
  }

  FEWSTEP_HOST_DEVICE void add_values(const Block& block, const Per<Scores>& weights,
                                      const Per<Rows>& rows, Per<Sums>& sums, Shared& s) const {
    block.each_alone([&](int t) {
      const float* factor = rows[t].factor;
      if (factor[0] == 1.0f && factor[1] == 1.0f) return;  // no larger logit, as in most tiles
      FEWSTEP_UNROLL
      for (int n = 0; n < kWidth / 8; ++n) {
        FEWSTEP_UNROLL
        for (int i = 0; i < 4; ++i) sums[t].x[n][i] *= factor[i / 2];
      }
    });
    Per<Words> a, b;
    FEWSTEP_UNROLL
    for (int k = 0; k < kWarpKeys; k += 16) {
      block.each_alone([&](int t) {
        FEWSTEP_UNROLL
        for (int i = 0; i < 4; ++i) {  // an accumulator's layout is that of a half of A
          const float* x = weights[t].x[k / 8 + i / 2] + i % 2 * 2;
          a[t].w[i] = gpu::narrow_pair(kType, x[0], x[1]);
        }
      });
      FEWSTEP_UNROLL
      for (int d = 0; d < kWidth; d += 16) {
        if (d >= p.D) continue;
        gpu::load_matrices<true>(
            block, [&](int t) { return &s.tiles.v[first_key(t) + k + t % 16][d + t / 16 % 2 * 8]; },
            [&](int t) { return b[t].w; });
        FEWSTEP_UNROLL
        for (int i = 0; i < 2; ++i) {
          gpu::multiply<kIsBf16>(
              block, [&](int t) { return sums[t].x[d / 8 + i]; }, [&](int t) { return a[t].w; },
              [&](int t) { return b[t].w + 2 * i; });
        }
      }
    }
  }

  FEWSTEP_HOST_DEVICE void end_rows(const Block& block, const AttentionTask& task,
                                    const Per<Sums>& sums, Per<Rows>& rows, Shared& s) const {
    const auto add = [](float a, float b) { return a + b; };
    gpu::join_quads(block, [&](int t) -> float& { return rows[t].softmax[0].sum; }, add);
    gpu::join_quads(block, [&](int t) -> float& { return rows[t].softmax[1].sum; }, add);
    block.each([&](int t) {
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int row = t % 32 / 4 + 8 * h;
        const float unit = kIsBytes && !kIsBf16 ? rows[t].unit[h].size : 1.0f;
        if (t % 4 == 0) s.softmax[t / 32][row] = rows[t].softmax[h].to_base_e();
        FEWSTEP_UNROLL
        for (int i = 0; i < kWidth / 4; ++i) {
          s.sums[t / 32][row][i / 2 * 8 + own_column(t) + i % 2] =
              sums[t].x[i / 2][2 * h + i % 2] * unit;
        }
      }
    });
    block.each_alone([&](int t) {
      FEWSTEP_NO_UNROLL
      for (int row = t / 32; row < task.rows; row += kWarps) end_row(task, row, t % 32, s);
    });
  }

  // Joins what the warps of a row have found.
  FEWSTEP_HOST_DEVICE void end_row(const AttentionTask& task, int row, int lane,
                                   const Shared& s) const {
    const int warp = row / 16, own = row % 16;
    RunningSoftmax all = s.softmax[warp][own];
    FEWSTEP_UNROLL
    for (int w = 1; w < kKeyWarps; ++w) {
      all.largest = larger_of(all.largest, s.softmax[warp + w * kRowWarps][own].largest);
    }
    const float base = all.largest == minus_infinity() ? 0.0f : all.largest;
    float factor[kKeyWarps];
    all.sum = 0.0f;
    FEWSTEP_UNROLL
    for (int w = 0; w < kKeyWarps; ++w) {
      const RunningSoftmax& part = s.softmax[warp + w * kRowWarps][own];
      factor[w] = exp_of(part.largest - base);
      all.sum = fmaf(part.sum, factor[w], all.sum);
    }
    tree::FEWSTEP_ISA::end_row<kWidth / 32>(p, task, row, lane, all, [&](int i) {
      float sum = 0.0f;
      FEWSTEP_UNROLL
      for (int w = 0; w < kKeyWarps; ++w) {
        sum = fmaf(s.sums[warp + w * kRowWarps][own][lane + 32 * i], factor[w], sum);
      }
      return sum;
    });
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
