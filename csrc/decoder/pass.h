// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "decoder/decoder.h"
#include "decoder/layout.h"

namespace fewstep::decoder {

// What a call gives, checked.
struct Pass {
  explicit Pass(const fewstep_decoder& decoder) : d(decoder) {}

  const fewstep_decoder& d;
  int64_t N = 0, B = 0, M = 0, S = 0, pairs = 0;
  linear::Rows x{}, logits{};                  // logits of no data: not wanted
  bool scratch_x = false;                      // nobody reads x afterwards
  kv::Ints indptr{}, length{};                 // [B + 1], [B]
  kv::Pages pages{};                           // table [B, C]
  int64_t C = 1;                               // 1 without a table
  const float *cos = nullptr, *sin = nullptr;  // [S, pairs]
  int64_t cos_stride = 0, sin_stride = 0;
  const uint32_t* bits = nullptr;  // [N, W]; null: causal chains
  int64_t bits_stride = 0, words = 0;
  kv::Ints depth{}, block{};                         // no data: not given
  const int64_t *tokens = nullptr, *rows = nullptr;  // null: not given
  int64_t tokens_stride = 0, rows_stride = 0;
  Layout layout{};
  char* scratch = nullptr;
  int32_t threads = 0;

  int64_t rows_of(int64_t b) const { return kv::at(indptr, b + 1) - kv::at(indptr, b); }
  int64_t block_of(int64_t b) const { return block.data ? kv::at(block, b) : rows_of(b); }
  int64_t position(int64_t b, int64_t n) const {
    const int64_t length_b = kv::at(length, b);
    if (!depth.data) return length_b + n - kv::at(indptr, b);
    return length_b + rows_of(b) - block_of(b) + kv::at(depth, n);
  }
};

// The threads of a team that is worth its meeting for so many reads of all weights, given how many
// are allowed: 2^19 weights take 15 us and more.
inline int32_t team_size(const fewstep_decoder& d, int64_t reads, int32_t threads) {
  return reads * d.weights() < int64_t(1) << 19 ? 1 : threads;
}

// Runs it: rows through all layers, and to logits where those are wanted.
void forward(const Pass& p, const char* function);

}  // namespace fewstep::decoder
