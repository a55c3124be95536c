// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

// The law that a node's drafts were drawn from, for kernels of both kinds. Included by kernel files
// only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// S probabilities of the tokens ids[s], or of the tokens s.
struct DraftLaw {
  const float* q;
  const int32_t* ids;  // ascending, or null
  int64_t S;
};

// The first s in [low, high) with ids[s] >= v, else high.
FEWSTEP_HOST_DEVICE inline int64_t lower_bound(const int32_t* ids, int64_t low, int64_t high,
                                               int64_t v) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (ids[middle] < v) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

FEWSTEP_HOST_DEVICE inline double draft_probability(const DraftLaw& law, int64_t v) {
  if (!law.ids) return v < law.S ? (double)law.q[v] : 0.0;
  const int64_t s = lower_bound(law.ids, 0, law.S, v);
  return s < law.S && law.ids[s] == v ? (double)law.q[s] : 0.0;
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
