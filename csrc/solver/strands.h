// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

// The order of a sample's sums, the same on every ISA, device and thread count. Host and device
// code.
//
// A sample is cut into pieces of 4096 elements, a piece into 16 chunks of 256. Element n of a chunk
// belongs to lane n % 16. In float64, each from +0 and in ascending order:
//
//   a chunk's lane    sums its 16 elements
//   a piece's lane    sums its 16 chunks
//   a piece           is the tree of its 16 lanes
//   a sample's strand s of 64 sums pieces s, s + 64, s + 128, ...
//   a sample          is the tree of its 64 strands
//
// A CPU holds the lanes of a chunk in vector registers; on a GPU a piece is a block, and a chunk's
// lane a thread. What lies past the end of a sample adds +0, which changes no sum that starts at
// +0.
namespace fewstep::solver {

constexpr int kStrandLanes = 16;
constexpr int kChunk = 256;
constexpr int kChunks = 16;
constexpr int kSumPiece = kChunk * kChunks;
constexpr int kStrands = 64;

FEWSTEP_HOST_DEVICE static inline int64_t sum_pieces(int64_t N) {
  return (N + kSumPiece - 1) / kSumPiece;
}

// The sum of x[0 .. count), count a power of two, as a binary tree. Overwrites x.
FEWSTEP_HOST_DEVICE static inline double tree_sum(double* x, int count) {
  for (int half = count / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  }
  return x[0];
}

}  // namespace fewstep::solver
