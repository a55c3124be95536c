// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_columns.h"

// A task's rows against one tile of keys: streamed, or packed.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct Task {
  int64_t b, part;
  int g, heads;        // the first KV head, and how many
  int first, rows;     // of the request's tokens * ratio rows of each
  int64_t begin, end;  // keys
};

// The scratch of one task, on the stack. Rows are those of its heads, head by head.
struct Scratch {
  alignas(64) float keys[kTileKeys * kMaxHeadDim];
  alignas(64) float values[kTileKeys * kMaxHeadDim];
  alignas(64) float queries[kBlockRows][kMaxHeadDim];
  alignas(64) float out[kBlockRows * kMaxHeadDim];
  alignas(64) float sums[kBlockRows][kStrands];
  alignas(64) uint32_t hidden[kStrands][kTileKeys];
  float largest[kBlockRows];
  TileRows rows[2];
  const char* packed_v[kTileKeys];
  Stream stream;
  Running run;
  Ahead ahead;
  const char* q[kBlockRows];
};

// A stream's rows of halves are spread into four times their floats, of pairs twice.
static_assert(kStreamRows * 4 * kMaxHeadDim / 2 <= kBlockRows * kMaxHeadDim, "see heads_of");

// Points to a task's rows of q, as words of the cells that it is multiplied in.
void find_queries(const AttentionProblem& p, const Task& task, Scratch& s) {
  for (int i = 0; i < task.heads * task.rows; ++i) {
    const int row = task.first + i % task.rows;
    const int64_t n = first_of(p, task.b) + row / p.ratio;
    const int h = (task.g + i / task.rows) * p.ratio + row % p.ratio;
    s.q[i] = p.q.data + n * p.q.row + h * p.q.head;
#if defined(__AVX512BF16__)
    if (takes_pairs(p)) {
      const bool spread = has_blocks(p, task.rows) && is_stream(p, task.rows);
      if (spread) spread_row<PairRow>(s.q[i], p.D, s.queries[0] + i * spread_floats<PairRow>(p.D));
      continue;
    }
#elif defined(__AVX2__)
    if (has_halves(p) && is_stream(p, task.rows)) {
      spread_row<HalfRow>(s.q[i], p.D, s.queries[0] + i * spread_floats<HalfRow>(p.D));
      continue;
    }
#endif
    if (p.q_type == DType::kF32) continue;
    for (int d = 0; d < p.D; d += kLanes) {
      vec::store(s.queries[i] + d, load_row(p.q_type, s.q[i], d));
    }
    s.q[i] = (const char*)s.queries[i];
  }
}

// Lays out the blocks of a stream, as even as possible.
void find_blocks(const AttentionProblem& p, const Task& task, Scratch& s) {
  Stream& stream = s.stream;
  stream.heads = task.heads;
  stream.blocks = blocks_in(task.rows);
  stream.bytes = int(task.heads * p.D * bytes_of(p.kv_type));
  stream.twice = !p.prefetched;
  stream.into_first = p.large_first_cache && !p.prefetched;
  stream.next_tile = 4 * kTileKeys * stream.bytes <= kTwoTiles;
  for (int h = 0; h < task.heads; ++h) {
    int first = 0;
    for (int i = 0; i < stream.blocks; ++i) {
      Block& block = stream.block[h * stream.blocks + i];
      block.first = h * task.rows + first;
      block.rows = (task.rows - first + stream.blocks - i - 1) / (stream.blocks - i);
      block.q = s.q + block.first;
      first += block.rows;
    }
  }
}

// Which of a tile's keys rows see, `rows` of them from `first` on; heads of one token share the
// answer. Rows behind the task's last one see what that one does.
void find_mask(const AttentionProblem& p, const Task& task, int first, int rows, int64_t begin,
               int count, Scratch& s, const uint32_t** hidden) {
  int64_t token = -1;
  int slot = -1;
  for (int r = 0; r < rows; ++r) {
    const int64_t t = (task.first + min_of(first + r, task.rows - 1)) / p.ratio;
    if (t != token) find_hidden(p, task.b, t, begin, count, s.hidden[++slot]);
    token = t;
    hidden[r] = s.hidden[slot];
  }
}

void find_mask(const AttentionProblem& p, const Task& task, const Block& block, int64_t begin,
               int count, Scratch& s) {
  find_mask(p, task, block.first, block.rows, begin, count, s, s.run.hidden);
}

template <class Cell>
void weigh_block(Block& block, int count, Scratch& s) {
  s.run.largest = s.largest + block.first;
  s.run.sums = s.sums + block.first;
  weigh<Cell>(block, s.run, count);
}

// A stream's heads see the same keys.
template <class Cell>
void weigh_stream(const AttentionProblem& p, const Task& task, int64_t begin, int count,
                  Scratch& s) {
  Stream& stream = s.stream;
  for (int i = 0; i < stream.blocks; ++i) {
    if (s.run.masked) find_mask(p, task, stream.block[i], begin, count, s);
    for (int h = 0; h < stream.heads; ++h) {
      weigh_block<Cell>(stream.block[h * stream.blocks + i], count, s);
    }
  }
}

template <class Row, int kRows>
void do_stream(const AttentionProblem& p, const Task& task, const TileRows& tile, int64_t begin,
               Scratch& s) {
  score_stream<Row, kRows>(tile, p.D, s.stream, s.queries[0]);
  weigh_stream<Row>(p, task, begin, tile.count, s);
  if (Row::kHalves == 2 || p.D % (2 * kLanes) == 0) {
    add_stream<Row, kRows, 2>(tile, p.D, s.stream, s.out);
  } else {
    add_stream<Row, kRows, Row::kDepth>(tile, p.D, s.stream, s.out);
  }
}

#if defined(__AVX2__)
template <class Row>
void do_blocks(const AttentionProblem& p, const Task& task, const TileRows& tile, int64_t begin,
               Scratch& s) {
  score_blocks<Row>(tile, p.D, s.stream, s.queries[0], s.keys);
  weigh_stream<Row>(p, task, begin, tile.count, s);
  if (Row::kHalves == 2 || p.D % (kRegisterVectors * kLanes) == 0) {
    add_blocks<Row, kRegisterVectors>(tile, p.D, s.stream, s.values, s.out);
  } else {
    add_blocks<Row, Row::kDepth>(tile, p.D, s.stream, s.values, s.out);
  }
}
#endif

template <class Row>
void do_stream(const AttentionProblem& p, const Task& task, const TileRows& tile, int64_t begin,
               Scratch& s) {
#if defined(__AVX2__)
  if (task.rows > kFewRows) return do_blocks<Row>(p, task, tile, begin, s);
#endif
  if (task.rows == 1) return do_stream<Row, 1>(p, task, tile, begin, s);
  if (task.rows == 2) return do_stream<Row, 2>(p, task, tile, begin, s);
  if (task.rows == 3) return do_stream<Row, 3>(p, task, tile, begin, s);
  return do_stream<Row, 4>(p, task, tile, begin, s);
}

void do_any_stream(const AttentionProblem& p, const Task& task, const TileRows& tile, int64_t begin,
                   Scratch& s) {
  if (p.kv_type == DType::kBF16) return do_stream<BF16Row>(p, task, tile, begin, s);
  if (p.kv_type == DType::kF16) {
    return do_stream<FloatRow<DType::kF16>>(p, task, tile, begin, s);
  }
  return do_stream<FloatRow<DType::kF32>>(p, task, tile, begin, s);
}

#if defined(__AVX512BF16__)
void begin_columns(const AttentionProblem& p, const Task& task, Scratch& s) {
  pack_columns(s.q, task.rows - rest_of(task.rows), p.D / 2, s.queries[0]);
  for (int r = task.rows; r < vectors_of(task.rows) * kLanes; ++r) {
    s.largest[r] = minus_infinity();
    for (int i = 0; i < kStrands; ++i) s.sums[r][i] = 0.0f;
  }
}

// Puts what columns have made in the order of rows.
void end_columns(const Task& task, Scratch& s) {
  for (int v = 0; v < vectors_of(task.rows); ++v) {
    F32 z[kStrands];
    for (int i = 0; i < kStrands; ++i) z[i] = vec::load(s.sums[v * kLanes + i]);
    vec::transpose(z);
    for (int i = 0; i < kStrands; ++i) vec::store(s.sums[v * kLanes + i], z[i]);
  }
}

template <int kRows, int kVectors>
void add_rest(const Block& block, const TileRows& tile, int D, Scratch& s) {
  const char* w = weights_of<PairRow>(block, 0);
  for (int d = 0; d < D; d += kVectors * kLanes) {
    const PairRow::Values values{tile.v, int64_t(d) * PairRow::kBytes};
    add_values<PairRow, kRows, kVectors>(w, (tile.count + 1) / 2, values, block.factor,
                                         s.out + int64_t(block.first) * D + d, D, s.ahead);
  }
}

// The up to kRows rows behind the vectors, as a block of a stream.
template <int kRows>
void do_rest(const AttentionProblem& p, const Task& task, const TileRows& tile, int64_t begin,
             Scratch& s) {
  if (rest_of(task.rows) != kRows) {
    if constexpr (kRows > 1) do_rest<kRows - 1>(p, task, tile, begin, s);
    return;
  }
  Block& block = s.stream.block[0];
  block.first = task.rows - kRows;
  block.rows = kRows;
  block.q = s.q + block.first;
  for (int j = 0; j < tile.count; j += kBlockGroup) {
    FarLines lines(tile.k + j, kBlockGroup, p.D * PairRow::kBytes, !p.prefetched);
    for (int i = j; i < min_of(j + kBlockGroup, tile.count); i += 4 * kQuads) {
      score_keys<PairRow, kRows, From::kCache, 1>(QueryRows{block.q}, tile.k + i, 0, p.D, nullptr,
                                                  block.scores[0] + i, lines);
    }
  }
  if (s.run.masked) find_mask(p, task, block, begin, tile.count, s);
  weigh_block<Pair>(block, tile.count, s);
  if (p.D % 64 == 0) {
    add_rest<kRows, 4>(block, tile, p.D, s);
  } else {
    add_rest<kRows, 2>(block, tile, p.D, s);
  }
}

void do_columns(const AttentionProblem& p, const Task& task, TileRows& tile, int64_t begin,
                Scratch& s) {
  const int vectors = int(vectors_of(task.rows)), count = tile.count, words = p.D / 2;
  alignas(64) float top[kColumnVectors * kLanes];
  tile.v[count] = tile.v[count - 1];  // of a weight of zero, where the last has no other
  for (int v = 0; v < vectors; v += kColumnVectors) {
    const int together = min_of(kColumnVectors, vectors - v);
    const float* q = s.queries[0] + int64_t(v) * words * kLanes;
    if (together == 2) {
      score_all_columns<2>(q, words, tile.k, count, s.keys, top, s.ahead);
    } else {
      score_all_columns<1>(q, words, tile.k, count, s.keys, top, s.ahead);
    }
    const int pitch = together * kLanes;
    float scale = p.scale;
    if (p.softcap > 0.0f) {
      cap_row(s.keys, count * pitch, p.scale, p.softcap);
      scale = 1.0f;
    }
    for (int i = 0; i < together; ++i) {
      const int first = (v + i) * kLanes;
      Columns c;
      c.scores = s.keys + i * kLanes;
      c.pitch = pitch;
      c.top = top + i * kLanes;
      c.weights = s.values + i * kTileKeys / 2 * kLanes;
      c.largest = s.largest + first;
      c.sums = s.sums + first;
      if (s.run.masked) {
        const uint32_t* hidden[kLanes];
        find_mask(p, task, first, kLanes, begin, count, s, hidden);
        hide_columns(c, hidden, count);
      }
      if (s.run.masked || p.softcap > 0.0f) find_top(c, count);
      if (count % 2 != 0) vec::store(c.scores + count * pitch, vec::set(minus_infinity()));
      weigh_columns(c, scale, count);
      const int rows = min_of(kLanes, task.rows - first);
      float* out = s.out + int64_t(first) * p.D;
      if (p.D % 64 == 0) {
        add_columns<4>(c, rows, (count + 1) / 2, tile.v, out, p.D, s.ahead);
      } else {
        add_columns<2>(c, rows, (count + 1) / 2, tile.v, out, p.D, s.ahead);
      }
    }
  }
  if (rest_of(task.rows) > 0) do_rest<kStreamBlockRows>(p, task, tile, begin, s);
}
#endif

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
