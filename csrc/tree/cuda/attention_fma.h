// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/async_copy.h"
#include "core/scaled_bytes.h"
#include "tree/cuda/attention_rows.h"

// Attention of float32, to a cache of float32 or scaled bytes.
//
// Mapping: a block has up to 16 rows of a KV head and a part of its keys, and walks over tiles of
// 32, which lie in shared memory as floats. A warp has four rows: a thread their logits of one key,
// in four strands, and then all keys' sums of every 32nd dim.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// kWidth: the head dims that there is room for.
template <bool kIsScaled, int kWidth>
struct FloatAttentionKernel {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr int kRows = 16, kTile = 32, kWarpRows = 4;
  static constexpr int kPitch = kWidth + 4;  // 16 bytes of each of eight rows: all 32 banks
  static constexpr int kQuads = kWidth / 4;
  using Block = gpu::Block<kThreads>;
  template <class T>
  using Per = gpu::PerThread<T, kThreads>;

  struct alignas(16) Quad {
    float x[4];
  };
  struct Shared {
    alignas(16) float q[kRows][kPitch], k[kTile][kPitch], v[kTile][kPitch];
    float logits[kRows][kTile], weights[kRows][kTile];
    float factor[kRows], largest[kRows], sums[kRows][kTile / 4];
    KeyRow key[kTile];
    int64_t left[kRows];
    int32_t has_gap;  // keys on pages that there are not, in this tile or an earlier one
    AttentionTask task;
    LeftWindow window;
  };
  struct Sums {
    float x[kWarpRows][kWidth / 32];
  };

  AttentionProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const AttentionTask task = shared_task(block, p, block.index, kRows, &s.task);
    if (task.rows == 0) return;
    find_queries(block, task, s);
    const LeftWindow window = s.window;
    Per<Sums> sums;
    Per<RunningSoftmax> softmax;
    block.each_alone([&](int t) {
      sums[t] = Sums{};
      softmax[t] = {minus_infinity(), 0.0f};
    });
    FEWSTEP_NO_UNROLL
    for (int64_t i = first_tile(task, window.every, kTile); i < task.end; i += kTile) {
      do_tile(block, task, window, i, sums, softmax, s);
    }
    block.each([&](int t) {
      if (t % 8 == 0) s.largest[t / 8] = softmax[t].largest;
      s.sums[t / 8][t % 8] = softmax[t].sum;
    });
    block.each_alone([&](int t) { end_rows(task, t, sums[t], s); });
  }

  FEWSTEP_HOST_DEVICE void find_queries(const Block& block, const AttentionTask& task,
                                        Shared& s) const {
    block.each([&](int t) {
      if (t < kRows) {
        s.left[t] = t < task.rows ? left_by(p, task, token_of(p, task, t)) : -1;
      }
      if (t == 0) s.has_gap = 0;
      FEWSTEP_NO_UNROLL
      for (int row = t / 32; row < kRows; row += kThreads / 32) {
        const char* from = query_of(p, task, row < task.rows ? row : 0);
        for (int d = t % 32; d < p.D; d += 32) s.q[row][d] = element_of(from, d);
      }
    });
    block.each([&](int t) {
      if (t == 0) s.window = p.window > 0 ? window_of(task, s.left) : LeftWindow{-1, -1};
    });
  }

  FEWSTEP_HOST_DEVICE void do_tile(const Block& block, const AttentionTask& task,
                                   const LeftWindow& window, int64_t begin, Per<Sums>& sums,
                                   Per<RunningSoftmax>& softmax, Shared& s) const {
    block.each([&](int t) {
      if (t >= kTile) return;
      s.key[t] = key_row(p, task, begin + t);
      if (!s.key[t].k && begin + t < task.end) s.has_gap = 1;
    });
    const bool is_masked =
        begin + kTile > smaller_of(task.prefix, task.end) || begin <= window.some || s.has_gap;
    block.each_alone([&](int t) { load_tile<true>(s.key, s.k, t); });
    gpu::end_copies();
    block.each_alone([&](int t) { load_tile<false>(s.key, s.v, t); });
    gpu::end_copies();
    gpu::wait_for_copies<1>(block);
    block.each([&](int t) { score(task, is_masked, begin, t, s); });
    block.each([&](int t) { weigh(t, softmax[t], s); });
    gpu::wait_for_copies<0>(block);
    block.each([&](int t) { add_values(t, sums[t], s); });
  }

  // An element of a row of queries or drafted tokens.
  FEWSTEP_HOST_DEVICE static float element_of(const char* row, int d) {
    return vec::float_of_bits({((const gpu::Word*)row)[d]}).v;
  }

  // Four elements of a row in memory.
  FEWSTEP_HOST_DEVICE Quad quad_of(const KeyRow& row, const char* from, float scale, int d) const {
    Quad quad{};
    if (!from) return quad;
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; ++i) {
      quad.x[i] = kIsScaled && !row.is_draft
                      ? scale * number_of_byte(p.kv_type, ((const uint8_t*)from)[d + i])
                      : element_of(from, d + i);
    }
    return quad;
  }

  // Begins to copy keys or values; those that there are not are zero, as weights of keys that
  // nobody sees are multiplied with them.
  template <bool kIsKeys>
  FEWSTEP_HOST_DEVICE void load_tile(const KeyRow (&rows)[kTile], float (&to)[kTile][kPitch],
                                     int t) const {
    for (int c = t; c < kTile * kQuads; c += kThreads) {
      const int j = c / kQuads, d = c % kQuads * 4;
      if (d >= p.D) continue;
      const KeyRow& row = rows[j];
      const char* from = kIsKeys ? row.k : row.v;
      if (!kIsScaled && p.is_wide && from) {
        gpu::copy16_async(&to[j][d], from + 4 * d);
      } else {
        *(Quad*)&to[j][d] = quad_of(row, from, kIsKeys ? row.k_scale : row.v_scale, d);
      }
    }
  }

  FEWSTEP_HOST_DEVICE void score(const AttentionTask& task, bool is_masked, int64_t begin, int t,
                                 Shared& s) const {
    const int first = t / 32 * kWarpRows, j = t % 32;
    Quad sum[kWarpRows] = {};
    FEWSTEP_NO_UNROLL
    for (int d = 0; d < p.D; d += 4) {
      const Quad key = *(const Quad*)&s.k[j][d];
      FEWSTEP_UNROLL
      for (int r = 0; r < kWarpRows; ++r) {
        const Quad q = *(const Quad*)&s.q[first + r][d];
        FEWSTEP_UNROLL
        for (int i = 0; i < 4; ++i) sum[r].x[i] = fmaf(q.x[i], key.x[i], sum[r].x[i]);
      }
    }
    FEWSTEP_UNROLL
    for (int r = 0; r < kWarpRows; ++r) {
      const float* x = sum[r].x;
      const int row = first + r;
      float logit = capped(p, (x[0] + x[1]) + (x[2] + x[3]));
      if (is_masked && !is_seen(task, row, begin + j, s.key[j], s)) logit = minus_infinity();
      s.logits[row][j] = logit;
    }
  }

  FEWSTEP_HOST_DEVICE bool is_seen(const AttentionTask& task, int row, int64_t i, const KeyRow& key,
                                   const Shared& s) const {
    return row < task.rows && key.k && sees(p, task, token_of(p, task, row), s.left[row], i);
  }

  // Eight threads have a row, each four of its keys and their strand of the sum.
  FEWSTEP_HOST_DEVICE void weigh(int t, RunningSoftmax& softmax, Shared& s) const {
    const int row = t / 8, first = t % 8 * 4;
    const float scale = scale_of(p);
    float top = minus_infinity();
    for (int j = 0; j < kTile; ++j) top = larger_of(top, s.logits[row][j]);
    float factor;
    const float base = softmax.raise(top * scale, &factor);
    FEWSTEP_UNROLL
    for (int j = 0; j < 4; ++j) {
      const float weight = exp_of(fmaf(s.logits[row][first + j], scale, -base));
      s.weights[row][first + j] = weight;
      softmax.sum += weight;
    }
    if (first == 0) s.factor[row] = factor;
  }

  FEWSTEP_HOST_DEVICE void add_values(int t, Sums& sums, const Shared& s) const {
    const int first = t / 32 * kWarpRows, lane = t % 32;
    FEWSTEP_UNROLL
    for (int r = 0; r < kWarpRows; ++r) {
      FEWSTEP_UNROLL
      for (int i = 0; i < kWidth / 32; ++i) sums.x[r][i] *= s.factor[first + r];
    }
    FEWSTEP_NO_UNROLL
    for (int j = 0; j < kTile; ++j) {
      FEWSTEP_UNROLL
      for (int i = 0; i < kWidth / 32; ++i) {
        const float v = lane + 32 * i < p.D ? s.v[j][lane + 32 * i] : 0.0f;
        FEWSTEP_UNROLL
        for (int r = 0; r < kWarpRows; ++r) {
          sums.x[r][i] = fmaf(s.weights[first + r][j], v, sums.x[r][i]);
        }
      }
    }
  }

  FEWSTEP_HOST_DEVICE void end_rows(const AttentionTask& task, int t, const Sums& sums,
                                    const Shared& s) const {
    FEWSTEP_UNROLL
    for (int r = 0; r < kWarpRows; ++r) {
      const int row = t / 32 * kWarpRows + r;
      if (row >= task.rows) continue;
      const float* x = s.sums[row];
      const float sum = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
      end_row<kWidth / 32>(p, task, row, t % 32, RunningSoftmax{s.largest[row], sum},
                           [&](int i) { return sums.x[r][i]; });
    }
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
