// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/samples.h"
#include "core/cpu/vec.h"
#include "core/dtype.h"
#include "solver/strands.h"

// Sums over samples in the order of solver/strands.h. Included by kernel files only.
//
// Terms says what is summed:
//   kInputs, kEntries
//   void add(const vec::F32 x[kInputs], vec::F64 sum[kEntries]) const
// adds the terms of kLanes elements to the entries' sums. Terms of zero inputs must be zero.
namespace fewstep::solver {
namespace {

using vec::F32;
using vec::F64;
using vec::kLanes;

static_assert(kSumPiece == kPiece && kStrandLanes % kLanes == 0);

// `count` elements of a chunk as float32: in place where they can be, else converted, with zeros
// behind the last.
inline const float* chunk_of(const char* data, DType dtype, int count, float* scratch) {
  if (dtype == DType::kF32) {
    if (count == kChunk) return (const float*)data;
    memset(scratch, 0, kChunk * sizeof(float));
    memcpy(scratch, data, (size_t)count * sizeof(float));
    return scratch;
  }
  uint16_t padded[kChunk];
  const uint16_t* halves = (const uint16_t*)data;
  if (count < kChunk) {
    memset(padded, 0, sizeof(padded));
    memcpy(padded, data, (size_t)count * sizeof(uint16_t));
    halves = padded;
  }
  for (int i = 0; i < kChunk; i += kLanes) {
    vec::store(scratch + i,
               dtype == DType::kF16 ? vec::load_f16(halves + i) : vec::load_bf16(halves + i));
  }
  return scratch;
}

// Adds a chunk's lane sums to the piece's, [kEntries][kStrandLanes]. `count` elements are not zero.
template <class Terms>
inline void add_chunk(const Terms& terms, const float* const x[Terms::kInputs], int count,
                      double (*lanes)[kStrandLanes]) {
  for (int u = 0; u < kStrandLanes; u += kLanes) {
    F64 sum[Terms::kEntries];
    for (int e = 0; e < Terms::kEntries; ++e) sum[e] = vec::zero_f64();
    for (int i = 0; i < count; i += kStrandLanes) {
      F32 v[Terms::kInputs];
      for (int k = 0; k < Terms::kInputs; ++k) v[k] = vec::load(x[k] + i + u);
      terms.add(v, sum);
    }
    for (int e = 0; e < Terms::kEntries; ++e) {
      vec::store(lanes[e] + u, vec::add(vec::load(lanes[e] + u), sum[e]));
    }
  }
}

// The sums of the piece at element n of sample b into partials[e * pieces].
template <class Terms, class Input>
inline void sum_piece(const Terms& terms, const Input* in, int64_t b, int64_t n, int64_t N,
                      int64_t pieces, double* partials) {
  alignas(64) double lanes[Terms::kEntries][kStrandLanes] = {};
  alignas(64) float scratch[Terms::kInputs][kChunk];
  const int64_t end = N - n < kSumPiece ? N : n + kSumPiece;
  for (int64_t begin = n; begin < end; begin += kChunk) {
    const int count = end - begin < kChunk ? (int)(end - begin) : kChunk;
    const float* x[Terms::kInputs];
    for (int k = 0; k < Terms::kInputs; ++k) {
      const int64_t bytes = in[k].dtype == DType::kF32 ? 4 : 2;
      x[k] =
          chunk_of(in[k].data + b * in[k].stride + begin * bytes, in[k].dtype, count, scratch[k]);
    }
    add_chunk(terms, x, count, lanes);
  }
  for (int e = 0; e < Terms::kEntries; ++e) {
    partials[e * pieces] = tree_sum(lanes[e], kStrandLanes);
  }
}

// The sum of one entry of a sample from its pieces.
inline double sum_of_pieces(const double* partials, int64_t pieces) {
  double strands[kStrands] = {};
  for (int64_t p = 0; p < pieces; ++p) strands[p % kStrands] += partials[p];
  return tree_sum(strands, kStrands);
}

// Calls done(b, e, sum) for every entry of every sample. partials: [B, kEntries, pieces].
template <class Terms, class Input, class Done>
inline void sum_samples(const Terms& terms, const Input* in, int64_t B, int64_t N, double* partials,
                        int32_t threads, const Done& done) {
  constexpr int kEntries = Terms::kEntries;
  const int64_t pieces = sum_pieces(N);
  for_samples(threads, B, N, kSumGrain,
              [&terms, in, N, pieces, partials](int64_t b, int64_t begin, int64_t end) {
                for (int64_t n = begin; n < end; n += kSumPiece) {
                  sum_piece(terms, in, b, n, N, pieces,
                            partials + b * kEntries * pieces + n / kSumPiece);
                }
              });
  struct Context {
    const double* partials;
    int64_t pieces;
    const Done& done;
  } context{partials, pieces, done};
  const auto run = [](void* pointer, int64_t begin, int64_t end) {
    const Context& c = *static_cast<const Context*>(pointer);
    for (int64_t i = begin; i < end; ++i) {
      c.done(i / kEntries, (int)(i % kEntries), sum_of_pieces(c.partials + i * c.pieces, c.pieces));
    }
  };
  parallel_for(threads, B * kEntries, 1 + kSumGrain / (pieces + 2 * kStrands), run, &context);
}

}  // namespace
}  // namespace fewstep::solver
