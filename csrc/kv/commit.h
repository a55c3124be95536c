// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "kv/cache.h"

namespace fewstep::kv {

// Caches of one layer: keys, values and, of scaled bytes, their scales.
struct Layer {
  Cache part[4];
};

// Slot base[b] + first + i becomes slot base[b] + source[b, i] for i < count[b], in every part of
// every layer; sources ascend and none is below its target.
struct MoveProblem {
  int64_t L, B, G;
  int32_t parts;     // 2, or 4 with scales
  int64_t bytes[4];  // of one head's row, by part
  const Layer* layers;
  Pages pages;
  Room room;
  Ints base;  // data is null: 0
  int64_t first;
  Ints source;           // [B, M] of layer 0
  int64_t source_layer;  // elements between layers; 0: the same for all
  Ints count;
  int64_t count_layer;
  int64_t M;
  int32_t* length;  // [B], becomes base + first + count; or null
  int64_t length_stride;
  const char* function;  // of the C ABI
  int32_t threads;
  void* cuda_stream;
};
using CommitFn = void(const MoveProblem&);
FEWSTEP_DECLARE_KERNELS(CommitFn, commit)

}  // namespace fewstep::kv
