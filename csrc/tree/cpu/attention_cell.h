// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/dot.h"
#include "core/cpu/pair_bf16.h"
#include "core/cpu/vec.h"
#include "tree/attention.h"

// The two products of attention as register-blocked kernels over packed tiles. A tile's memory is
// words of 32 bits: floats, or pairs of bfloat16 where AVX512-BF16 multiplies them. An output's
// element is one chain of fused products in the order of the keys, a logit four such chains over
// the dims, added in their order: its bits depend neither on the rows beside it nor on the width of
// the vectors.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using vec::F32;
using vec::kLanes;

constexpr int kRegisterRows = 6;
constexpr int kRegisterVectors = kLanes == 8 ? 2 : 4;  // AVX2 has 16 registers, the others 32
constexpr int kPanel = kRegisterVectors * kLanes;      // keys of a panel of packed keys
constexpr int kStrands = 16;                           // partial sums of a row's weights
constexpr int kScoreStrands = 4;                       // and of a logit; few rows need as many

inline int min_of(int a, int b) { return a < b ? a : b; }
inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
inline int rounded_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// One float a word.
struct Single {
  static constexpr int kDepth = 1, kBytes = 4;  // elements a word, bytes of one in memory
  static constexpr int kHeldRows = 0;           // rows whose logits stay in registers
  static F32 dot(F32 sum, F32 a, F32 b) { return vec::fma(a, b, sum); }
  static F32 set(const char* p) {
    float x;
    memcpy(&x, p, 4);
    return vec::set(x);
  }
};

#if defined(__AVX512BF16__)
// Two bfloat16 a word: consecutive dims of a key, or one dim of two consecutive keys.
struct Pair {
  static constexpr int kDepth = 2, kBytes = 2;
  static constexpr int kHeldRows = 3;
  static F32 dot(F32 sum, F32 a, F32 b) { return vec::dot_bf16(vec::bits(a), vec::bits(b), sum); }
  static F32 set(const char* p) { return vec::set_pair(p); }
};
#endif

// Values in memory, a word of theirs in a row.
struct Words {
  const char* const* rows;
  int64_t offset;  // bytes

  template <int kVectors>
  void load(int w, F32* v) const {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      v[i] = vec::load((const float*)(rows[w] + offset) + i * kLanes);
    }
  }
};

// Rows of the next tile, asked for one by one between the products of this one, which hide them:
// packing alone would wait for the memory, and the products would leave it idle. Twice where there
// are steps enough, since a processor drops prefetches when its queue is full; or, where such a
// queue makes loads wait that find their lines in the second cache, once and evenly.
struct Ahead {
  static constexpr int kWords = 1;  // of values, at a step
  const char* const* k;
  const char* const* v;
  int keys;      // of the next tile
  int bytes;     // of a row
  int each;      // units of work that a row is asked for in, each a block's for one word; 0: a step
  int left = 0;  // of these
  int done = 0;  // rows, k's and then v's, and both again

  void step(int units = 1) {
    if (each > 0) {
      left -= units;
      if (left > 0) return;
      left = left + each > 0 ? left + each : 0;
    }
    if (done < (each > 0 ? 2 : 4) * keys) ask();
  }
  void ask() {
    const int at = done < 2 * keys ? done : done - 2 * keys;
    const char* row = at < keys ? k[at] : v[at - keys];
    for (int i = 0; i < bytes; i += 64) vec::prefetch(row + i);
    ++done;
  }
  void finish() {
    while (done < 2 * keys) ask();
  }
  template <int kBytes>
  void step() {
    step();
  }
};

// Elements [d, d + kLanes) of a row as floats.
inline F32 load_row(DType type, const char* row, int d) {
  if (type == DType::kF32) return vec::load((const float*)row + d);
  if (type == DType::kF16) return vec::load_f16((const uint16_t*)row + d);
  return vec::load_bf16((const uint16_t*)row + d);
}

// What the products of one block of up to kRegisterRows rows and one tile of keys work on.
struct Block {
  alignas(64) float scores[kRegisterRows][kTileKeys];      // logits, then weights
  alignas(64) uint16_t weights[kRegisterRows][kTileKeys];  // of Pair
  alignas(64) float factor[kStrands];                      // of earlier sums, by row
  int first, rows;                                         // of its task's
  int side;              // words of q that a strand has side by side
  const char* const* q;  // words of D elements
};

// Dims of a key that lie side by side in a strand: four words as the narrowest cells read them.
inline int strand_dims(const AttentionProblem& p) { return p.kv_type == DType::kBF16 ? 8 : 4; }

// Whether a problem's words are pairs.
inline bool takes_pairs([[maybe_unused]] const AttentionProblem& p) {
#if defined(__AVX512BF16__)
  return p.kv_type == DType::kBF16;
#else
  return false;
#endif
}

template <int kRows, class Each>
[[gnu::always_inline]] inline void each_vector(const Each& each) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kRegisterVectors; ++i) each(r, i);
  }
}

// scores[r][j] = q_r . k_j for the keys of one panel, packed as [words][kPanel]. Of each
// kScoreStrands times `side` words a strand takes `side`, a multiple of 4; strands are added in
// their order.
template <class Cell, int kRows>
inline void score_panel(const char* const* q, int words, int side, const float* panel,
                        float* scores, Ahead& ahead) {
  constexpr bool kHeld = kRows <= Cell::kHeldRows;
  F32 total[kRows][kRegisterVectors];
  const auto to = [&](int r, int i) { return scores + r * kTileKeys + i * kLanes; };
  if constexpr (kHeld) {
    each_vector<kRows>([&](int r, int i) { total[r][i] = vec::set(-0.0f); });  // adds nothing
  }
  for (int strand = 0; strand < kScoreStrands; ++strand) {
    F32 sum[kRows][kRegisterVectors];
    each_vector<kRows>([&](int r, int i) { sum[r][i] = vec::set(0.0f); });
    for (int first = side * strand; first < words; first += side * kScoreStrands) {
      for (int four = first; four < first + side; four += 4) {
        ahead.step(4);
#pragma GCC unroll 4
        for (int next = 0; next < 4; ++next) {
          const int w = four + next;
          F32 key[kRegisterVectors];
#pragma GCC unroll 4
          for (int i = 0; i < kRegisterVectors; ++i) {
            key[i] = vec::load(panel + w * kPanel + i * kLanes);
          }
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            const F32 a = Cell::set(q[r] + 4 * w);
#pragma GCC unroll 4
            for (int i = 0; i < kRegisterVectors; ++i) sum[r][i] = Cell::dot(sum[r][i], a, key[i]);
          }
        }
      }
    }
    if constexpr (kHeld) {
      each_vector<kRows>([&](int r, int i) { total[r][i] = vec::add(total[r][i], sum[r][i]); });
    } else if (strand == 0) {
      each_vector<kRows>([&](int r, int i) { vec::store(to(r, i), sum[r][i]); });
    } else {
      each_vector<kRows>(
          [&](int r, int i) { vec::store(to(r, i), vec::add(vec::load(to(r, i)), sum[r][i])); });
    }
  }
  if constexpr (kHeld) {
    each_vector<kRows>([&](int r, int i) { vec::store(to(r, i), total[r][i]); });
  }
}

// sum[r] += weight_rj v_j for the keys j of word w.
template <class Cell, int kRows, int kVectors, int64_t kRowBytes, int64_t kWordBytes, class Values>
inline void add_word(const char* weights, int w, const Values& values, F32 (*sum)[kVectors]) {
  F32 v[kVectors];
  values.template load<kVectors>(w, v);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const F32 a = Cell::set(weights + r * kRowBytes + w * kWordBytes);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) sum[r][i] = Cell::dot(sum[r][i], a, v[i]);
  }
}

// out[r] = out[r] * factor[r] + sum_j weight_rj v_j over `words` rows of words, for kVectors
// vectors of dims. weights: kRowBytes between rows, by default kTileKeys elements of Cell's kind,
// and kWordBytes between words.
template <class Cell, int kRows, int kVectors, int64_t kRowBytes = kTileKeys * 4 / Cell::kDepth,
          int64_t kWordBytes = 4, class Values, class Next>
inline void add_values(const char* weights, int words, const Values& values, const float* factor,
                       float* out, int D, Next& next) {
  constexpr int kStep = Next::kWords;
  F32 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const F32 f = vec::set(factor[r]);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sum[r][i] = vec::mul(vec::load(out + int64_t(r) * D + i * kLanes), f);
    }
  }
  const auto add = [&](int w) {
    add_word<Cell, kRows, kVectors, kRowBytes, kWordBytes>(weights, w, values, sum);
  };
  int w = 0;
  for (; w + kStep <= words; w += kStep) {
    next.template step<kStep * kVectors * kLanes * Cell::kDepth * Cell::kBytes>();
#pragma GCC unroll 4
    for (int i = 0; i < kStep; ++i) add(w + i);
  }
  for (; w < words; ++w) add(w);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      vec::store(out + int64_t(r) * D + i * kLanes, sum[r][i]);
    }
  }
}

template <class Cell, int kRows>
void score_rows(const Block& block, int words, int panels, const float* keys, float* scores,
                Ahead& ahead) {
  constexpr int kHeld = Cell::kHeldRows;
  constexpr int kNow = kHeld > 0 && kHeld < kRows ? kHeld : kRows;
  const char* const* q = block.q;
  for (int i = 0; i < panels; ++i) {
    const float* panel = keys + int64_t(i) * words * kPanel;
    float* to = scores + i * kPanel;
    score_panel<Cell, kNow>(q, words, block.side, panel, to, ahead);
    if constexpr (kRows > kNow) {
      score_panel<Cell, kRows - kNow>(q + kNow, words, block.side, panel, to + kNow * kTileKeys,
                                      ahead);
    }
  }
}

// Logits of a block's rows and the keys of some panels, from key `first` of the tile on.
template <class Cell>
void score(Block& block, int words, int panels, const float* keys, int first, Ahead& ahead) {
  float* to = block.scores[0] + first;
  if (block.rows == 1) return score_rows<Cell, 1>(block, words, panels, keys, to, ahead);
  if (block.rows == 2) return score_rows<Cell, 2>(block, words, panels, keys, to, ahead);
  if (block.rows == 3) return score_rows<Cell, 3>(block, words, panels, keys, to, ahead);
  if (block.rows == 4) return score_rows<Cell, 4>(block, words, panels, keys, to, ahead);
  if (block.rows == 5) return score_rows<Cell, 5>(block, words, panels, keys, to, ahead);
  return score_rows<Cell, 6>(block, words, panels, keys, to, ahead);
}

// Dims [first, first + vectors * kLanes) of all values of a tile, at `offset` bytes of their rows.
struct Slice {
  int words;
  const char* const* values;
  int64_t offset;
  int first, vectors;
};

template <class Cell, int kRows>
void value_rows(const char* weights, const Slice& slice, const float* factor, float* out, int D,
                Ahead& ahead) {
  const int words = slice.words, vectors = slice.vectors;
  // As even as possible: five vectors are three and two, not four and one.
  const int groups = (vectors + kRegisterVectors - 1) / kRegisterVectors;
  int done = 0;
  for (int i = 0; i < groups; ++i) {
    const int count = (vectors - done + groups - i - 1) / (groups - i);
    float* o = out + slice.first + done * kLanes;
    const Words at{slice.values, slice.offset + int64_t(done) * kLanes * 4};
    if (count == 1) add_values<Cell, kRows, 1>(weights, words, at, factor, o, D, ahead);
    if (count == 2) add_values<Cell, kRows, 2>(weights, words, at, factor, o, D, ahead);
    if constexpr (kRegisterVectors > 2) {
      if (count == 3) add_values<Cell, kRows, 3>(weights, words, at, factor, o, D, ahead);
      if (count == 4) add_values<Cell, kRows, 4>(weights, words, at, factor, o, D, ahead);
    }
    done += count;
  }
}

// out: of the block's first row.
template <class Cell>
void accumulate(const Block& block, const Slice& slice, float* out, int D, Ahead& ahead) {
  const char* w = Cell::kDepth == 1 ? (const char*)block.scores : (const char*)block.weights;
  const float* f = block.factor;
  if (block.rows == 1) return value_rows<Cell, 1>(w, slice, f, out, D, ahead);
  if (block.rows == 2) return value_rows<Cell, 2>(w, slice, f, out, D, ahead);
  if (block.rows == 3) return value_rows<Cell, 3>(w, slice, f, out, D, ahead);
  if (block.rows == 4) return value_rows<Cell, 4>(w, slice, f, out, D, ahead);
  if (block.rows == 5) return value_rows<Cell, 5>(w, slice, f, out, D, ahead);
  return value_rows<Cell, 6>(w, slice, f, out, D, ahead);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
