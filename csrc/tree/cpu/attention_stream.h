// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_rows.h"
#include "tree/cpu/attention_softmax.h"

// Few rows against keys and values as they lie in the cache, where memory is all that there is to
// wait for: what packing would store is made in registers and used there, in the same order. A
// token's heads lie side by side, and tokens are taken in groups with all heads of a task. What
// comes is asked for in the order of its addresses, and a line of each token of a group is used
// before the next line is: on Zen 5, 256 bytes from memory with products beside take 26 to 28
// cycles so, 27 to 36 with two or four lines of a token at a time. For more rows than one block
// has, see attention_blocks.h.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int kFewRows = 4;        // of a head, in one block
constexpr int kStreamBlocks = 16;  // of all heads of a task
constexpr int kPackedBlocks = (kBlockRows + kRegisterRows - 1) / kRegisterRows;
constexpr int kStreamRows = 64;  // in them
constexpr int kGroup = 8;        // tokens
constexpr int kFarBytes = 32 << 10, kNearBytes = 8 << 10;
constexpr int kTwoTiles = 256 << 10;  // bytes of keys and values, which a second cache has room for

// What a task of few rows works on: blocks of its first head, then of the next one. bytes: of a
// token. into_first: where lines are asked for; next_tile: whether
// the next tile's are; twice: for FarLines.
struct Stream {
  int heads, blocks, bytes;
  bool into_first, next_tile, twice;
  Block block[kPackedBlocks > kStreamBlocks ? kPackedBlocks : kStreamBlocks];
};

// Behind the last row of a tile come those of the next one, then that row again.
inline void append_rows(TileRows* tile, const TileRows& next) {
  const char **k = tile->k + tile->count, **v = tile->v + tile->count;
  memcpy(k, next.k, sizeof(char*) * size_t(next.count));
  memcpy(v, next.v, sizeof(char*) * size_t(next.count));
  for (int i = next.count; i < kTileKeys; ++i) {
    k[i] = k[-1];
    v[i] = v[-1];
  }
}

// Asks for the lines of tokens in the order of their addresses, of kLists lists of them in turn.
template <int kLists>
struct Cursor {
  const char* const* row[kLists];
  int bytes, at = 0;  // of a token

  // A line that lies in two tokens belongs to the first.
  template <int kBytes, class Prefetch>
  void ask(const Prefetch& prefetch) {
    constexpr int kUnit = kBytes < 256 ? kBytes : 256;
#pragma GCC unroll 4
    for (int done = 0; done < kBytes; done += kUnit) {
#pragma GCC unroll 2
      for (int n = 0; n < kLists; ++n) {
        const char* const from = *row[n] + at;
#pragma GCC unroll 4
        for (int i = 0; i < kUnit; i += 64) prefetch(from + i);
      }
      at += kUnit;
      while (at >= bytes) {
        at -= bytes;
#pragma GCC unroll 2
        for (int n = 0; n < kLists; ++n) ++row[n];
      }
    }
  }
};

inline void ask_first(const char* line) {
  asm volatile("");  // GCC 12 drops calls of a function that only prefetches
  vec::prefetch_first(line);
}
inline void ask_second(const char* line) {
  asm volatile("");
  vec::prefetch(line);
}

// Where more lines are asked for faster than they come, a processor forgets some. So those of rows
// in several blocks are asked for twice, kFarBytes and kNearBytes ahead; or once, as by Ahead.
struct FarLines {
  static constexpr int kWords = 1;  // of values, at a step
  Cursor<1> near, far;
  bool twice;

  // Behind as many `tokens` of `bytes` each as start at `rows`.
  FarLines(const char* const* rows, int tokens, int bytes, bool ask_twice)
      : near{{behind(rows, tokens, kNearBytes / bytes)}, bytes},
        far{{behind(rows, tokens, kFarBytes / bytes)}, bytes},
        twice(ask_twice) {}

  static const char* const* behind(const char* const* rows, int tokens, int more) {
    return rows + min_of(tokens + more, kTileKeys - tokens);
  }
  template <int kBytes>
  void step() {
    far.ask<kBytes>(ask_second);
    if (twice) near.ask<kBytes>(ask_second);
  }
};

// Those of few rows, into the first cache once, the next group's, as is best on Zen 5. Or into the
// second: kNearBytes behind those, and before that the next tile's, of a key and of a value in
// turn: memory gives a Zen 4 two streams faster than one, and it takes 0.93 of the time so.
struct Lines {
  static constexpr int kWords = 2;  // of values, at a step
  Cursor<1> near;
  Cursor<2> next;
  bool into_first, next_tile;

  // Of a tile's k or v, taken in groups of so many tokens. first: of the next tile's.
  Lines(const TileRows& tile, const char* const* rows, int tokens, const Stream& s, int first)
      : near{{FarLines::behind(rows, tokens, s.into_first ? 0 : kNearBytes / s.bytes)}, s.bytes},
        next{{tile.k + tile.count + first, tile.v + tile.count + first}, s.bytes},
        into_first(s.into_first),
        next_tile(s.next_tile) {}

  template <int kBytes>
  void step() {
    if (into_first) return near.ask<kBytes>(ask_first);
    near.ask<kBytes>(ask_second);
    if (next_tile) next.ask<kBytes / 2>(ask_second);
  }
};

// Where `score_keys` has its keys from: from the cache, maybe to be kept, or from what was kept.
enum class From { kCache, kCacheAndKeep, kKept };

// Sums of kQuads times 4 keys, each four keys' in a vector or two: lane 4 s + i is strand s of key
// i.
#if defined(__AVX2__)
constexpr int kQuads = kLanes / 8;  // keys that go together are 4 kQuads
constexpr int kParts = 16 / kLanes;
inline void store_sums(F32 (*sum)[kParts], float* to) {
#if defined(__AVX512F__)
  const __m512 a = _mm512_shuffle_f32x4(sum[0][0].v, sum[1][0].v, 0x44);  // strands 0 and 1
  const __m512 b = _mm512_shuffle_f32x4(sum[0][0].v, sum[1][0].v, 0xee);
  const __m512 low = _mm512_shuffle_f32x4(a, a, 0xd8), high = _mm512_shuffle_f32x4(b, b, 0xd8);
  const __m256 two = _mm256_add_ps(_mm512_castps512_ps256(low), _mm512_extractf32x8_ps(low, 1));
  const __m256 three = _mm256_add_ps(two, _mm512_castps512_ps256(high));
  _mm256_storeu_ps(to, _mm256_add_ps(three, _mm512_extractf32x8_ps(high, 1)));
#else
  const __m256 low = sum[0][0].v, high = sum[0][1].v;
  const __m128 two = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
  const __m128 three = _mm_add_ps(two, _mm256_castps256_ps128(high));
  _mm_storeu_ps(to, _mm_add_ps(three, _mm256_extractf128_ps(high, 1)));
#endif
}

// Lets nothing move across. GCC 12 would keep what turns have in common in registers, of which
// there are too few.
inline void keep_apart() { asm volatile("" : : : "memory"); }

// Adds the products of 16 words from w on, or of the last vector of them, to sums of score_keys.
template <class Row, int kRows, From kFrom, int kTurns, bool kLast, class Query, class Next>
inline void score_words(const Query& q, const char* const* keys, int64_t offset, int64_t w,
                        float* packed, F32 (&sum)[kTurns][kRows][kQuads][kParts], Next& lines) {
  constexpr int kNow = kLast ? 1 : kParts, kHalves = Row::kHalves;
#pragma GCC unroll 2
  for (int part = 0; part < kNow * kTurns; ++part) {
    const int p = part % kNow, t = part / kNow;
    const int64_t word = w + p * kLanes;
    const int64_t at = offset + word * Row::kDims * Row::kBytes;
    float* const kept = packed + word * 4 * kQuads * kHalves;
    const char* const* const own = keys + t * 4 * kQuads;
    if constexpr (kTurns > 1) keep_apart();
    F32 z[4 * kQuads];
    if constexpr (kFrom != From::kKept) {
#pragma GCC unroll 8
      for (int i = 0; i < 4 * kQuads; ++i) {
        if constexpr (kLast) {
          z[i] = Row::load_last(own[i] + at);
        } else {
          z[i] = Row::load_key(own[i] + at);
        }
      }
      lines.template step<4 * kQuads * kLanes * Row::kDims * Row::kBytes>();
#pragma GCC unroll 2
      for (int c = 0; c < kQuads; ++c) vec::transpose_quads(z + 4 * c);
    }
    if constexpr (kHalves == 2) {
      // Word by word: all of two halves and the sums would fill the registers.
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        F32 key[kQuads];
#pragma GCC unroll 2
        for (int c = 0; c < kQuads; ++c) {
          float* const place = kept + (i * kQuads + c) * kLanes;
          if constexpr (kFrom == From::kKept) {
            key[c] = vec::load(place);
          } else {
            const F32 words = z[4 * c + i / 2];
            key[c] = i % 2 == 0 ? Row::template half<0>(words) : Row::template half<1>(words);
          }
          if constexpr (kFrom == From::kCacheAndKeep) vec::store(place, key[c]);
        }
#pragma GCC unroll 5
        for (int r = 0; r < kRows; ++r) {
          const F32 of = q.load(r, word, i);
#pragma GCC unroll 2
          for (int c = 0; c < kQuads; ++c) sum[t][r][c][p] = Row::dot(sum[t][r][c][p], of, key[c]);
        }
      }
      continue;
    }
    if constexpr (kFrom == From::kKept) {
#pragma GCC unroll 8
      for (int i = 0; i < 4 * kQuads; ++i) z[i] = vec::load(kept + i * kLanes);
    }
    if constexpr (kFrom == From::kCacheAndKeep) {
#pragma GCC unroll 8
      for (int i = 0; i < 4 * kQuads; ++i) vec::store(kept + i * kLanes, z[i]);
    }
#pragma GCC unroll 5
    for (int r = 0; r < kRows; ++r) {
      F32 of[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) of[i] = q.load(r, word, i);
#pragma GCC unroll 2
      for (int c = 0; c < kQuads; ++c) {
        F32& s = sum[t][r][c][p];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) s = Row::dot(s, of[i], z[4 * c + i]);
      }
    }
  }
}

// scores[r][j] = q_r . k_j for the keys of kTurns, 4 kQuads each, whose rows lie at `offset`, or
// that were kept. With one turn there are too few chains of products to fill the time that each
// takes.
template <class Row, int kRows, From kFrom, int kTurns, class Query, class Next>
[[gnu::flatten]] inline void score_keys(const Query& q, const char* const* keys, int64_t offset,
                                        int D, float* packed, float* scores, Next& lines) {
  static_assert(kTurns == 1 || kFrom == From::kCache, "what is kept is that of one turn");
  F32 sum[kTurns][kRows][kQuads][kParts];
#pragma GCC unroll 2
  for (int t = 0; t < kTurns; ++t) {
#pragma GCC unroll 5
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int c = 0; c < kQuads; ++c) {
#pragma GCC unroll 2
        for (int p = 0; p < kParts; ++p) sum[t][r][c][p] = vec::set(0.0f);
      }
    }
  }
  const int64_t words = D / Row::kDims;
  int64_t w = 0;
  for (; w + 16 <= words; w += 16) {
    score_words<Row, kRows, kFrom, kTurns, false>(q, keys, offset, w, packed, sum, lines);
  }
  if constexpr (Row::kHalves == 2) {  // 8 words
    if (w < words) {
      score_words<Row, kRows, kFrom, kTurns, true>(q, keys, offset, w, packed, sum, lines);
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < kTurns; ++t) {
#pragma GCC unroll 5
    for (int r = 0; r < kRows; ++r) {
      store_sums(sum[t][r], scores + r * kTileKeys + t * 4 * kQuads);
    }
  }
}
#else
constexpr int kQuads = 0;
template <class Row, int kRows, From, int, class Next>
inline void score_keys(const QueryRows& rows, const char* const* keys, int64_t offset, int D,
                       float*, float* scores, Next&) {
  const char* const* q = rows.q;
  for (int r = 0; r < kRows; ++r) {
    F32 sum[kScoreStrands] = {};
    for (int d = 0; d < D; ++d) {
      F32& strand = sum[d / Row::kStrandDims % kScoreStrands];
      strand = Row::dot(strand, Row::set(q[r] + 4 * d),
                        Row::load_key(keys[0] + offset + int64_t(d) * Row::kBytes));
    }
    scores[r * kTileKeys] = ((sum[0].v + sum[1].v) + sum[2].v) + sum[3].v;
  }
}
#endif

constexpr float kOnes[] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f};

// Weights of a block's rows from key `first` on.
template <class Row>
inline const char* weights_of(const Block& block, int first) {
  return Row::kDepth == 1 ? (const char*)(block.scores[0] + first)
                          : (const char*)(block.weights[0] + first);
}

// Logits of a tile's keys; what is behind the last one is set later. spread: all rows, where they
// are to be.
template <class Row, int kRows>
void score_stream(const TileRows& tile, int D, Stream& s, const float* spread) {
  constexpr int kKeys = kQuads > 0 ? 4 * kQuads * Row::kTurns : 1;
  constexpr int kTokens = kGroup * Row::kTurns * Row::kGroups;
  Lines lines(tile, tile.k, kTokens, s, 0);
  for (int j = 0; j < tile.count; j += kTokens) {
    for (int h = 0; h < s.heads; ++h) {
      const auto q = query_of<Row, Row::kSpread == Spread::kAlways>(s.block[h], spread, D);
      for (int i = 0; i < kTokens; i += kKeys) {
        score_keys<Row, kRows, From::kCache, Row::kTurns>(q, tile.k + j + i,
                                                          int64_t(h) * D * Row::kBytes, D, nullptr,
                                                          s.block[h].scores[0] + j + i, lines);
      }
    }
  }
}

// out[h][r] = out[h][r] * factor[h][r] + sum_j weight_hrj v_hj. D is a multiple of kVectors
// vectors, with halves maybe of one less. Tokens behind the last one have a weight of zero, and the
// values of that one.
template <class Row, int kRows, int kVectors>
void add_stream(const TileRows& tile, int D, Stream& s, float* out) {
  const int tokens = kGroup * Row::kDepth * Row::kGroups * (s.into_first ? 1 : 2);
  Lines lines(tile, tile.v, tokens, s, kTileKeys / 2);
  for (int j = 0; j < tile.count; j += tokens) {
    const int words = (min_of(tokens, tile.count - j) + Row::kDepth - 1) / Row::kDepth;
    for (int h = 0; h < s.heads; ++h) {
      const Block& block = s.block[h];
      const char* w = weights_of<Row>(block, j);
      for_vectors<Row, kVectors>(D, [&](int d, auto vectors) {
        const int64_t at = (int64_t(h) * D + d) * Row::kBytes;
        const typename Row::Values values{tile.v + j, at};
        add_values<Row, kRows, vectors>(w, words, values, j == 0 ? block.factor : kOnes,
                                        out + int64_t(h) * kRows * D + d, D, lines);
      });
    }
  }
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
