// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/cpu/lanes.h"
#include "core/cpu/philox_tile.h"
#include "core/draws.h"

// Gumbel variates of a row's tokens: token v takes word v % 4 of block v / 4. Which tokens can
// still be among the k best is decided on the words, as integers; only for these is the variate
// computed, in float64, so the result depends on no vector width.
namespace fewstep {
namespace {

constexpr double kLargestGumbel = 22.9;  // of a word of 32 bits, rounded up
constexpr int kGumbelGroup = 64;         // tokens that are decided on together
constexpr int kGroupBlocks = kGumbelGroup / 4;

// A word at or below this has a variate below `least`.
inline uint32_t word_below(double least) {
  if (!(least > -5.0)) return 0;
  const double cells = 0x1p32 * exp(-exp(-least));
  return cells < 2.0 ? 0u : (uint32_t)(cells - 2.0);
}

// Words of blocks [block, block + 16), token by token. Requires: block a multiple of 16.
inline void group_words(const DrawKey& key, uint32_t draw, uint32_t block, uint32_t* words) {
  constexpr int kLanes = vec::kLanes;
  for (int b = 0; b < kGroupBlocks; b += kLanes) {
    vec::I32 w[4];
    vec::F32 z[4];  // for the transposition, as bits
    const uint64_t first = (uint64_t)draw << 32 | (block + (uint32_t)b);
    vec::philox_tile(first, key.seed, key.position, key.stream, w);
    for (int i = 0; i < 4; ++i) z[i] = vec::float_of_bits(w[i]);
    vec::transpose_quads(z);
    for (int i = 0; i < 4; ++i) {
      vec::store_i32((int32_t*)words + 4 * b + i * kLanes, vec::bits(z[i]));
    }
  }
}

// The k greatest x + Gumbel, descending, with the x of each.
struct Perturbed {
  double* value;
  float* x;
  int32_t* id;
  int k, count;

  double least() const { return count < k ? -INFINITY : value[k - 1]; }
  void offer(double score, float logit, int32_t at) {
    if (!(score > least())) return;
    int i = count < k ? count++ : k - 1;
    for (; i > 0 && score > value[i - 1]; --i) {
      value[i] = value[i - 1];
      x[i] = x[i - 1];
      id[i] = id[i - 1];
    }
    value[i] = score;
    x[i] = logit;
    id[i] = at;
  }
};

// Perturbs tokens [begin, begin + 64) with logits x, -infinity where a token cannot be drawn.
inline void perturb_group(const float* x, int64_t begin, const DrawKey& key, uint32_t draw,
                          Perturbed* best) {
  const float top = vec::largest_of(x, kGumbelGroup);
  const double needed = best->least() - (double)top;
  if (top == -INFINITY || needed > kLargestGumbel) return;
  uint32_t words[kGumbelGroup];
  group_words(key, draw, (uint32_t)(begin / 4), words);
  const uint32_t bound = word_below(needed);
  uint32_t any = 0;
  for (int i = 0; i < kGumbelGroup; ++i) any |= words[i] >= bound ? 1u : 0u;
  if (!any) return;
  for (int i = 0; i < kGumbelGroup; ++i) {
    if (words[i] < bound || x[i] == -INFINITY) continue;
    best->offer((double)x[i] + gumbel_of(words[i]), x[i], (int32_t)(begin + i));
  }
}

}  // namespace
}  // namespace fewstep
