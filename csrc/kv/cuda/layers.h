// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/launch.h"
#include "core/cuda/piece.h"
#include "kv/commit.h"

// The caches of many layers as parameters of one launch. Included by CUDA kernel files only.
namespace fewstep::kv {
namespace {

// Layers of a launch: those of one pass over a model, but for the deepest.
constexpr int kLaunchLayers = 80;

// What a part's caches have in common, layer by layer: places in bytes, and how they are accessed.
struct PartLayout {
  int64_t page, token, head;
  int64_t row;  // bytes of a slot's head
  int32_t piece;
};

struct LaunchLayers {
  int32_t count, parts;
  PartLayout layout[4];
  char* data[kLaunchLayers][4];
};

inline bool same_layout(const Layer& a, const Layer& b, int parts) {
  for (int i = 0; i < parts; ++i) {
    const Cache &x = a.part[i], &y = b.part[i];
    if (x.page != y.page || x.token != y.token || x.head != y.head) return false;
  }
  return true;
}

// Takes layers from `first` on: as many as one launch has, and that lie alike.
inline LaunchLayers take_layers(const Layer* layers, int64_t L, int64_t first, int parts,
                                const int64_t* row_bytes) {
  LaunchLayers out;
  out.count = 0;
  out.parts = parts;
  uint64_t any[4];
  for (int i = 0; i < parts; ++i) {
    const Cache& c = layers[first].part[i];
    out.layout[i] = {c.page, c.token, c.head, row_bytes[i], 0};
    any[i] = (uint64_t)(c.page | c.token | c.head | row_bytes[i]);
  }
  for (int64_t l = first; l < L && out.count < kLaunchLayers; ++l) {
    if (!same_layout(layers[l], layers[first], parts)) break;
    for (int i = 0; i < parts; ++i) {
      out.data[out.count][i] = layers[l].part[i].data;
      any[i] |= (uint64_t)(uintptr_t)layers[l].part[i].data;
    }
    ++out.count;
  }
  for (int i = 0; i < parts; ++i) out.layout[i].piece = gpu::piece_bytes(any[i]);
  return out;
}

// Calls f(layers, first) for the layers of each launch, `first` being the number of their first.
template <class F>
void for_launches(const Layer* layers, int64_t L, int parts, const int64_t* row_bytes, const F& f) {
  for (int64_t first = 0; first < L;) {
    const LaunchLayers taken = take_layers(layers, L, first, parts, row_bytes);
    f(taken, first);
    first += taken.count;
  }
}

// Pieces of `slots` slots of G heads, of the part that has most.
inline int64_t most_pieces(const LaunchLayers& layers, int64_t slots, int64_t G) {
  int64_t most = 0;
  for (int i = 0; i < layers.parts; ++i) {
    const int64_t pieces = slots * G * (layers.layout[i].row / layers.layout[i].piece);
    most = pieces > most ? pieces : most;
  }
  return most;
}

FEWSTEP_HOST_DEVICE inline Cache cache_of(const LaunchLayers& layers, int64_t layer, int part) {
  const PartLayout& layout = layers.layout[part];
  return {layers.data[layer][part], layout.page, layout.token, layout.head};
}

}  // namespace
}  // namespace fewstep::kv
