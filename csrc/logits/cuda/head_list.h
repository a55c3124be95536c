// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/block.h"
#include "core/cuda/pack.h"

// Lists of tokens of a head as keys: integers in the order of tokens, the larger logit first, then
// the lower token. 0 is none. Included by CUDA kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

FEWSTEP_HOST_DEVICE inline uint64_t key_of(float value, int32_t token) {
  const uint32_t u = vec::bits({value + 0.0f}).v;  // -0 and 0 are the same
  const uint32_t high = (u & 0x80000000u) ? ~u : u | 0x80000000u;
  return (uint64_t)high << 32 | ((uint32_t)token ^ 0x7fffffffu);
}
FEWSTEP_HOST_DEVICE inline float value_of(uint64_t key) {
  const uint32_t high = (uint32_t)(key >> 32);
  return vec::float_of_bits({(high & 0x80000000u) ? high & 0x7fffffffu : ~high}).v;
}
FEWSTEP_HOST_DEVICE inline int32_t token_of(uint64_t key) {
  return (int32_t)((uint32_t)key ^ 0x7fffffffu);
}

// Sorts the first `lists` of lists, all at a time, by Batcher's bitonic network. size: of each, a
// power of 2.
template <int kLists, int kRoom, int kThreads>
FEWSTEP_HOST_DEVICE inline void sort_descending(const gpu::Block<kThreads>& block, int lists,
                                                int size, uint64_t (&keys)[kLists][kRoom]) {
  FEWSTEP_NO_UNROLL
  for (int run = 2; run <= size; run *= 2) {
    FEWSTEP_NO_UNROLL
    for (int gap = run / 2; gap > 0; gap /= 2) {
      block.each([&](int t) {
        for (int n = t; n < lists * size / 2; n += kThreads) {
          uint64_t* list = keys[n / (size / 2)];
          const int i = n % (size / 2);
          const int low = (i & ~(gap - 1)) * 2 + (i & (gap - 1));
          const uint64_t a = list[low], b = list[low + gap];
          const bool descends = (low & run) == 0;
          if ((a < b) != descends) continue;
          list[low] = b;
          list[low + gap] = a;
        }
      });
    }
  }
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
