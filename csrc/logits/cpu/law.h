// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cpu/candidates.h"

// The law of a filtered row: p(v) = w(v) / mass, w(v) = exp((l(v) - max) / temperature) where v is
// kept, else 0, by two multiplications less as a power of 2. Weights are float32, sums float64 in
// an order of ids that depends on V alone, so that a law, and every draw from it, is the same on
// every ISA, thread and batch.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct Law : Weighing {
  RowSpec row;
  double mass;
  int32_t count;   // of ids where the kept tokens are few and listed, else -1
  int32_t pieces;  // else: masses of runs of tokens, `piece` of them each
  int64_t piece;
  union {
    struct {
      int32_t ids[kMaxCandidates];  // ascending
      float weights[kMaxCandidates];
    } few;
    double sums[kMaxPieces];
  };
};

// A law that keeps every token and lists none; its mass is to be summed.
inline void begin_law(const RowSpec& row, float max, float scale, Law* law) {
  *(Weighing*)law = weigh_all(max, scale);
  law->row = row;
  law->count = -1;
}

inline float shifted_at(const Law& law, int64_t v) {
  float lanes[vec::kLanes];
  vec::store(lanes, shifted(law, vec::set(logit_at(law.row, v))));
  return lanes[0];
}

// Weights of tokens [begin, begin + kBlock), zeros past the row. begin is a multiple of kBlock.
inline void fill_weights(const Law& law, int64_t begin, float* w) {
  if (law.count >= 0) {
    for (int i = 0; i < kBlock; ++i) w[i] = 0.0f;
    int low = 0, high = law.count;  // the first id >= begin
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (law.few.ids[middle] < begin) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    for (; low < law.count && law.few.ids[low] < begin + kBlock; ++low) {
      w[law.few.ids[low] - begin] = law.few.weights[low];
    }
    return;
  }
  float buffer[kBlock];
  const float* raw = raw_block(law.row, begin, buffer);
  for (int i = 0; i < kBlock; i += vec::kLanes) {
    vec::store(w + i, weights_of(law, vec::load(raw + i), begin + i));
  }
}

// The weight of one token: the bits that fill_weights gives.
inline float weight_at(const Law& law, int64_t v) {
  if (v < 0 || v >= law.row.V || !is_allowed(law.row, v)) return 0.0f;
  if (law.count >= 0) {
    int low = 0, high = law.count;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (law.few.ids[middle] < v) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low < law.count && law.few.ids[low] == v ? law.few.weights[low] : 0.0f;
  }
  float lanes[vec::kLanes];
  // Every lane is that token but for ties, which go by id: lane 0 is asked.
  vec::store(lanes, weights_of(law, vec::set(logit_at(law.row, v)), v));
  return lanes[0];
}
inline double probability(const Law& law, int64_t v) {
  return (double)weight_at(law, v) / law.mass;
}

// Whether one of 64 raw logits is as large as the least that is kept.
inline bool reaches(const Law& law, const float* raw) {
  vec::F32 top = vec::load(raw);
  for (int j = 1; j < kStrandVectors; ++j) top = vec::max(top, vec::load(raw + j * vec::kLanes));
  const vec::F32 key = shifted(law, top), least = vec::set(law.least.value);
  return (vec::greater_bits(key, least) | vec::equal_bits(key, least)) != 0;
}

// Mass of the tokens of a block; with kEntropy the sum of w x instead, 0 where w is 0.
template <bool kEntropy = false>
inline double block_sum(const Law& law, int64_t begin) {
  float buffer[kBlock];
  const float* raw = raw_block(law.row, begin, buffer);
  vec::F32 acc[kStrandVectors];
  for (vec::F32& a : acc) a = vec::set(0.0f);
  const bool skips = law.has_least;  // most groups of 64 have no token that is kept
  for (int i = 0; i < kBlock; i += 64) {
    if (skips && !reaches(law, raw + i)) continue;
    for (int j = 0; j < kStrandVectors; ++j) {
      const int at = i + j * vec::kLanes;
      const vec::F32 x = vec::load(raw + at);
      const vec::F32 w =
          kEntropy ? weighed_logits(law, x, begin + at) : weights_of(law, x, begin + at);
      acc[j] = vec::add(acc[j], w);
    }
  }
  return strands_sum(acc);
}

// Mass of a block of raw logits of a law without thresholds; `largest` grows to the largest of
// them.
inline double weights_sum(const Law& law, const float* raw, float* largest) {
  vec::F32 top = vec::set(*largest);
  vec::F32 acc[kStrandVectors];
  for (vec::F32& a : acc) a = vec::set(0.0f);
  for (int i = 0; i < kBlock; i += 64) {
    for (int j = 0; j < kStrandVectors; ++j) {
      const vec::F32 x = vec::load(raw + i + j * vec::kLanes);
      top = vec::max(top, x);
      acc[j] = vec::add(acc[j], weights(law, x));
    }
  }
  *largest = vec::largest_lane(top);
  return strands_sum(acc);
}

template <bool kEntropy = false>
inline double row_sum(const Law& law) {
  double sum = 0.0;
  for (int64_t begin = 0; begin < law.row.V; begin += kBlock)
    sum += block_sum<kEntropy>(law, begin);
  return sum;
}

inline void set_pieces(Law* law) {
  law->piece = piece_of(law->row.V);
  law->pieces = (int32_t)((law->row.V + law->piece - 1) / law->piece);
}

// Sets the masses of the pieces and the whole.
inline void sum_pieces(Law* law) {
  set_pieces(law);
  law->mass = 0.0;
  for (int32_t p = 0; p < law->pieces; ++p) {
    double sum = 0.0;
    const int64_t end = (p + 1) * law->piece < law->row.V ? (p + 1) * law->piece : law->row.V;
    for (int64_t begin = p * law->piece; begin < end; begin += kBlock) {
      sum += block_sum(*law, begin);
    }
    law->sums[p] = sum;
    law->mass += sum;
  }
}

// The first token whose cumulative weight from `begin` on exceeds `target`; where rounding leaves
// none, the last of `end` with any weight. At least one has.
inline int64_t find_token(const Law& law, int64_t begin, int64_t end, double target) {
  float w[kBlock];
  int64_t last = -1;
  double sum = 0.0;
  for (int64_t b = begin; b < end; b += kBlock) {
    fill_weights(law, b, w);
    for (int i = 0; i < kBlock; ++i) {
      if (!(w[i] > 0.0f)) continue;
      last = b + i;
      sum += (double)w[i];
      if (sum > target) return last;
    }
  }
  return last;
}

// The token at u in (0, 1) of the cumulative law, in the order of ids.
inline int64_t draw(const Law& law, double u) {
  if (law.count >= 0) {
    const double target = u * law.mass;
    double sum = 0.0;
    for (int i = 0; i < law.count; ++i) {
      sum += (double)law.few.weights[i];
      if (sum > target) return law.few.ids[i];
    }
    return law.few.ids[law.count - 1];
  }
  const Target target = target_in(law.sums, law.pieces, law.mass, u);
  const int64_t begin = target.piece * law.piece;
  const int64_t end = begin + law.piece < law.row.V ? begin + law.piece : law.row.V;
  return find_token(law, begin, end, target.sum);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
