// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/host_device.h"
#include "core/philox.h"

// The random numbers of token decoding. A draw belongs to a request's seed, an absolute position in
// its sequence, a purpose (fewstep_stream: draft, accept, residual, bonus and plain draws never
// share a word, or the output law would be biased) and a number among the draws there. Nothing
// depends on the batch, the tree's layout in memory, threads or tiles.
//
// Key (seed lo, seed hi), counter (block, draw, position, stream); a draw that needs a number for
// each token takes word v % 4 of block v / 4, one that needs a single number takes block 0.
namespace fewstep {

struct DrawKey {
  uint64_t seed;
  uint32_t position;
  uint32_t stream;
};

FEWSTEP_HOST_DEVICE static inline void draw_words(const DrawKey& key, uint32_t draw, uint32_t block,
                                                  uint32_t words[4]) {
  words[0] = block;
  words[1] = draw;
  words[2] = key.position;
  words[3] = key.stream;
  philox4x32(words, (uint32_t)key.seed, (uint32_t)(key.seed >> 32));
}

// A number in the open interval (0, 1) with 52 random bits: the middle of its cell, exactly.
FEWSTEP_HOST_DEVICE static inline double open_uniform(uint32_t low, uint32_t high) {
  const uint64_t cell = ((uint64_t)high << 32 | low) >> 12;
  return ((double)cell + 0.5) * 0x1p-52;
}

FEWSTEP_HOST_DEVICE static inline double draw_uniform(const DrawKey& key, uint32_t draw) {
  uint32_t words[4];
  draw_words(key, draw, 0, words);
  return open_uniform(words[0], words[1]);
}

// A Gumbel variate: -log(-log(u)), u the middle of the word's cell.
FEWSTEP_HOST_DEVICE static inline double gumbel_of(uint32_t word) {
  const double u = ((double)word + 0.5) * 0x1p-32;
  return -log(-log(u));
}

}  // namespace fewstep
