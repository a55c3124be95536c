// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_blocks.h"

// Rows of pairs that fill vectors. A lane is a row of q, and a word of a key goes to all lanes, so
// keys are used as they lie in the cache; so are values, as by a stream. On a Zen 4 packing a tile
// took a tenth of the time of 64 rows; and the softmax has a row in a lane, nothing to add or
// compare across.
#if defined(__AVX512BF16__)
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int kColumnVectors = 2;  // of rows that are multiplied with a key at a time
constexpr int kColumnKeys = 6;     // in registers

// Words of q as [vectors of rows][words][lanes], of kColumnVectors vectors side by side. Lanes
// behind the last row repeat it.
void pack_columns(const char* const* q, int rows, int words, float* to) {
  const int vectors = int(vectors_of(rows));
  for (int v = 0; v < vectors; ++v) {
    const int first = v / kColumnVectors * kColumnVectors;
    const int together = min_of(kColumnVectors, vectors - first);
    float* panel = to + (int64_t(first) * words + v - first) * kLanes;
    for (int w = 0; w < words; w += kLanes) {
      F32 z[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        z[i] = vec::load((const float*)q[min_of(v * kLanes + i, rows - 1)] + w);
      }
      vec::transpose(z);
      for (int i = 0; i < kLanes; ++i) vec::store(panel + (w + i) * together * kLanes, z[i]);
    }
  }
}

// scores[j][i] = q_i . k_j, in the strands of `score_panel`; top[i]: the largest so far.
template <int kKeys, int kVectors>
inline void score_columns(const float* q, int words, const char* const* keys, float* scores,
                          float* top, Ahead& ahead) {
  F32 total[kKeys][kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kKeys; ++j) {
#pragma GCC unroll 2
    for (int i = 0; i < kVectors; ++i) total[j][i] = vec::set(-0.0f);
  }
  for (int strand = 0; strand < kScoreStrands; ++strand) {
    F32 sum[kKeys][kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j) {
#pragma GCC unroll 2
      for (int i = 0; i < kVectors; ++i) sum[j][i] = vec::set(0.0f);
    }
    for (int four = 4 * strand; four < words; four += 4 * kScoreStrands) {
      ahead.step();
#pragma GCC unroll 4
      for (int next = 0; next < 4; ++next) {
        const int w = four + next;
        F32 a[kVectors];
#pragma GCC unroll 2
        for (int i = 0; i < kVectors; ++i) a[i] = vec::load(q + (w * kVectors + i) * kLanes);
#pragma GCC unroll 8
        for (int j = 0; j < kKeys; ++j) {
          const F32 key = Pair::set(keys[j] + 4 * w);
#pragma GCC unroll 2
          for (int i = 0; i < kVectors; ++i) sum[j][i] = Pair::dot(sum[j][i], a[i], key);
        }
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j) {
#pragma GCC unroll 2
      for (int i = 0; i < kVectors; ++i) total[j][i] = vec::add(total[j][i], sum[j][i]);
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < kVectors; ++i) {
    F32 most = vec::load(top + i * kLanes);
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j) {
      vec::store(scores + (j * kVectors + i) * kLanes, total[j][i]);
      most = vec::max(most, total[j][i]);
    }
    vec::store(top + i * kLanes, most);
  }
}

// The same for up to kKeys keys.
template <int kKeys, int kVectors>
void score_some_columns(const float* q, int words, const char* const* keys, int count,
                        float* scores, float* top, Ahead& ahead) {
  if (count == kKeys) {
    score_columns<kKeys, kVectors>(q, words, keys, scores, top, ahead);
  } else if constexpr (kKeys > 1) {
    score_some_columns<kKeys - 1, kVectors>(q, words, keys, count, scores, top, ahead);
  }
}

template <int kVectors>
void score_all_columns(const float* q, int words, const char* const* keys, int count, float* scores,
                       float* top, Ahead& ahead) {
  for (int i = 0; i < kVectors; ++i) vec::store(top + i * kLanes, vec::set(minus_infinity()));
  const int groups = (count + kColumnKeys - 1) / kColumnKeys;
  int done = 0;
  for (int i = 0; i < groups; ++i) {
    const int now = (count - done + groups - i - 1) / (groups - i);
    score_some_columns<kColumnKeys, kVectors>(q, words, keys + done, now,
                                              scores + done * kVectors * kLanes, top, ahead);
    done += now;
  }
}

// A vector of rows in a tile: logits [keys][pitch], and what they become.
struct Columns {
  float* scores;
  int pitch;
  float* top;               // the largest logits
  float* weights;           // pairs of keys
  float* largest;           // of the scaled logits
  float (*sums)[kStrands];  // [strands][rows]
  alignas(64) float factor[kLanes];
};

// Hides keys that rows do not see: hidden[r] are the marks of row r.
inline void hide_columns(const Columns& c, const uint32_t* const* hidden, int count) {
  for (int first = 0; first < count; first += kLanes) {
    F32 z[kLanes];
    for (int r = 0; r < kLanes; ++r) z[r] = vec::load((const float*)hidden[r] + first);
    vec::transpose(z);
    for (int i = 0; i < min_of(kLanes, count - first); ++i) {
      float* s = c.scores + (first + i) * c.pitch;
      vec::store(s, vec::select(vec::bits(z[i]), vec::load(s), vec::set(minus_infinity())));
    }
  }
}

// The largest logits again, of those that are left.
inline void find_top(const Columns& c, int count) {
  F32 top = vec::set(minus_infinity());
  for (int j = 0; j < count; ++j) top = vec::max(top, vec::load(c.scores + j * c.pitch));
  vec::store(c.top, top);
}

// As `weigh`, with a row in each lane.
void weigh_columns(Columns& c, float scale, int count) {
  const F32 before = vec::load(c.largest);
  const F32 largest = vec::max(before, vec::mul(vec::load(c.top), vec::set(scale)));
  vec::store(c.largest, largest);
  // Of a row that has seen no key yet the largest is minus infinity, and the base 0.
  const vec::I32 none = vec::bits(vec::add(largest, vec::set(__FLT_MAX__)));
  const F32 base = vec::select(none, largest, vec::set(0.0f));
  const F32 factor = vec::exp_below_88(vec::sub(before, base));
  vec::store(c.factor, factor);
  const Weight<2> weight(scale, base);
  for (int strand = 0; strand < kStrands; strand += 2) {
    F32 even = vec::mul(vec::load(c.sums[strand]), factor);
    F32 odd = vec::mul(vec::load(c.sums[strand + 1]), factor);
    for (int j = strand; j < count; j += kStrands) {
      const F32 e = weight.of(vec::load(c.scores + j * c.pitch));
      const F32 o = weight.of(vec::load(c.scores + (j + 1) * c.pitch));
      even = vec::add(even, e);
      odd = vec::add(odd, o);
      vec::store(c.weights + j / 2 * kLanes, vec::narrow_lanes(e, o));
    }
    vec::store(c.sums[strand], even);
    vec::store(c.sums[strand + 1], odd);
  }
}

// The sums of a task's rows do not stay in the first cache from one tile to the next.
template <int kRows, int kVectors>
inline void prefetch_sums(const float* out, int D) {
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) vec::prefetch_first(out + int64_t(r) * D + i * kLanes);
  }
}

// out[r] = out[r] * factor[r] + sum_j weight_rj v_j for the rows of a vector.
template <int kRows, int kVectors>
void add_column_block(const Columns& c, int first, int words, const char* const* values, float* out,
                      int D, Ahead& ahead) {
  const char* w = (const char*)(c.weights + first);
  for (int d = 0; d < D; d += kVectors * kLanes) {
    const int behind = d + kVectors * kLanes;
    float* sums = out + int64_t(first) * D + d;
    prefetch_sums<kRows, kVectors>(behind < D ? sums + kVectors * kLanes : sums - d + kRows * D, D);
    const PairRow::Values at{values, int64_t(d) * PairRow::kBytes};
    add_values<Pair, kRows, kVectors, 4, 4 * kLanes>(w, words, at, c.factor + first, sums, D,
                                                     ahead);
  }
}

template <int kVectors>
void add_columns(const Columns& c, int rows, int words, const char* const* values, float* out,
                 int D, Ahead& a) {
  const int blocks = (rows + kRegisterRows - 1) / kRegisterRows;
  int done = 0;
  for (int i = 0; i < blocks; ++i) {
    const int now = (rows - done + blocks - i - 1) / (blocks - i);
    if (now == 6) add_column_block<6, kVectors>(c, done, words, values, out, D, a);
    if (now == 5) add_column_block<5, kVectors>(c, done, words, values, out, D, a);
    if (now == 4) add_column_block<4, kVectors>(c, done, words, values, out, D, a);
    if (now == 3) add_column_block<3, kVectors>(c, done, words, values, out, D, a);
    if (now == 2) add_column_block<2, kVectors>(c, done, words, values, out, D, a);
    if (now == 1) add_column_block<1, kVectors>(c, done, words, values, out, D, a);
    done += now;
  }
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
#endif
