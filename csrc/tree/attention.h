// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/host_device.h"
#include "core/kernel_set.h"

namespace fewstep::tree {

// Keys are taken in tiles of this many, rows in blocks; both bound a thread's scratch.
constexpr int kTileKeys = 128;
constexpr int kBlockRows = 128;
constexpr int kMaxHeadDim = 256;
constexpr int kMaxRatio = 16;

// Keys of a part in the deterministic mode; and otherwise the fewest, and into how many parts the
// work is split. Neither knows of threads.
constexpr int64_t kFixedPart = 1024;
constexpr int64_t kSmallestPart = 512;
constexpr int64_t kParts = 64;
// The same on CUDA, where the host knows neither rows nor keys of a request: the fewest keys of a
// part, the blocks of threads that are aimed at, and the rows of one. Blocks of warpgroups have a
// multiprocessor each.
constexpr int64_t kSmallestCudaPart = 256;
constexpr int64_t kCudaBlocks = 256, kWarpgroupBlocks = 132;
constexpr int kCudaRows = 64;

enum class Draft : int32_t { kInCache = 0, kSeparate = 1, kNone = 2 };

// Elements of a cache: [P, T, G, D], or of drafted tokens, [N, G, D].
struct Tokens {
  const char* data;
  int64_t page, token, head;  // bytes between them
};
struct Scales {
  const float* data;          // null: none
  int64_t page, token, head;  // elements
};
struct Rows {
  char* data;
  int64_t row, head;  // bytes
};

// Row n of request b attends to its cache's keys and to its draft block. Query heads h * ratio ..
// of KV head h are rows of one product.
struct AttentionProblem {
  int64_t B, N;
  int32_t H, G, D, ratio;
  DType q_type, kv_type, out_type;
  Rows q, out;
  Tokens k, v, draft_k, draft_v;
  Scales k_scale, v_scale;
  const int32_t* page_table;  // null: page b is request b's
  int64_t table_stride;
  int64_t page_tokens;
  int64_t pages, capacity;  // pages of the cache; tokens that a request has room for
  const int32_t* indptr;
  int64_t indptr_stride;
  const int32_t* kv_len;
  int64_t kv_len_stride;
  const int32_t* block;  // tokens of each draft block; null: the rows
  int64_t block_stride;
  const uint32_t* bits;  // null: a causal chain
  int64_t bits_stride, bit_words;
  const int32_t* depth;  // null: from bits, or the index in the block
  int64_t depth_stride;
  const float* sinks;  // null: none
  int64_t sinks_stride;
  float* lse;  // null: not wanted
  int64_t lse_stride;
  Draft draft;
  bool deterministic;
  float scale, softcap;    // softcap 0: none
  int64_t window;          // 0: none
  int64_t part;            // keys of a part, a multiple of kTileKeys
  int32_t cuda_parts;      // instead of it on CUDA: the most parts of a request
  bool is_wide;            // on CUDA: all rows and keys lie at multiples of 16 bytes
  int32_t warpgroup_rows;  // on CUDA: of a block of warpgroups, 128 or 256; 0 without them
  float* partial;          // parts of rows of D accumulated values, largest logit and sum
  int32_t threads;
  void* cuda_stream;
  bool large_first_cache;  // more than 32 KiB
  bool prefetched;         // wants_streams_prefetched()
  int32_t pieces;          // of a block of rows, for threads that would have none; the kernel's own
};
using AttentionFn = void(const AttentionProblem&);
FEWSTEP_DECLARE_KERNELS(AttentionFn, attention)

// The kernel for a device; throws where there is none.
AttentionFn& attention_kernel(Device device, const char* function);
// Splits the keys of a problem of which all else is known; returns the bytes that p->partial needs.
int64_t split_keys(AttentionProblem* p);

namespace {  // not members: a kernel's file shares no function with another

FEWSTEP_HOST_DEVICE inline int64_t first_of(const AttentionProblem& p, int64_t b) {
  return p.indptr[b * p.indptr_stride];
}
FEWSTEP_HOST_DEVICE inline int64_t tokens_of(const AttentionProblem& p, int64_t b) {
  return first_of(p, b + 1) - first_of(p, b);
}
// Tokens of the draft block, the last of which are the rows.
FEWSTEP_HOST_DEVICE inline int64_t block_of(const AttentionProblem& p, int64_t b) {
  return p.block ? p.block[b * p.block_stride] : tokens_of(p, b);
}
// Keys before the draft block, and with it.
FEWSTEP_HOST_DEVICE inline int64_t prefix_of(const AttentionProblem& p, int64_t b) {
  const int64_t cached = p.kv_len[b * p.kv_len_stride];
  return p.draft == Draft::kInCache ? cached - block_of(p, b) : cached;
}
FEWSTEP_HOST_DEVICE inline int64_t keys_of(const AttentionProblem& p, int64_t b) {
  return prefix_of(p, b) + (p.draft == Draft::kNone ? 0 : block_of(p, b));
}
inline int64_t parts_of(const AttentionProblem& p, int64_t b) {
  const int64_t count = (keys_of(p, b) + p.part - 1) / p.part;
  return count > 1 ? count : 1;
}
inline int64_t blocks_of(const AttentionProblem& p, int64_t b) {
  return (tokens_of(p, b) * p.ratio + kBlockRows - 1) / kBlockRows;
}
// Of a row of a part: its sums, the largest logit and the sum of the weights.
FEWSTEP_HOST_DEVICE inline int64_t partial_floats(const AttentionProblem& p) { return p.D + 2; }

}  // namespace

}  // namespace fewstep::tree
