// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/dtype.h"
#include "core/host_device.h"
#include "core/kernel_set.h"

// Brownian motion as the Levy-Ciesielski series on a dyadic grid: W is a sum of normals, one per
// node above a point, times the node's hat function. Nothing is stored, and an increment is the sum
// over the nodes above either end.
namespace fewstep::noise {

constexpr int32_t kMaxDepth = 30;
constexpr int32_t kMaxNodes = 1 + 2 * kMaxDepth;  // the root, and two per level

// W(t1) - W(t0) = sum_k a[k] xi(node[k])
struct BrownianPath {
  int32_t count;
  uint32_t node[kMaxNodes];  // 0 is the root; node k of level l is 2^l + k
  float a[kMaxNodes];
};

struct BrownianProblem {
  int64_t B, N;
  const uint64_t* seeds;  // [B]
  int64_t seed_stride;    // elements
  const double *t0, *t1;  // [B], or null for `start` and `stop`
  int64_t t0_stride, t1_stride;
  double start, stop;
  double t_min, t_max;
  int32_t depth;
  bool normalized;
  void* out;           // [B, N] dtype
  int64_t out_stride;  // elements between samples
  DType dtype;         // f32 f16 bf16
  uint32_t stream;
  float scale;
  int32_t threads;  // 0: the process-wide count
  void* cuda_stream;
};
using BrownianFn = void(const BrownianProblem&);
FEWSTEP_DECLARE_KERNELS(BrownianFn, brownian)

// The grid's point nearest to a time; times outside of the tree are its ends.
FEWSTEP_HOST_DEVICE static inline int64_t grid_point(const BrownianProblem& p, double t) {
  const double cells = (double)((int64_t)1 << p.depth);
  const double x = (t - p.t_min) / (p.t_max - p.t_min) * cells;
  return x > 0.0 ? (int64_t)(x < cells ? floor(x + 0.5) : cells) : 0;
}

// The hat function of point i's node on a level, and the node's number there.
struct Hat {
  double height;  // 0 to 1
  int64_t node;
};

FEWSTEP_HOST_DEVICE static inline Hat hat_at(int64_t i, int32_t level, int32_t depth) {
  const int64_t length = (int64_t)1 << (depth - level);  // of the node's interval, in cells
  const int64_t node = i / length, r = i - node * length;
  const int64_t low = r < length - r ? r : length - r;
  return {(double)low / (double)(length / 2), node};
}

FEWSTEP_HOST_DEVICE static inline void add_node(int64_t node, double a, BrownianPath* path) {
  if (a == 0.0) return;
  path->node[path->count] = (uint32_t)node;
  path->a[path->count] = (float)a;
  ++path->count;
}

// Sample b's increment. Exact in distribution between points of the grid, for sums of variances
// telescope: the hat functions are the integrals of an orthonormal basis (Haar's).
FEWSTEP_HOST_DEVICE static inline void brownian_path(const BrownianProblem& p, int64_t b,
                                                     BrownianPath* path) {
  const int64_t from = grid_point(p, p.t0 ? p.t0[b * p.t0_stride] : p.start);
  const int64_t to = grid_point(p, p.t1 ? p.t1[b * p.t1_stride] : p.stop);
  // In time's own order, so that the way back has the same terms with the other sign.
  const int64_t i0 = from < to ? from : to, i1 = from < to ? to : from;
  const double cells = (double)((int64_t)1 << p.depth), length = p.t_max - p.t_min;
  const double share = (double)(i1 - i0) / cells;
  path->count = 0;
  if (i0 == i1) return;
  double scale = (double)p.scale * (p.normalized ? 1.0 / sqrt(share) : sqrt(length));
  if (to < from) scale = -scale;
  add_node(0, scale * share, path);
  double half_root = 0.5 * scale;  // sqrt(interval) / 2
  for (int32_t level = 0; level < p.depth; ++level) {
    const Hat h0 = hat_at(i0, level, p.depth), h1 = hat_at(i1, level, p.depth);
    const int64_t first = (int64_t)1 << level;
    if (h0.node == h1.node) {
      add_node(first + h0.node, half_root * (h1.height - h0.height), path);
    } else {
      add_node(first + h0.node, -half_root * h0.height, path);
      add_node(first + h1.node, half_root * h1.height, path);
    }
    half_root *= 0.70710678118654752440;
  }
}

}  // namespace fewstep::noise
