// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/atomic.h"
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "logits/cpu/weighing.h"

// How the blocks of a cluster read a row of logits, and add up over it in the CPU's order: 16
// threads have kBlock tokens, each quads of them 64 tokens apart, so the strands of a thread are
// its own. The blocks have the row's tiles in turn; a round is a tile of each. Results do not
// depend on how many blocks there are. Included by CUDA kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

constexpr int kThreads = 512;  // of a row
constexpr int kGroup = 16;     // threads that have kBlock tokens
constexpr int kGroups = kThreads / kGroup;
constexpr int64_t kTile = (int64_t)kGroups * kBlock;  // tokens that all threads have at once
constexpr int kQuadsOfThread = kBlock / (kGroup * gpu::kQuad);
constexpr int kAhead = 2;  // quads that are read while as many are worked on
using Block = gpu::Block<kThreads>;

// A row as threads see it: its parameters cut to their ranges, which nobody looked at before.
struct Row : RowSpec {
  bool wide;     // whole quads at once
  int id_bits;   // ids are below 1 << id_bits
  uint32_t ids;  // the largest number of as many bits
};

FEWSTEP_HOST_DEVICE inline float cut(float x, float least, float most, float off) {
  if (!(x == x)) return off;
  return x < least ? least : (x > most ? most : x);
}

// pitch: bytes between rows.
FEWSTEP_HOST_DEVICE inline void put_row(const RowSpec& spec, int64_t pitch, Row* to) {
  Row row{};
  *(RowSpec*)&row = spec;
  row.temperature = cut(row.temperature, 0.0f, 0x1.fffffep+127f, 1.0f);
  row.top_p = cut(row.top_p, 0.0f, 1.0f, 1.0f);
  row.min_p = cut(row.min_p, 0.0f, 1.0f, 0.0f);
  row.typical = cut(row.typical, 0.0f, 1.0f, 1.0f);
  row.eta = cut(row.eta, 0.0f, 1.0f, 0.0f);
  row.wide = gpu::is_wide(row.logits, pitch, row.dtype);
  while (row.V - 1 > (int64_t)row.ids) {
    ++row.id_bits;
    row.ids = row.ids << 1 | 1u;
  }
  *to = row;
}
FEWSTEP_HOST_DEVICE inline void put_row(const Rows& rows, int64_t r, Row* to) {
  put_row(row_at(rows, r), rows.pitch, to);
}

// Four neighbouring tokens as they were read.
struct Quad {
  uint32_t w[gpu::kQuad];
  uint32_t allowed;  // bit i: token i is there and not masked
};

// Tokens from v on, a multiple of 4; there may be none.
FEWSTEP_HOST_DEVICE inline void load(const Row& row, int64_t v, Quad* q) {
  q->w[0] = q->w[1] = q->w[2] = q->w[3] = 0;
  q->allowed = 0;
  const int64_t left = row.V - v;
  if (left <= 0) return;
  const char* from = (const char*)row.logits + v * gpu::element_bytes(row.dtype);
  const bool is_f32 = row.dtype == DType::kF32;
  if (!row.wide || left < gpu::kQuad) {
    gpu::load_quad(from, row.dtype, left < gpu::kQuad ? (int)left : gpu::kQuad, q->w);
  } else if (is_f32) {
    gpu::load16(from, q->w);
  } else {
    gpu::load8(from, q->w);
  }
  q->allowed = left < gpu::kQuad ? (1u << left) - 1u : 0xfu;
  if (row.bitmask) q->allowed &= row.bitmask[v >> 5] >> (v & 31);
}

FEWSTEP_HOST_DEVICE inline float logit_of(const Row& row, const Quad& q, int i) {
  return (q.allowed >> i & 1u) ? gpu::element_of(q.w, row.dtype, i) : kMinusInfinity;
}

// The logit of one token that is there.
FEWSTEP_HOST_DEVICE inline float logit_at(const Row& row, int64_t v) {
  return gpu::load_one((const char*)row.logits + v * gpu::element_bytes(row.dtype), row.dtype);
}

FEWSTEP_HOST_DEVICE inline bool is_allowed(const Row& row, int64_t v) {
  return !row.bitmask || (row.bitmask[v >> 5] >> (v & 31) & 1u);
}

// Calls f(v, logit, i) for a thread's tokens of a tile in ascending order, i = v % 4. Those that
// are masked or not there are -inf.
template <class F>
FEWSTEP_HOST_DEVICE inline void for_tokens_of_tile(const Row& shared, int t, int64_t tile,
                                                   const F& f) {
  const Row row = shared;  // in registers
  constexpr int kStep = kGroup * gpu::kQuad;
  int64_t at = tile * kTile + t / kGroup * kBlock + t % kGroup * gpu::kQuad;
  Quad next[kAhead];
  FEWSTEP_UNROLL
  for (int j = 0; j < kAhead; ++j) load(row, at + j * kStep, &next[j]);
  FEWSTEP_NO_UNROLL
  for (int n = 0; n < kQuadsOfThread && at < row.V; n += kAhead, at += kAhead * kStep) {
    Quad quads[kAhead];
    FEWSTEP_UNROLL
    for (int j = 0; j < kAhead; ++j) {
      quads[j] = next[j];
      if (n + kAhead < kQuadsOfThread) load(row, at + (kAhead + j) * kStep, &next[j]);
    }
    FEWSTEP_UNROLL
    for (int j = 0; j < kAhead; ++j) {
      FEWSTEP_UNROLL
      for (int i = 0; i < gpu::kQuad; ++i) f(at + j * kStep + i, logit_of(row, quads[j], i), i);
    }
  }
}

FEWSTEP_HOST_DEVICE inline int64_t tiles_of(int64_t V) { return (V + kTile - 1) / kTile; }

FEWSTEP_HOST_DEVICE inline bool has_round(const Block& block, const Row& row, int32_t round) {
  return (int64_t)round * block.cluster.size() * kTile < row.V;
}

// The tile that a block has in a round; it may lie behind the row.
FEWSTEP_HOST_DEVICE inline int64_t tile_of(const Block& block, int32_t round) {
  return (int64_t)round * block.cluster.size() + block.cluster.rank();
}

// As for_tokens_of_tile() for all tiles of a block.
template <class F>
FEWSTEP_HOST_DEVICE inline void for_tokens(const Block& block, const Row& row, int t, const F& f) {
  FEWSTEP_NO_UNROLL
  for (int32_t round = 0; has_round(block, row, round); ++round) {
    for_tokens_of_tile(row, t, tile_of(block, round), f);
  }
}

struct Greater {
  template <class T>
  FEWSTEP_HOST_DEVICE T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// The greatest of all threads' values. scratch: [kThreads].
template <class T>
FEWSTEP_HOST_DEVICE inline T greatest_of(const Block& block, const Block::Per<T>& x, T* scratch) {
  const T own = block.reduce(x, scratch, Greater{});
  return block.reduce_blocks(own, scratch, Greater{});
}

// Where the sums of kBlock tokens each come together.
struct Sums {
  float strands[kGroups][64];
  float parts[kGroups][17];  // one more, so that threads read from different banks
  double own[kGroups];       // of a block's tile
  double blocks[gpu::kMostOfCluster * kGroups];  // of a round
};

// The sums of a round from those of its strands.
FEWSTEP_HOST_DEVICE inline void sum_strands(const Block& block, Sums* s) {
  block.each([&](int t) {
    const float* acc = s->strands[t / kGroup] + t % kGroup;
    s->parts[t / kGroup][t % kGroup] = (acc[0] + acc[16]) + (acc[32] + acc[48]);
  });
  block.each([&](int t) {
    if (t < kGroups) s->own[t] = parts_sum(s->parts[t]);
  });
  block.gather(s->own, kGroups, s->blocks);
}

// The sums of a round, of what f(v, logit, i, thread) gives for each token, i = v % 4. A thread has
// an f of its own, which sees its tokens in ascending order.
template <class F>
FEWSTEP_HOST_DEVICE inline void sum_blocks(const Block& block, const Row& row, int32_t round,
                                           Sums* s, const F& f) {
  block.each([&](int t) {
    F own = f;
    float acc[gpu::kQuad] = {0.0f, 0.0f, 0.0f, 0.0f};
    for_tokens_of_tile(row, t, tile_of(block, round),
                       [&](int64_t v, float l, int i) { acc[i] += own(v, l, i, t); });
    FEWSTEP_UNROLL
    for (int i = 0; i < gpu::kQuad; ++i) {
      s->strands[t / kGroup][t % kGroup * gpu::kQuad + i] = acc[i];
    }
  });
  sum_strands(block, s);
}

// Runs of kBlock tokens of a round that are there, and of what came before it.
struct Runs {
  int64_t before;
  int count;
};
FEWSTEP_HOST_DEVICE inline Runs runs_of(const Block& block, const Row& row, int32_t round) {
  const int most = block.cluster.size() * kGroups;
  const int64_t before = (int64_t)round * most, left = (row.V + kBlock - 1) / kBlock - before;
  return {before, left < most ? (int)left : most};
}

// The sum over the row, kBlock tokens after the others.
template <class F>
FEWSTEP_HOST_DEVICE inline double sum_row(const Block& block, const Row& row, Sums* s,
                                          double* total, const F& f) {
  FEWSTEP_NO_UNROLL
  for (int32_t round = 0; has_round(block, row, round); ++round) {
    sum_blocks(block, row, round, s, f);
    block.each([&](int t) {
      if (t != 0) return;
      double sum = round == 0 ? 0.0 : *total;
      const int count = runs_of(block, row, round).count;
      for (int g = 0; g < count; ++g) sum += s->blocks[g];
      *total = sum;
    });
  }
  return block.get(*total);
}

// Launches a kernel whose blocks have a row of V tokens each; where there are few, clusters have.
// Nothing happens without rows.
template <class Kernel>
inline void launch_rows(const char* function, const Kernel& kernel, int64_t rows, int64_t V,
                        void* stream) {
  if (rows > 0) gpu::launch_clusters(function, kernel, rows, tiles_of(V), stream);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
