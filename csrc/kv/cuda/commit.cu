// SPDX-License-Identifier: Apache-2.0
#include "kv/commit.h"
#include "kv/cuda/layers.h"

// Mapping: a block has up to 128 pieces of a slot of one part of one layer, for one request; a
// thread moves its piece of every row, in ascending order, so that no thread waits for another.
// Requires: nothing overlaps; what the indices say is compared with the cache's room.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

struct CommitKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  static constexpr bool kPrepares = false;
  static constexpr int kAhead = 4;  // rows that are read before the first of them is written
  struct Shared {};

  LaunchLayers layers;
  MoveProblem p;  // but for its layers, which are the host's
  int64_t first_layer;
  uint32_t chunks;  // blocks of a request's part

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared&) const {
    uint32_t rest = (uint32_t)thread.block;
    const uint32_t chunk = rest % chunks;
    rest /= chunks;
    const int part = (int)(rest % (uint32_t)layers.parts);
    rest /= (uint32_t)layers.parts;
    const int64_t b = rest % (uint32_t)p.B, layer = rest / (uint32_t)p.B;
    const int64_t start = p.base.data ? at(p.base, b) : 0;
    int64_t rows = p.count.data[(first_layer + layer) * p.count_layer + b * p.count.stride];
    if (rows < 0) rows = 0;
    if (rows > p.M) rows = p.M;
    if (p.length && thread.block == b * layers.parts * chunks && thread.index == 0) {
      p.length[b * p.length_stride] = (int32_t)(start + p.first + rows);
    }
    const PartLayout& layout = layers.layout[part];
    const int64_t of_head = layout.row / layout.piece;
    const int64_t piece = (int64_t)chunk * kThreads + thread.index;
    const int64_t g = of_head > 0 ? piece / of_head : p.G;
    if (g >= p.G) return;
    const int64_t within = g * layout.head + (piece - g * of_head) * layout.piece;
    const Cache cache = cache_of(layers, layer, part);
    const int32_t* from =
        p.source.data + (first_layer + layer) * p.source_layer + b * p.source.stride;
    gpu::with_piece(layout.piece, *this, cache, from, b, start, rows, within);
  }

  template <int kBytes>
  FEWSTEP_HOST_DEVICE void move(const Cache& cache, const int32_t* from, int64_t b, int64_t start,
                                int64_t rows, int64_t within) const {
    char* const data = cache.data + within;
    for (int64_t row = 0; row < rows; row += kAhead) {
      gpu::Piece<kBytes> x[kAhead];
      int64_t target[kAhead];
      FEWSTEP_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        target[i] = -1;
        if (row + i >= rows || from[row + i] == p.first + row + i) continue;  // or it is there
        const int64_t place = offset_within(p.room, p.pages, cache, b, start + from[row + i]);
        if (place < 0) continue;
        target[i] = offset_within(p.room, p.pages, cache, b, start + p.first + row + i);
        x[i].load(data + place);
      }
      FEWSTEP_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (target[i] >= 0) x[i].store(data + target[i]);
      }
    }
  }
};

}  // namespace

void commit(const MoveProblem& p) {
  for_launches(p.layers, p.L, p.parts, p.bytes, [&](const LaunchLayers& layers, int64_t first) {
    const int64_t pieces = most_pieces(layers, 1, p.G);
    const int64_t chunks = pieces == 0 ? 1 : (pieces - 1) / CommitKernel::kThreads + 1;
    gpu::launch(p.function, CommitKernel{layers, p, first, (uint32_t)chunks},
                layers.count * p.parts * p.B * chunks, p.cuda_stream);
  });
}

}  // namespace fewstep::kv::FEWSTEP_ISA
