// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>
#include <string.h>

#include "core/cpu/lanes.h"
#include "core/cuda/block.h"
#include "core/host_device.h"

// Sorting in shared memory by a block of threads. Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

// Integers in the order of floats, -0 and 0 the same.
FEWSTEP_HOST_DEVICE inline uint32_t ordered(float x) {
  const uint32_t u = vec::bits({x + 0.0f}).v;
  return (u & 0x80000000u) ? ~u : u | 0x80000000u;
}
FEWSTEP_HOST_DEVICE inline float from_ordered(uint32_t o) {
  return vec::float_of_bits({(o & 0x80000000u) ? o & 0x7fffffffu : ~o}).v;
}

// Those in the order of float64.
FEWSTEP_HOST_DEVICE inline uint64_t ordered(double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  return u >> 63 ? ~u : u | UINT64_C(1) << 63;
}
FEWSTEP_HOST_DEVICE inline double from_ordered(uint64_t o) {
  const uint64_t u = o >> 63 ? o & ~(UINT64_C(1) << 63) : ~o;
  double x;
  memcpy(&x, &u, 8);
  return x;
}

// Sorts lists that lie one after the other, by Batcher's bitonic network. size: of each, a power of
// 2; is_less(i, j): element i comes after j.
template <int kThreads, class Less, class Swap>
FEWSTEP_HOST_DEVICE inline void sort(const Block<kThreads>& block, int lists, int size,
                                     const Less& is_less, const Swap& swap) {
  FEWSTEP_NO_UNROLL
  for (int run = 2; run <= size; run *= 2) {
    FEWSTEP_NO_UNROLL
    for (int gap = run / 2; gap > 0; gap /= 2) {
      block.each([&](int t) {
        for (int i = t; i < lists * size / 2; i += kThreads) {
          const int low = (i & ~(gap - 1)) * 2 + (i & (gap - 1));
          const bool descends = (low & run & (size - 1)) == 0;
          const int first = descends ? low : low + gap;
          if (is_less(first, 2 * low + gap - first)) swap(low, low + gap);
        }
      });
    }
  }
}

template <int kThreads>
FEWSTEP_HOST_DEVICE inline void sort_descending(const Block<kThreads>& block, int lists, int size,
                                                uint64_t* keys) {
  const auto swap = [&](int i, int j) {
    const uint64_t key = keys[i];
    keys[i] = keys[j];
    keys[j] = key;
  };
  sort(block, lists, size, [&](int i, int j) { return keys[i] < keys[j]; }, swap);
}

// Fills keys up to the next power of 2, which is returned.
template <int kThreads>
FEWSTEP_HOST_DEVICE inline int pad(const Block<kThreads>& block, uint64_t* keys, int count) {
  int size = 1;
  while (size < count) size *= 2;
  block.each([&](int t) {
    for (int i = count + t; i < size; i += kThreads) keys[i] = 0;
  });
  return size;
}

template <int kThreads>
FEWSTEP_HOST_DEVICE inline void sort_descending(const Block<kThreads>& block, uint64_t* keys,
                                                int count) {
  sort_descending(block, 1, pad(block, keys, count), keys);
}

}  // namespace
}  // namespace fewstep::gpu
