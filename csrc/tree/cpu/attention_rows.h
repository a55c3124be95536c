// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_tile.h"

// What the products of few rows read from a cache, by its type, and the rows of q that go with it.
// A word is what a lane has of a key, one dim or two.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Where rows of q are spread in memory: nowhere, since floats would fill the first level of cache;
// where there are several blocks of them; or always.
enum class Spread { kNever, kInBlocks, kAlways };

// Rows of any float type, as floats: a word is an element of one token.
template <DType kType>
struct FloatRow : Single {
  static constexpr int kBytes = bytes_of(kType);  // of a dim
  static constexpr int kDims = 1;                 // of a word of a key
  static constexpr int kHalves = 1;               // vectors that one of words is multiplied as
  static constexpr int kTurns = 1;                // of score_keys
  static constexpr int kGroups = 1;               // of tokens that a head takes at a time
  static constexpr Spread kSpread = Spread::kNever;
#if !defined(__AVX2__)
  static constexpr int kStrandDims = kType == DType::kBF16 ? 8 : 4;  // as wider vectors have them
#endif
  static F32 load_key(const char* row) { return load_row(kType, row, 0); }

  struct Values {
    const char* const* rows;
    int64_t offset;

    template <int kVectors>
    void load(int w, F32* v) const {
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) v[i] = load_row(kType, rows[w] + offset, i * kLanes);
    }
  };
};

#if defined(__AVX512BF16__)
// Rows of bfloat16: a word is two dims of a key, or a dim of two tokens.
struct PairRow : Pair {
  static constexpr int kBytes = 2, kDims = 2, kHalves = 1, kTurns = 2, kGroups = 1;
  static constexpr Spread kSpread = Spread::kInBlocks;
  static F32 load_key(const char* row) { return vec::load((const float*)row); }

  struct Values {
    const char* const* rows;
    int64_t offset;

    // In the order of vec::unpack_rows.
    template <int kVectors>
    void load(int w, F32* v) const {
      const char *even = rows[2 * w] + offset, *odd = rows[2 * w + 1] + offset;
#pragma GCC unroll 2
      for (int i = 0; i < kVectors; i += 2) {
        const int64_t at = i * kLanes * kBytes;
        vec::unpack_rows(even + at, odd + at, v + i, v + i + 1);
      }
    }
  };
};
using BF16Row = PairRow;
#elif defined(__AVX2__)
// Rows of bfloat16 where nothing multiplies pairs: a word is two dims, which become floats apart
// from each other when they are in place. To widen dims in their order, and put twice as many words
// in place, would take half of the products' time.
struct HalfRow : Single {
  static constexpr int kBytes = 2, kDims = 2, kHalves = 2, kTurns = 1, kGroups = 4;
  static constexpr Spread kSpread = Spread::kAlways;
  static F32 load_key(const char* row) { return vec::load((const float*)row); }
  // Of a row's last words, where they do not fill a vector.
  static F32 load_last(const char* row) {
#if defined(__AVX512F__)
    return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi32(0xff, row))};
#else
    return load_key(row);
#endif
  }
  template <int kHalf>
  static F32 half(F32 words) {
    return kHalf == 0 ? vec::lower_bf16(vec::bits(words)) : vec::upper_bf16(vec::bits(words));
  }

  struct Values {
    const char* const* rows;
    int64_t offset;

    // A vector of even dims, then one of odd ones; or one in its order.
    template <int kVectors>
    void load(int w, F32* v) const {
      const char* row = rows[w] + offset;
      if constexpr (kVectors == 1) {
        v[0] = vec::load_bf16((const uint16_t*)row);
      } else {
#pragma GCC unroll 2
        for (int i = 0; i < kVectors; i += 2) {
          const F32 words = load_key(row + i * kLanes * kBytes);
          v[i] = half<0>(words);
          v[i + 1] = half<1>(words);
        }
      }
    }
  };
};
using BF16Row = HalfRow;
#else
using BF16Row = FloatRow<DType::kBF16>;
#endif

// Whether a problem's rows are read as words of two dims that are multiplied apart.
inline bool has_halves([[maybe_unused]] const AttentionProblem& p) {
#if defined(__AVX2__) && !defined(__AVX512BF16__)
  return p.kv_type == DType::kBF16;
#else
  return false;
#endif
}

// Puts a row of sums of values in the order of its dims.
inline void reorder_row([[maybe_unused]] float* row, [[maybe_unused]] int D) {
#if defined(__AVX512BF16__)
  for (int d = 0; d < D; d += 32) vec::reorder_unpacked(row + d);
#elif defined(__AVX2__)
  for (int d = 0; d + 2 * kLanes <= D; d += 2 * kLanes) vec::interleave(row + d);
#endif
}

#if defined(__AVX2__)
// Rows of q, whose words are spread as they are used.
struct QueryRows {
  const char* const* q;

  // Word `word` + i of row r, and those that stand there in other quads, each in all lanes of its
  // strand.
  F32 load(int r, int64_t word, int i) const {
    const F32 a = vec::load((const float*)q[r] + word);
    return i == 0   ? vec::spread<0>(a)
           : i == 1 ? vec::spread<1>(a)
           : i == 2 ? vec::spread<2>(a)
                    : vec::spread<3>(a);
  }
};

// Rows that were spread before. For each vector of words those that stand at i in their quads, i =
// 0 .. 3, each in all lanes of its strand, and of two halves one after the other.
template <int kHalves>
struct SpreadRows {
  const float* q;
  int64_t floats;  // of a row

  F32 load(int r, int64_t word, int i) const {
    return vec::load(q + r * floats + 4 * kHalves * word + i * kLanes);
  }
};

// Floats of a spread row; vectors are filled up with zeros.
template <class Row>
inline int64_t spread_floats(int D) {
  return int64_t(rounded_up(D / Row::kDims, kLanes)) * 4 * Row::kHalves;
}

template <class Row>
inline void spread_row(const char* q, int D, float* to) {
  const int words = D / Row::kDims;
  for (int w = 0; w < words; w += kLanes) {
    const char* from = q + w * Row::kDims * Row::kBytes;
    F32 a;
    if constexpr (Row::kHalves == 2) {
      a = w + kLanes <= words ? Row::load_key(from) : Row::load_last(from);
    } else {
      a = Row::load_key(from);
    }
    const F32 of[4] = {vec::spread<0>(a), vec::spread<1>(a), vec::spread<2>(a), vec::spread<3>(a)};
    for (int i = 0; i < 4; ++i) {
      float* const at = to + (4 * w + i * kLanes) * Row::kHalves;
      if constexpr (Row::kHalves == 2) {
        vec::store(at, Row::template half<0>(of[i]));
        vec::store(at + kLanes, Row::template half<1>(of[i]));
      } else {
        vec::store(at, of[i]);
      }
    }
  }
}

// How score_keys reads a block's rows. spread: all rows, if they are.
template <class Row, bool kIsSpread>
inline auto query_of(const Block& block, [[maybe_unused]] const float* spread,
                     [[maybe_unused]] int D) {
  if constexpr (kIsSpread) {
    const int64_t floats = spread_floats<Row>(D);
    return SpreadRows<Row::kHalves>{spread + block.first * floats, floats};
  } else {
    return QueryRows{block.q};
  }
}
#else
struct QueryRows {
  const char* const* q;
};
template <class Row, bool>
inline QueryRows query_of(const Block& block, const float*, int) {
  return {block.q};
}
#endif

// A number that a lambda's argument is: not the library's, whose functions are not this ISA's
// alone.
template <int kCount>
struct Count {
  constexpr operator int() const { return kCount; }
};

// Calls each(d, vectors) for every kVectors vectors of D dims, and for one that is left.
template <class Row, int kVectors, class Each>
inline void for_vectors(int D, const Each& each) {
  int d = 0;
  for (; d + kVectors * kLanes <= D; d += kVectors * kLanes) {
    each(d, Count<kVectors>());
  }
  if constexpr (Row::kHalves == 2) {
    for (; d + 2 * kLanes <= D && kVectors > 2; d += 2 * kLanes) {
      each(d, Count<2>());
    }
    if (d < D) each(d, Count<1>());
  }
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
