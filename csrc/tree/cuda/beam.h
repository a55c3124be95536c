// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cuda/list.h"

// The beam of each request: the best of all children of its frontier rows, which another launch has
// written. Included by CUDA kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// What children are chosen by, [R, K], and how many of them.
struct BeamScores {
  const float* scores;
  int64_t stride;
  const int32_t* indptr;  // [B + 1]
  int64_t indptr_stride;
  int64_t B, R;
  int32_t K, M;
};

// Mapping: a block has a request, whose children it sorts some at a time, the best so far with
// them. Put: put(b, begin, j, place) writes entry j of request b, the child at row place / K from
// `begin` on; -1: there is none.
template <class Put>
struct BeamKernel {
  static constexpr int kThreads = 512, kBlocks = 2;
  static constexpr int kKeys = 1024;
  using Block = logits::FEWSTEP_ISA::Block;
  struct Shared {
    uint64_t keys[kKeys];
  };

  BeamScores from;
  Put put;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t b = block.index;
    const int64_t begin = from.indptr[b * from.indptr_stride];
    const int64_t end = from.indptr[(b + 1) * from.indptr_stride];
    const bool fits = begin >= 0 && end <= from.R;  // nobody looked at it before
    const int64_t children = fits ? (end - begin) * from.K : 0;
    int kept = 0;
    for (int64_t first = 0; first < children;) {
      const int64_t left = children - first;
      const int taken = left < kKeys - kept ? (int)left : kKeys - kept;
      block.each([&](int t) {
        for (int i = t; i < taken; i += kThreads) s.keys[kept + i] = key_of(begin, first + i);
      });
      gpu::sort_descending(block, s.keys, kept + taken);
      kept = kept + taken < from.M ? kept + taken : from.M;
      first += taken;
    }
    block.each_alone([&](int t) {
      if (t >= from.M) return;
      put(b, begin, t, t < kept && s.keys[t] > 0 ? (int64_t)~(uint32_t)s.keys[t] : -1);
    });
  }

  // The greater score first, of equal ones the earlier; 0 where there is none.
  FEWSTEP_HOST_DEVICE uint64_t key_of(int64_t begin, int64_t place) const {
    const int64_t row = place / from.K;
    const float score = from.scores[(begin + row) * from.stride + (place - row * from.K)];
    if (!(score > logits::FEWSTEP_ISA::kMinusInfinity)) return 0;
    return (uint64_t)gpu::ordered(score) << 32 | (uint32_t)~(uint32_t)place;
  }
};

template <class Put>
inline void launch_beam(const char* function, const BeamScores& from, const Put& put,
                        void* cuda_stream) {
  if (from.B == 0) return;
  gpu::launch(function, BeamKernel<Put>{from, put}, from.B, cuda_stream);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
