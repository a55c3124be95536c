// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_softmax.h"
#include "tree/cpu/attention_tile.h"

// Few rows against keys and values as they lie in the cache, where memory is all that there is to
// wait for. A token's heads lie side by side, and a tile is read from its first byte to its last,
// token after token, with all heads of a task on the way. What comes next is asked for twice, since
// a processor drops prefetches when its queue is full, and then waits for the whole latency.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int kFewRows = 4;                                // of a head
constexpr int kStreamHeads = 16;                           // of a task
constexpr int kStreamRows = 32;                            // of all its heads
constexpr int kNearBytes = 5 << 10, kFarBytes = 24 << 10;  // ahead of what is read

// What a task of few rows works on; block h are the rows of its head h.
struct Stream {
  int heads;
  int near, far;  // tokens ahead
  Block block[kStreamHeads];
  float factor[kStreamHeads][kFewRows];
  alignas(64) float strands[kStreamRows][kKeys][16];
};

// A token's row of one head, those to ask for meanwhile, and how far it is to the next head's.
struct Token {
  const char *row, *near, *far;
  int64_t head;

  void ask(int64_t at) const {
    vec::prefetch(near + at);
    vec::prefetch(far + at);
  }
  void next_head() {
    row += head;
    near += head;
    far += head;
  }
};

// Rows of keys, or of values, of a tile and of the one behind it.
struct TokenRows {
  const char *const *tile, *const *next;
  int count, next_count, cached;
  int64_t head, draft_head;

  const char* row(int j) const {
    if (j < count) return tile[j];
    return j - count < next_count ? next[j - count] : tile[count - 1];
  }
  // Behind the last one comes that one again.
  Token at(int j, const Stream& s) const {
    const int i = min_of(j, count - 1);
    return {tile[i], row(i + s.near), row(i + s.far), i < cached ? head : draft_head};
  }
};
inline TokenRows keys_in(const AttentionProblem& p, const TileRows& t, const TileRows& next) {
  return {t.k, next.k, t.count, next.count, t.cached, p.k.head, p.draft_k.head};
}
inline TokenRows values_in(const AttentionProblem& p, const TileRows& t, const TileRows& next) {
  return {t.v, next.v, t.count, next.count, t.cached, p.v.head, p.draft_v.head};
}

// Rows of bfloat16 pairs, multiplied as they are.
#if defined(__AVX512BF16__)
struct PairRow {
  static constexpr int kDims = 32, kBytes = 2;
  static F32 query(const char* q, int d) { return vec::load((const float*)(q + 2 * d)); }
  static F32 key(const char* k, int d) { return vec::load((const float*)(k + 2 * d)); }
  static F32 dot(F32 sum, F32 q, F32 k) { return Pair::dot(sum, q, k); }
};
#endif

// Rows of any float type, as floats.
template <DType kType>
struct FloatRow {
  static constexpr int kDims = 16, kBytes = bytes_of(kType);
  static F32 query(const char* q, int d) { return vec::load((const float*)q + d); }
  static F32 key(const char* k, int d) { return load_row(kType, k, d); }
  static F32 dot(F32 sum, F32 q, F32 k) { return vec::fma(q, k, sum); }
};

// The products of one key with the rows of its head, dims along the lanes: 16 sums of each.
template <class Row, int kRows>
inline void dot_key(const Block& block, int D, const Token& key, float (*strands)[kKeys][16]) {
  F32 sum[kRows][kParts];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kParts; ++i) sum[r][i] = vec::set(0.0f);
  }
  for (int d = 0; d < D; d += Row::kDims) {
#pragma GCC unroll 16
    for (int i = 0; i < kParts; ++i) {
      const int at = d + i * Row::kDims / kParts;
      if (at * Row::kBytes % 64 == 0) key.ask(at * Row::kBytes);
      const F32 k = Row::key(key.row, at);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        sum[r][i] = Row::dot(sum[r][i], Row::query(block.q[r], at), k);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kParts; ++i) vec::store(strands[r][0] + i * kLanes, sum[r][i]);
  }
}

// Logits of a tile's keys, in groups of kKeys; what is behind the last one is set later.
template <class Row, int kRows>
void score_stream(const TokenRows& keys, int D, Stream& s) {
  for (int j = 0; j < keys.count; j += kKeys) {
    for (int i = 0; i < kKeys; ++i) {
      Token key = keys.at(j + i, s);
      for (int h = 0; h < s.heads; ++h, key.next_head()) {
        auto* to = (float (*)[kKeys][16])(s.strands[h * kRows][i]);
        dot_key<Row, kRows>(s.block[h], D, key, to);
      }
    }
    for (int h = 0; h < s.heads; ++h) {
      for (int r = 0; r < kRows; ++r) {
        F32 sum[kKeys][kParts];
#pragma GCC unroll 16
        for (int i = 0; i < kKeys; ++i) {
#pragma GCC unroll 16
          for (int q = 0; q < kParts; ++q) {
            sum[i][q] = vec::load(s.strands[h * kRows + r][i] + q * kLanes);
          }
        }
        store_strand_sums(sum, s.block[h].scores[r] + j);
      }
    }
  }
}

// Values of tokens that are multiplied with one word of weights: one, or a pair of bfloat16.
template <DType kType>
struct FloatValues : Single {
  template <int kVectors>
  static void load(const Token* tokens, int d, F32* v) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const int64_t at = int64_t(d + i * kLanes) * bytes_of(kType);
      if (at % 64 == 0) tokens[0].ask(at);
      v[i] = load_row(kType, tokens[0].row, d + i * kLanes);
    }
  }
};
#if defined(__AVX512BF16__)
struct PairValues : Pair {
  template <int kVectors>
  static void load(const Token* tokens, int d, F32* v) {
#pragma GCC unroll 2
    for (int i = 0; i < kVectors; i += 2) {
      const int64_t at = 2 * (d + i * kLanes);
      tokens[0].ask(at);
      tokens[1].ask(at);
      vec::interleave_rows(vec::load((const float*)(tokens[0].row + at)),
                           vec::load((const float*)(tokens[1].row + at)), v + i, v + i + 1);
    }
  }
};
#endif

// out[r] += weights[r] . values for kVectors vectors of dims and kWords words.
template <class Values, int kRows, int kVectors, int kWords>
inline void add_tokens(const char* weights, const Token* tokens, int d, int D, float* out) {
  constexpr int64_t kPitch = kTileKeys * 4 / Values::kDepth;
  F32 v[kWords][kVectors];
#pragma GCC unroll 4
  for (int w = 0; w < kWords; ++w) {
    Values::template load<kVectors>(tokens + w * Values::kDepth, d, v[w]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    float* to = out + int64_t(r) * D + d;
    F32 sum[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) sum[i] = vec::load(to + i * kLanes);
#pragma GCC unroll 4
    for (int w = 0; w < kWords; ++w) {
      const F32 a = Values::set(weights + r * kPitch + 4 * w);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) sum[i] = Values::dot(sum[i], a, v[w][i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) vec::store(to + i * kLanes, sum[i]);
  }
}

// out[h][r] = out[h][r] * factor[h][r] + sum_j weight_hrj v_hj. D is a multiple of kVectors
// vectors. Tokens behind the last one have a weight of zero, and the values of that one.
template <class Values, int kRows, int kVectors>
void add_stream(const TokenRows& values, int D, Stream& s, float* out) {
  constexpr int kTokens = 2 * Values::kDepth;
  for (int i = 0; i < s.heads * kRows; ++i) {
    const F32 f = vec::set(s.factor[i / kRows][i % kRows]);
    float* to = out + int64_t(i) * D;
    for (int d = 0; d < D; d += kLanes) vec::store(to + d, vec::mul(vec::load(to + d), f));
  }
  for (int j = 0; j < values.count; j += kTokens) {
    const int words = values.count - j > Values::kDepth ? 2 : 1;
    Token tokens[kTokens];
    for (int i = 0; i < kTokens; ++i) tokens[i] = values.at(j + i, s);
    for (int h = 0; h < s.heads; ++h) {
      const Block& block = s.block[h];
      const char* w = Values::kDepth == 1 ? (const char*)(block.scores[0] + j)
                                          : (const char*)(block.weights[0] + j);
      float* to = out + int64_t(h) * kRows * D;
      for (int d = 0; d < D; d += kVectors * kLanes) {
        if (words == 2) add_tokens<Values, kRows, kVectors, 2>(w, tokens, d, D, to);
        if (words == 1) add_tokens<Values, kRows, kVectors, 1>(w, tokens, d, D, to);
      }
      for (Token& token : tokens) token.next_head();
    }
  }
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
