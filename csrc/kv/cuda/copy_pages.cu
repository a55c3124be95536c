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
  int64_t N, P, T, G;
  uint32_t chunks;  // blocks of a part
  Ints source, target;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared&) const {
    const uint32_t rest = (uint32_t)thread.block / chunks;
    const int64_t chunk = (uint32_t)thread.block % chunks;
    const int part = (int)(rest % (uint32_t)layers.parts);
    const PartLayout& layout = layers.layout[part];
    const int64_t of_head = layout.row / layout.piece;
    const int64_t piece = chunk * kThreads + thread.index;
    const int64_t head = piece / of_head, t = head / G;
    if (t >= T) return;
    const int64_t within =
        t * layout.token + (head - t * G) * layout.head + (piece - head * of_head) * layout.piece;
    char* data = layers.data[rest / (uint32_t)layers.parts][part] + within;
    gpu::with_piece(layout.piece, *this, data, layout.page);
  }

  template <int kBytes>
  FEWSTEP_HOST_DEVICE void move(char* data, int64_t page) const {
    for (int64_t n = 0; n < N; ++n) {
      const int64_t from = at(source, n), to = at(target, n);
      if (from < 0 || from >= P || to < 0 || to >= P) continue;
      gpu::Piece<kBytes> x;
      x.load(data + from * page);
      x.store(data + to * page);
    }
  }
};

}  // namespace

void copy_pages(const CopyPagesProblem& p) {
  for (int64_t layer = 0; layer < p.L;) {
    CopyPagesKernel kernel;
    kernel.layers = take_layers(p.layers, p.L, layer, p.parts, p.bytes);
    const int64_t pieces = most_pieces(kernel.layers, p.T, p.G);
    const int64_t chunks = (pieces + CopyPagesKernel::kThreads - 1) / CopyPagesKernel::kThreads;
    kernel.N = p.N;
    kernel.P = p.P;
    kernel.T = p.T;
    kernel.G = p.G;
    kernel.chunks = (uint32_t)chunks;
    kernel.source = p.source;
    kernel.target = p.target;
    gpu::launch("fewstep_kv_copy_pages", kernel, kernel.layers.count * p.parts * chunks,
                p.cuda_stream);
    layer += kernel.layers.count;
  }
}

}  // namespace fewstep::kv::FEWSTEP_ISA
