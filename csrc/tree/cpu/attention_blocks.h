// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_stream.h"

// A stream of more rows than one block has. Packing a tile beforehand would take as long as the
// products of two blocks; here those of a head's first block hide it: what they load is put in
// place in registers, used, and stored for the other blocks.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Rows of a block: one more leaves no registers for what is stored.
constexpr int kStreamBlockRows = kLanes == 8 ? 4 : 5;
constexpr int kBlockGroup = 64;  // tokens
constexpr int kPiecewiseRows = kLanes == 8 ? 16 : 24;

// Whether rows of a head are such a stream. Where a tile of floats is packed piecewise, more of
// them gain by that.
inline bool has_blocks(const AttentionProblem& p, int64_t rows) {
  const bool piecewise = p.large_first_cache && !takes_pairs(p);
  const int most = piecewise ? kPiecewiseRows : kLanes == 8 ? 20 : 32;
  return kQuads > 0 && rows > kFewRows && rows <= most;
}

// Vectors with a row in each lane; few rows behind them are a block, others fill lanes of one more.
inline int rest_of(int64_t rows) {
  const int rest = int(rows % kLanes);
  return rest <= kStreamBlockRows ? rest : 0;
}
inline int64_t vectors_of(int64_t rows) { return (rows - rest_of(rows) + kLanes - 1) / kLanes; }

// Whether rows of pairs fill vectors well enough for attention_columns.h.
inline bool has_columns(const AttentionProblem& p, int64_t rows) {
  const int64_t lanes = kLanes * vectors_of(rows) + rest_of(rows);
  return takes_pairs(p) && p.D % 32 == 0 && rows >= kLanes && 8 * lanes <= 9 * rows;
}

// Whether they are so few that keys and values are used as they lie in the cache.
inline bool is_stream(const AttentionProblem& p, int64_t rows) {
  if (has_columns(p, rows)) return false;
  if (rows > kFewRows && !has_blocks(p, rows)) return false;
  return takes_pairs(p) ? p.D % 32 == 0 : !is_byte(p.kv_type);
}

// Blocks of a stream's rows.
inline int blocks_in(int rows) {
  return rows > kFewRows ? (rows + kStreamBlockRows - 1) / kStreamBlockRows : 1;
}

#if defined(__AVX2__)
template <class Row, From kFrom>
void score_block(Block& block, const float* spread, const char* const* keys, int64_t offset, int D,
                 float* packed, int at, FarLines& lines) {
  const auto q = query_of<Row, Row::kSpread != Spread::kNever>(block, spread, D);
  float* s = block.scores[0] + at;
  if (block.rows == 2) score_keys<Row, 2, kFrom, 1>(q, keys, offset, D, packed, s, lines);
  if (block.rows == 3) score_keys<Row, 3, kFrom, 1>(q, keys, offset, D, packed, s, lines);
  if (block.rows == 4) score_keys<Row, 4, kFrom, 1>(q, keys, offset, D, packed, s, lines);
  if constexpr (kStreamBlockRows > 4) {
    if (block.rows == 5) score_keys<Row, 5, kFrom, 1>(q, keys, offset, D, packed, s, lines);
  }
}

// The same for up to kGroups times as many keys, [at, end), each of which has kept as many words as
// a row of q.
template <class Row, From kFrom>
void score_group(Block& block, const float* spread, const char* const* keys, int64_t offset, int D,
                 float* packed, int at, int end, FarLines& lines) {
  for (int i = at; i < end; i += 4 * kQuads) {
    score_block<Row, kFrom>(block, spread, keys + i, offset, D, packed, i, lines);
    packed += kQuads * spread_floats<Row>(D);
  }
}

// Logits of a tile's keys. spread: all rows, where they are to be.
template <class Row>
void score_blocks(const TileRows& tile, int D, Stream& s, const float* spread, float* packed) {
  for (int j = 0; j < tile.count; j += kBlockGroup) {
    FarLines lines(tile.k + j, kBlockGroup, s.bytes, s.twice);
    const int end = min_of(j + kBlockGroup, tile.count);
    for (int h = 0; h < s.heads; ++h) {
      const int64_t at = int64_t(h) * D * Row::kBytes;
      for (int i = j; i < end; i += 4 * kQuads * Row::kGroups) {
        const int behind = min_of(i + 4 * kQuads * Row::kGroups, end);
        Block* block = s.block + h * s.blocks;
        score_group<Row, From::kCacheAndKeep>(block[0], spread, tile.k, at, D, packed, i, behind,
                                              lines);
        for (int b = 1; b < s.blocks; ++b) {
          score_group<Row, From::kKept>(block[b], spread, tile.k, at, D, packed, i, behind, lines);
        }
      }
    }
  }
}

// Values of the first block, stored for the others,
template <class Values>
struct KeptValues : Values {
  float* packed;  // [words][kVectors * kLanes]

  template <int kVectors>
  void load(int w, F32* v) const {
    Values::template load<kVectors>(w, v);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) vec::store(packed + (w * kVectors + i) * kLanes, v[i]);
  }
};

// which ask for no lines.
struct PackedValues {
  static constexpr int kWords = 1;
  const float* packed;

  template <int kVectors>
  void load(int w, F32* v) const {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) v[i] = vec::load(packed + (w * kVectors + i) * kLanes);
  }
  template <int>
  void step() {}
};

template <class Row, int kVectors, class Values, class Next>
void add_block(const Block& block, int first, int words, const Values& v, const float* factor,
               float* out, int D, Next& next) {
  const char* w = weights_of<Row>(block, first);
  if (block.rows == 2) return add_values<Row, 2, kVectors>(w, words, v, factor, out, D, next);
  if (block.rows == 3) return add_values<Row, 3, kVectors>(w, words, v, factor, out, D, next);
  if (block.rows == 4) return add_values<Row, 4, kVectors>(w, words, v, factor, out, D, next);
  add_values<Row, kStreamBlockRows, kVectors>(w, words, v, factor, out, D, next);
}

// The values' part, as `add_stream`. D is a multiple of kVectors vectors.
template <class Row, int kVectors>
void add_blocks(const TileRows& tile, int D, Stream& s, float* packed, float* out) {
  for (int j = 0; j < tile.count; j += kBlockGroup) {
    const int words = (min_of(kBlockGroup, tile.count - j) + Row::kDepth - 1) / Row::kDepth;
    FarLines lines(tile.v + j, kBlockGroup, s.bytes, s.twice);
    for (int h = 0; h < s.heads; ++h) {
      for_vectors<Row, kVectors>(D, [&](int d, auto vectors) {
        const int64_t at = (int64_t(h) * D + d) * Row::kBytes;
        const KeptValues<typename Row::Values> values{{tile.v + j, at}, packed};
        PackedValues others{packed};
        for (int b = 0; b < s.blocks; ++b) {
          const Block& block = s.block[h * s.blocks + b];
          const float* factor = j == 0 ? block.factor : kOnes;
          float* to = out + int64_t(block.first) * D + d;
          if (b == 0) {
            add_block<Row, vectors>(block, j, words, values, factor, to, D, lines);
          } else {
            add_block<Row, vectors>(block, j, words, others, factor, to, D, others);
          }
        }
      });
    }
  }
}

#endif

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
