// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "solver/strands.h"

// Sums over samples in the order of solver/strands.h, as two kernels: one block per piece, then one
// block per sample and entry. No atomics. Included by CUDA kernel files only.
//
// Terms is as in solver/cpu/sums.h, of one element.
namespace fewstep::solver {
namespace {

// Elements of each input that a thread asks for before it adds up the first: with 4 inputs 16
// accesses in flight per thread.
constexpr int kElementsInFlight = 4;

FEWSTEP_HOST_DEVICE inline uint32_t load_element(const char* p, DType dtype, int64_t n) {
  if (dtype == DType::kF32) return ((const gpu::Word*)p)[n];
  return ((const gpu::HalfWord*)p)[n];
}

FEWSTEP_HOST_DEVICE inline vec::F32 widen_element(uint32_t raw, DType dtype) {
  if (dtype == DType::kF32) return vec::float_of_bits({raw});
  if (dtype == DType::kF16) return {gpu::widen_f16(raw)};
  return vec::float_of_bits({raw << 16});
}

// Mapping: block b * pieces + p sums piece p of sample b; thread c * 16 + l its chunk c's lane l.
// Neighbouring threads read neighbouring elements.
template <class Terms, class Input>
struct PieceKernel {
  static constexpr int kThreads = 256, kBlocks = 3;
  static constexpr bool kPrepares = true;
  static constexpr int kEntries = Terms::kEntries, kInputs = Terms::kInputs;
  static_assert(kThreads == kChunks * kStrandLanes);
  struct Shared {
    double lane[kEntries][kThreads];
  };

  Terms terms;
  Input in[kInputs];
  int64_t N, pieces;
  double* partials;  // [B, kEntries, pieces]

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread thread, Shared* s) const {
    const int64_t b = thread.block / pieces, piece = thread.block - b * pieces;
    const int64_t first =
        piece * kSumPiece + thread.index / kStrandLanes * kChunk + thread.index % kStrandLanes;
    const char* data[kInputs];
    for (int k = 0; k < kInputs; ++k) data[k] = in[k].data + b * in[k].stride;
    vec::F64 sum[kEntries];
    for (int e = 0; e < kEntries; ++e) sum[e] = vec::zero_f64();
    constexpr int kStep = kElementsInFlight * kStrandLanes;
    for (int64_t n = first; n < first + kChunk && n < N; n += kStep) {
      uint32_t raw[kElementsInFlight][kInputs];
      for (int i = 0; i < kElementsInFlight; ++i) {
        const int64_t at = n + i * kStrandLanes;
        for (int k = 0; k < kInputs; ++k) {
          raw[i][k] = at < N ? load_element(data[k], in[k].dtype, at) : 0;
        }
      }
      for (int i = 0; i < kElementsInFlight; ++i) {
        vec::F32 x[kInputs];
        for (int k = 0; k < kInputs; ++k) x[k] = widen_element(raw[i][k], in[k].dtype);
        terms.add(x, sum);
      }
    }
    for (int e = 0; e < kEntries; ++e) s->lane[e][thread.index] = sum[e].v;
  }

  // The piece's lanes from the chunks'.
  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, Shared& s) const {
    for (int i = thread.index; i < kEntries * kStrandLanes; i += kThreads) {
      double* lane = s.lane[i / kStrandLanes] + i % kStrandLanes;
      double sum = 0.0;
      for (int c = 0; c < kChunks; ++c) sum += lane[c * kStrandLanes];
      lane[0] = sum;  // this thread alone reads the lane's chunks
    }
  }

  FEWSTEP_HOST_DEVICE void finish(gpu::Thread thread, Shared& s) const {
    const int e = thread.index;
    if (e >= kEntries) return;
    const int64_t b = thread.block / pieces, piece = thread.block - b * pieces;
    partials[(b * kEntries + e) * pieces + piece] = tree_sum(s.lane[e], kStrandLanes);
  }
};

// Mapping: block b * kEntries + e; thread s sums its strand of the pieces.
template <int kEntries, class Done>
struct SampleKernel {
  static constexpr int kThreads = 64, kBlocks = 8;
  static constexpr bool kPrepares = true;
  static_assert(kThreads == kStrands);
  struct Shared {
    double strand[kStrands];
  };

  Done done;
  int64_t pieces;
  const double* partials;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread thread, Shared* s) const {
    const double* entry = partials + thread.block * pieces;
    double sum = 0.0;
    for (int64_t p = thread.index; p < pieces; p += kStrands) sum += entry[p];
    s->strand[thread.index] = sum;
  }

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, Shared& s) const {
    if (thread.index != 0) return;
    const double sum = tree_sum(s.strand, kStrands);
    done(thread.block / kEntries, (int)(thread.block % kEntries), sum);
  }
};

// Calls done(b, e, sum) for every entry of every sample, on the device.
template <class Terms, class Input, class Done>
void sum_samples(const char* function, const Terms& terms, const Input* in, int64_t B, int64_t N,
                 double* partials, void* stream, const Done& done) {
  constexpr int kEntries = Terms::kEntries;
  const int64_t pieces = sum_pieces(N);
  if (pieces > 0) {
    PieceKernel<Terms, Input> kernel;
    kernel.terms = terms;
    for (int k = 0; k < Terms::kInputs; ++k) kernel.in[k] = in[k];
    kernel.N = N;
    kernel.pieces = pieces;
    kernel.partials = partials;
    gpu::launch(function, kernel, B * pieces, stream);
  }
  const SampleKernel<kEntries, Done> kernel{done, pieces, partials};
  gpu::launch(function, kernel, B * kEntries, stream);
}

}  // namespace
}  // namespace fewstep::solver
