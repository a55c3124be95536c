// SPDX-License-Identifier: Apache-2.0
#include "kv/copy_pages.h"
#include "kv/cuda/layers.h"

// Mapping: a block has up to 128 pieces of a page of one part of one layer; a thread copies its
// piece of every page, in the order of the pairs: a page may be the target of one and the source of
// a later one. Requires: nothing overlaps; pages are compared with those that the caches have.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

struct CopyPagesKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  static constexpr bool kPrepares = false;
  struct Shared {};

  LaunchLayers layers;
  CopyPagesProblem p;  // but for its layers, which are the host's
  uint32_t chunks;     // blocks of a part

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared&) const {
    const uint32_t rest = (uint32_t)thread.block / chunks;
    const int64_t chunk = (uint32_t)thread.block % chunks;
    const int part = (int)(rest % (uint32_t)layers.parts);
    const PartLayout& layout = layers.layout[part];
    const int64_t of_head = layout.row / layout.piece;
    const int64_t piece = chunk * kThreads + thread.index;
    const int64_t head = piece / of_head, t = head / p.G;
    if (t >= p.T) return;
    const int64_t within =
        t * layout.token + (head - t * p.G) * layout.head + (piece - head * of_head) * layout.piece;
    char* data = layers.data[rest / (uint32_t)layers.parts][part] + within;
    gpu::with_piece(layout.piece, *this, data, layout.page);
  }

  template <int kBytes>
  FEWSTEP_HOST_DEVICE void move(char* data, int64_t page) const {
    for (int64_t n = 0; n < p.N; ++n) {
      const int64_t from = at(p.source, n), to = at(p.target, n);
      if (from < 0 || from >= p.P || to < 0 || to >= p.P) continue;
      gpu::Piece<kBytes> x;
      x.load(data + from * page);
      x.store(data + to * page);
    }
  }
};

}  // namespace

void copy_pages(const CopyPagesProblem& p) {
  for_launches(p.layers, p.L, p.parts, p.bytes, [&](const LaunchLayers& layers, int64_t) {
    constexpr int kThreads = CopyPagesKernel::kThreads;
    const int64_t chunks = (most_pieces(layers, p.T, p.G) + kThreads - 1) / kThreads;
    gpu::launch("fewstep_kv_copy_pages", CopyPagesKernel{layers, p, (uint32_t)chunks},
                layers.count * p.parts * chunks, p.cuda_stream);
  });
}

}  // namespace fewstep::kv::FEWSTEP_ISA
