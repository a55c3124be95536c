// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/atomic.h"
#include "core/cuda/pack.h"
#include "kv/cuda/layers.h"
#include "kv/message.h"

// Messages in device memory: their headers, their checksums and their rows, each a launch, because
// a checksum is of what all blocks write or read. Included by CUDA kernel files only.
namespace fewstep::kv {
namespace {

// An import's first word of status: a header that is as the caches want it, or the number of its
// first byte that is not, from 1 on.
constexpr int64_t kIsWhole = 0, kHasOtherChecksum = kSummedHeader + 1;

// Where a part of a layer begins in its payload, and bytes of the layer.
FEWSTEP_HOST_DEVICE inline int64_t part_offset(const TransferProblem& p, int part) {
  const int rows = part < 2 ? part : 2;
  return p.tokens * p.G * (rows * p.bytes[0] + (part - rows) * p.bytes[2]);
}
FEWSTEP_HOST_DEVICE inline int64_t layer_bytes(const TransferProblem& p) {
  return part_offset(p, p.parts);
}

// Mapping: one block, a thread has a byte. An export writes the header; an import compares it, and
// starts the sum of what it tells.
template <bool kImports>
struct HeaderKernel {
  static constexpr int kThreads = 64, kBlocks = 1;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    uint32_t wrong;  // the first byte that is
  };

  TransferProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const char* wanted = (const char*)&p.header;
    if constexpr (!kImports) {
      block.each_alone([&](int t) { p.message[t] = wanted[t]; });
    } else {
      block.each([&](int t) {
        if (t == 0) s.wrong = kHeaderBytes;
      });
      block.each([&](int t) {
        if (t < kSummedHeader && p.message[t] != wanted[t]) gpu::atomic_min(&s.wrong, (uint32_t)t);
      });
      block.each_alone([&](int t) {
        if (t != 0) return;
        p.status[0] = s.wrong < kHeaderBytes ? (int64_t)s.wrong + 1 : kIsWhole;
        p.status[1] = (int64_t)p.header.checksum;
      });
    }
  }
};

// Mapping: a block has 64 chunks of a payload at a time, four threads the lanes of each. Adds their
// mixes to `sum`. Requires: a payload at a multiple of 8.
struct ChecksumKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr int kChunks = kThreads / kMixLanes;
  static constexpr int kAhead = 8;  // words that are read before the first of them is mixed
  using Block = gpu::Block<kThreads>;
  struct Shared {
    uint64_t lanes[kThreads], sums[kChunks];
  };

  const char* payload;
  int64_t bytes;
  uint64_t* sum;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    block.each([&](int t) {
      const int64_t begin = begin_of(block, t / kMixLanes);
      s.lanes[t] = begin < bytes ? lane_of(begin, t % kMixLanes) : 0;
    });
    block.each([&](int t) {
      if (t >= kChunks) return;
      const int64_t begin = begin_of(block, t);
      s.sums[t] = begin < bytes ? join_lanes(s.lanes + t * kMixLanes, bytes_at(begin)) : 0;
    });
    block.each_alone([&](int t) {
      if (t != 0) return;
      uint64_t own = 0;
      for (int i = 0; i < kChunks; ++i) own += s.sums[i];
      gpu::atomic_add(sum, own);
    });
  }

  FEWSTEP_HOST_DEVICE static int64_t begin_of(const Block& block, int chunk) {
    return (block.index * kChunks + chunk) * kChunk;
  }
  FEWSTEP_HOST_DEVICE int64_t bytes_at(int64_t begin) const {
    return bytes - begin < kChunk ? bytes - begin : kChunk;
  }

  FEWSTEP_HOST_DEVICE uint64_t lane_of(int64_t begin, int lane) const {
    const int64_t count = bytes_at(begin);
    const char* from = payload + begin + lane * (int64_t)sizeof(uint64_t);
    uint64_t mixed = first_of_lane((uint64_t)begin, lane);
    int64_t at = 0;
    for (; at + kAhead * kMixed <= count; at += kAhead * kMixed) {
      uint32_t word[kAhead][2];
      FEWSTEP_UNROLL
      for (int i = 0; i < kAhead; ++i) gpu::load8(from + at + i * kMixed, word[i]);
      FEWSTEP_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        mixed = next_of_lane(mixed, (uint64_t)word[i][1] << 32 | word[i][0]);
      }
    }
    for (; at < count; at += kMixed) {
      uint64_t word = 0;
      for (int64_t i = 0; i < 8 && at + lane * 8 + i < count; ++i) {
        word |= (uint64_t)(uint8_t)from[at + i] << (8 * i);
      }
      mixed = next_of_lane(mixed, word);
    }
    return mixed;
  }
};

// Mapping: a block has up to 128 pieces of a slot of one part of one layer, of 16 slots; a thread
// moves its piece of each. An import moves nothing unless the message is whole.
template <bool kImports>
struct TransferKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  static constexpr bool kPrepares = false;
  static constexpr int kSlots = 16;
  static constexpr int kAhead = 4;  // pieces that are read before the first of them is written
  struct Shared {};

  LaunchLayers layers;
  TransferProblem p;  // but for its layers, which are the host's
  char* payload;      // of these layers
  uint32_t chunks;    // blocks of a part's slots

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared&) const {
    if constexpr (kImports) {
      if (!is_whole(thread)) return;
    }
    const int64_t groups = (p.tokens + kSlots - 1) / kSlots;
    if (groups == 0) return;
    const int64_t rest = thread.block / chunks, part_of_layer = rest / groups;
    const int64_t first = (rest - part_of_layer * groups) * kSlots;
    const int part = (int)(part_of_layer % layers.parts);
    const PartLayout& layout = layers.layout[part];
    const int64_t of_head = layout.row / layout.piece;
    const int64_t piece = (thread.block - rest * chunks) * kThreads + thread.index;
    const int64_t g = of_head > 0 ? piece / of_head : p.G;
    if (g >= p.G) return;
    const int64_t within = g * layout.head + (piece - g * of_head) * layout.piece;
    const int64_t layer = part_of_layer / layers.parts;
    if (layer >= layers.count) return;
    char* const message =
        payload + layer * layer_bytes(p) + part_offset(p, part) + piece * layout.piece;
    gpu::with_piece(layout.piece, *this, cache_of(layers, layer, part), message, p.G * layout.row,
                    first, within);
  }

  FEWSTEP_HOST_DEVICE bool is_whole(gpu::Thread thread) const {
    uint64_t told;
    memcpy(&told, p.message + kSummedHeader, sizeof told);
    if (p.status[0] == kIsWhole && (uint64_t)p.status[1] == told) return true;
    if (p.status[0] == kIsWhole && thread.block == 0 && thread.index == 0) {
      p.status[0] = kHasOtherChecksum;
    }
    return false;
  }

  // pitch: bytes between slots of a message.
  template <int kBytes>
  FEWSTEP_HOST_DEVICE void move(const Cache& cache, char* message, int64_t pitch, int64_t first,
                                int64_t within) const {
    const int64_t end = first + kSlots < p.tokens ? first + kSlots : p.tokens;
    for (int64_t slot = first; slot < end; slot += kAhead) {
      gpu::Piece<kBytes> x[kAhead];
      int64_t place[kAhead];
      FEWSTEP_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        x[i] = {};  // what a slot without a page exports
        place[i] = -1;
        if (slot + i >= end) continue;
        place[i] = offset_within(p.room, p.pages, cache, p.row, p.begin + slot + i);
        if (place[i] < 0) continue;
        x[i].load(kImports ? message + (slot + i) * pitch : cache.data + place[i] + within);
      }
      FEWSTEP_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if constexpr (kImports) {
          if (place[i] >= 0) x[i].store(cache.data + place[i] + within);
        } else {
          if (slot + i < end) x[i].store(message + (slot + i) * pitch);
        }
      }
    }
  }
};

template <bool kImports>
inline void launch_header(const TransferProblem& p) {
  gpu::launch(p.function, HeaderKernel<kImports>{p}, 1, p.cuda_stream);
}

inline void launch_checksum(const TransferProblem& p, void* sum) {
  constexpr int64_t kOfBlock = ChecksumKernel::kChunks * kChunk;
  const ChecksumKernel kernel{p.message + kHeaderBytes, (int64_t)p.header.payload_bytes,
                              (uint64_t*)sum};
  const int64_t blocks = (kernel.bytes + kOfBlock - 1) / kOfBlock;
  if (blocks > 0) gpu::launch(p.function, kernel, blocks, p.cuda_stream);
}

template <bool kImports>
inline void launch_transfer(const TransferProblem& p, const LaunchLayers& layers, int64_t first) {
  using Kernel = TransferKernel<kImports>;
  char* const payload = p.message + kHeaderBytes + first * layer_bytes(p);
  uint64_t any = (uint64_t)(uintptr_t)payload | (uint64_t)layer_bytes(p);
  for (int i = 0; i < p.parts; ++i) any |= (uint64_t)part_offset(p, i);
  LaunchLayers own = layers;
  for (int i = 0; i < own.parts; ++i) {
    own.layout[i].piece = gpu::piece_bytes(any | (uint64_t)own.layout[i].piece);
  }
  const int64_t pieces = most_pieces(own, 1, p.G), groups = (p.tokens - 1) / Kernel::kSlots + 1;
  const int64_t chunks = pieces > 0 ? (pieces - 1) / Kernel::kThreads + 1 : 1;
  const int64_t blocks = p.tokens > 0 ? own.count * own.parts * groups * chunks : 1;
  gpu::launch(p.function, Kernel{own, p, payload, (uint32_t)chunks}, blocks, p.cuda_stream);
}

template <bool kImports>
inline void launch_transfers(const TransferProblem& p) {
  for_launches(p.layers, p.L, p.parts, p.bytes, [&](const LaunchLayers& layers, int64_t first) {
    launch_transfer<kImports>(p, layers, first);
  });
}

}  // namespace
}  // namespace fewstep::kv
