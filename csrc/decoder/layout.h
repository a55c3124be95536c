// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "decoder/decoder.h"

// Where a call keeps what lies between its steps.
namespace fewstep::decoder {

constexpr int64_t kBlockRows = 256;  // rows of a linear layer or of a chain at a time: more take
                                     // longer a row

// Places parts one after the other, each from the start of a cache line on.
struct Places {
  int64_t end = 0;

  int64_t add(int64_t bytes) {
    const int64_t begin = end;
    end += (bytes + 63) / 64 * 64;
    return begin;
  }
  int64_t total() const { return end + 64; }  // the workspace's own start is aligned
};

// Bytes from the start of the workspace, multiples of a cache line.
struct Layout {
  int64_t positions, kv_len, indptr, table;      // int32
  int64_t qkv, attended, middle, gated, wanted;  // rows of x's type
  int64_t activations, partial;                  // of linear layers and of attention
  int64_t total;
};

// Requests of attention: the call's, or the parts of their chains.
inline int64_t most_requests(int64_t N, int64_t B) { return B + N / kBlockRows; }

Layout layout_of(const fewstep_decoder& d, int64_t N, int64_t B, int64_t M, int64_t C);

}  // namespace fewstep::decoder
