// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_stream.h"

// A stream of more rows than one block has, against bfloat16. Packing a tile beforehand would take
// as long as two blocks' products; here those of a head's first block hide it: what they load is
// put in place in registers, used, and stored for the other blocks.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int kPairRows = 5;  // of a block: a sixth leaves no registers for what is packed

// Whether rows of a head are such a stream.
inline bool is_paired(const AttentionProblem& p, int64_t rows) {
  return takes_pairs(p) && p.D % 32 == 0 && rows > kFewRows && rows <= kMoreRows;
}

// Whether they are so few that keys and values are used as they lie in the cache.
inline bool is_stream(const AttentionProblem& p, int64_t rows) {
  if (rows > kFewRows) return is_paired(p, rows);
  return takes_pairs(p) ? p.D % 32 == 0 : p.kv_type != DType::kI8;
}

// Blocks of a stream's rows.
inline int blocks_in(int rows) { return rows > kFewRows ? (rows + kPairRows - 1) / kPairRows : 1; }

#if defined(__AVX512BF16__)
constexpr int kEight = 4 * kQuads;  // keys that go together
constexpr int kPairGroup = 64;      // tokens

// A row of q for `score_eight`: of each 16 words the four that stand at i in their quads, each in
// all lanes of its strand, for i = 0 .. 3.
inline void spread_row(const char* q, int words, float* to) {
  for (int w = 0; w < words; w += kLanes, to += 4 * kLanes) {
    const F32 a = vec::load((const float*)q + w);
    vec::store(to, vec::spread<0>(a));
    vec::store(to + kLanes, vec::spread<1>(a));
    vec::store(to + 2 * kLanes, vec::spread<2>(a));
    vec::store(to + 3 * kLanes, vec::spread<3>(a));
  }
}

// scores[r][j] = q_r . k_j for eight keys, in the order of `score_keys`. q: rows that were spread.
// The first block stores the keys at `packed`, the others find them there.
template <int kRows, bool kFirst>
inline void score_eight(const float* q, int words, const char* const* keys, int64_t offset,
                        float* packed, float* scores, Lines& lines) {
  F32 sum[kRows][kQuads][kParts];
#pragma GCC unroll 5
  for (int r = 0; r < kRows; ++r) sum[r][0][0] = sum[r][1][0] = vec::set(0.0f);
  for (int64_t w = 0; w < words; w += kLanes) {
    float* const z = packed + w * kEight;
    F32 key[kEight];
    if (kFirst) {
#pragma GCC unroll 8
      for (int i = 0; i < kEight; ++i) key[i] = PairRow::load_key(keys[i] + offset + 4 * w);
      lines.step<kEight * kLanes * 4>();
      vec::transpose_quads(key);
      vec::transpose_quads(key + 4);
#pragma GCC unroll 8
      for (int i = 0; i < kEight; ++i) vec::store(z + i * kLanes, key[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const F32 low = kFirst ? key[i] : vec::load(z + i * kLanes);
      const F32 high = kFirst ? key[4 + i] : vec::load(z + (4 + i) * kLanes);
#pragma GCC unroll 5
      for (int r = 0; r < kRows; ++r) {
        const F32 a = vec::load(q + 4 * (int64_t(r) * words + w) + i * kLanes);
        sum[r][0][0] = Pair::dot(sum[r][0][0], a, low);
        sum[r][1][0] = Pair::dot(sum[r][1][0], a, high);
      }
    }
  }
#pragma GCC unroll 5
  for (int r = 0; r < kRows; ++r) store_sums(sum[r], scores + r * kTileKeys);
}

template <bool kFirst>
void score_eight(Block& block, const float* q, int words, const char* const* keys, int64_t offset,
                 float* packed, int at, Lines& lines) {
  float* s = block.scores[0] + at;
  if (block.rows == 3) return score_eight<3, kFirst>(q, words, keys, offset, packed, s, lines);
  if (block.rows == 4) return score_eight<4, kFirst>(q, words, keys, offset, packed, s, lines);
  score_eight<5, kFirst>(q, words, keys, offset, packed, s, lines);
}

// Logits of a tile's keys. q: all rows, spread.
inline void score_pairs(const TileRows& tile, int D, Stream& s, const float* q, float* packed) {
  for (int j = 0; j < tile.count; j += kPairGroup) {
    Lines lines(tile.k + j, kPairGroup, s.bytes);
    const int end = min_of(j + kPairGroup, tile.count);
    for (int h = 0; h < s.heads; ++h) {
      for (int i = j; i < end; i += kEight) {
        for (int b = 0; b < s.blocks; ++b) {
          Block& block = s.block[h * s.blocks + b];
          const float* rows = q + int64_t(block.first) * 2 * D;
          if (b == 0) {
            score_eight<true>(block, rows, D / 2, tile.k + i, int64_t(h) * 2 * D, packed, i, lines);
          } else {
            score_eight<false>(block, rows, D / 2, tile.k + i, 0, packed, i, lines);
          }
        }
      }
    }
  }
}

// Values of the first block: interleaved, and stored for the others,
struct StoredValues : PairRow::Values {
  float* packed;  // [words][kVectors * kLanes]

  template <int kVectors>
  void load(int w, F32* v) const {
    PairRow::Values::load<kVectors>(w, v);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) vec::store(packed + (w * kVectors + i) * kLanes, v[i]);
  }
};

// which ask for no lines.
struct PackedValues {
  const float* packed;

  template <int kVectors>
  void load(int w, F32* v) const {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) v[i] = vec::load(packed + (w * kVectors + i) * kLanes);
  }
  template <int>
  void step() {}
};

template <int kVectors, class Values, class Next>
void add_block(const Block& block, int first, int words, const Values& v, const float* factor,
               float* out, int D, Next& next) {
  const char* w = (const char*)(block.weights[0] + first);
  if (block.rows == 3) return add_values<Pair, 3, kVectors>(w, words, v, factor, out, D, next);
  if (block.rows == 4) return add_values<Pair, 4, kVectors>(w, words, v, factor, out, D, next);
  add_values<Pair, 5, kVectors>(w, words, v, factor, out, D, next);
}

// The values' part of `add_stream`. D is a multiple of kVectors vectors.
template <int kVectors>
void add_pairs(const TileRows& tile, int D, Stream& s, float* packed, float* out) {
  constexpr float kOnes[kPairRows] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
  for (int j = 0; j < tile.count; j += kPairGroup) {
    const int words = (min_of(kPairGroup, tile.count - j) + 1) / 2;
    Lines lines(tile.v + j, kPairGroup, s.bytes);
    for (int h = 0; h < s.heads; ++h) {
      for (int d = 0; d < D; d += kVectors * kLanes) {
        const StoredValues values{{tile.v + j, 2 * (int64_t(h) * D + d)}, packed};
        PackedValues others{packed};
        for (int b = 0; b < s.blocks; ++b) {
          const Block& block = s.block[h * s.blocks + b];
          const float* factor = j == 0 ? block.factor : kOnes;
          float* to = out + int64_t(block.first) * D + d;
          if (b == 0) {
            add_block<kVectors>(block, j, words, values, factor, to, D, lines);
          } else {
            add_block<kVectors>(block, j, words, others, factor, to, D, others);
          }
        }
      }
    }
  }
}

#endif

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
