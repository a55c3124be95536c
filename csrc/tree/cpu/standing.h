// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "tree/cpu/request.h"

// What typical acceptance lets stand, for kernels of both kinds. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int32_t kMaxTypical = FEWSTEP_MAX_TYPICAL_NODES;

struct Standing {
  double likely[kMaxTypical];  // log-probability of the path to a node that stands
  int32_t depth[kMaxTypical];  // its depth, -1 for others
};

// The root stands alone; a thread has every step-th node.
FEWSTEP_HOST_DEVICE inline void start_standing(int32_t size, Standing* s, int32_t begin = 0,
                                               int32_t step = 1) {
  for (int32_t i = begin; i < size; i += step) {
    s->depth[i] = i == 0 ? 0 : -1;
    s->likely[i] = 0.0;
  }
}

// What a draft's probability must exceed; entropy: of the target's law, in nats.
FEWSTEP_HOST_DEVICE inline double least_standing(const VerifyParams& params, double entropy) {
  const double sure = params.delta * ::exp(-entropy);
  return sure < params.epsilon ? sure : params.epsilon;
}

FEWSTEP_HOST_DEVICE inline void put_standing(int32_t node, int32_t child, double chance,
                                             Standing* s) {
  s->depth[child] = s->depth[node] + 1;
  s->likely[child] = s->likely[node] + log(chance);
}

// The deepest node, of these the most likely, then the first; -1 where there is none.
FEWSTEP_HOST_DEVICE inline int32_t best_standing(const Standing& s, int32_t size) {
  int32_t best = size > 0 ? 0 : -1;
  for (int32_t node = 1; node < size; ++node) {
    if (s.depth[node] < s.depth[best] || s.depth[node] < 0) continue;
    if (s.depth[node] > s.depth[best] || s.likely[node] > s.likely[best]) best = node;
  }
  return best;
}

// Writes the path to a node that stands, and returns its length.
FEWSTEP_HOST_DEVICE inline int32_t put_path(const Request& request, const Standing& s, int32_t node,
                                            const Result& result) {
  const int32_t length = s.depth[node];
  for (int32_t depth = length - 1; depth >= 0; --depth) {
    const int32_t parent = request.parent(node);
    result.path[depth] = node;
    if (result.logprobs) result.logprobs[depth] = (float)(s.likely[node] - s.likely[parent]);
    node = parent;
  }
  return length;
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
