// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/cpu/parallel.h"

// Work over B samples of N elements, split so that neither many small samples nor one large sample
// leaves a thread idle. Included by kernel files only.
namespace fewstep {
namespace {

// Elements of the smallest piece of a sample: a multiple of every ISA's tile of normals.
constexpr int64_t kPiece = 4096;
// Elements per thread that repay the region's start and end, about 10 us of work: a sum of a few
// arrays, or a draw of normals. Measured with DPM++ 2M, two threads of a team that is awake: 128 k
// elements take 11 us in place of 20, 64 k 6 in place of 9, and 64 k with noise 21 in place of 40.
// Where the scheduler is busy elsewhere a region can stall for milliseconds: too much for 3 us.
constexpr int64_t kSumGrain = 65536;
constexpr int64_t kNormalGrain = 16384;

// Calls f(b, begin, end) for the parts of samples that cover the whole [B, N], on several threads.
// Begin is a multiple of kPiece. A thread gets `grain` elements or more. Each run of parts has a
// copy of f. Requires: f throws nothing.
template <class F>
inline void for_samples(int32_t threads, int64_t B, int64_t N, int64_t grain, const F& f) {
  if (B <= 0 || N <= 0) return;
  struct Context {
    const F& f;
    int64_t N, pieces;  // per sample
  } context{f, N, (N + kPiece - 1) / kPiece};
  const auto run = [](void* p, int64_t begin, int64_t end) {
    const Context& c = *static_cast<const Context*>(p);
    F part = c.f;
    while (begin < end) {
      const int64_t b = begin / c.pieces, first = begin - b * c.pieces;
      const int64_t last = first + (end - begin) < c.pieces ? first + (end - begin) : c.pieces;
      const int64_t stop = last * kPiece < c.N ? last * kPiece : c.N;
      part(b, first * kPiece, stop);
      begin += last - first;
    }
  };
  const int64_t elements = N < kPiece ? N : kPiece;  // of a piece
  parallel_for(threads, B * context.pieces, (grain + elements - 1) / elements, run, &context);
}

}  // namespace
}  // namespace fewstep
