// SPDX-License-Identifier: Apache-2.0
#include "core/draws.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <set>

#include "fewstep/noise.h"

using namespace fewstep;

TEST_CASE("a uniform is the middle of one of 2^52 cells of the open interval") {
  CHECK(open_uniform(0u, 0u) == std::ldexp(1.0, -53));
  CHECK(open_uniform(~0u, ~0u) == 1.0 - std::ldexp(1.0, -53));
  CHECK(open_uniform(1u << 12, 0u) == 3.0 * std::ldexp(1.0, -53));
  CHECK(open_uniform(0u, 1u << 31) == 0.5 + std::ldexp(1.0, -53));
}

TEST_CASE("purposes, positions, draws, blocks and seeds share no words") {
  std::set<std::array<uint32_t, 4>> seen;
  size_t count = 0;
  const uint64_t seeds[] = {0, 1, uint64_t(1) << 32, ~uint64_t(0)};
  for (const uint64_t seed : seeds) {
    for (uint32_t stream = FEWSTEP_STREAM_DRAFT; stream <= FEWSTEP_STREAM_SAMPLE; ++stream) {
      for (uint32_t position = 0; position < 4; ++position) {
        for (uint32_t draw = 0; draw < 4; ++draw) {
          for (uint32_t block = 0; block < 4; ++block) {
            std::array<uint32_t, 4> words;
            draw_words({seed, position, stream}, draw, block, words.data());
            seen.insert(words);
            ++count;
          }
        }
      }
    }
  }
  CHECK(seen.size() == count);
}

TEST_CASE("a single number is that of block 0") {
  uint32_t words[4];
  draw_words({7, 3, FEWSTEP_STREAM_ACCEPT}, 5, 0, words);
  CHECK(draw_uniform({7, 3, FEWSTEP_STREAM_ACCEPT}, 5) == open_uniform(words[0], words[1]));
}
