// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/check.h"
#include "kv/checks.h"
#include "kv/commit.h"

namespace fewstep::kv {

// The caches of all layers, checked and unpacked; on the stack of the op, some 32 KB.
struct Layers {
  int64_t L = 0;
  int32_t parts = 2;
  DType dtype = DType::kF32;
  Layer layer[kMaxLayers];
};

// Binds P, T, G and D, which all layers share. `written` says whether they are outputs. Inputs are
// to be checked before, so that they are compared with the caches.
void read_layers(ArgCheck& check, const fewstep_kv_caches& caches, bool written, Layers* out);

// Bytes of one head's row, by part.
void row_bytes(const ArgCheck& check, const Layers& layers, int64_t (&bytes)[4]);

// Bytes and parts of the rows that a kernel moves.
void set_rows(const ArgCheck& check, const Layers& layers, MoveProblem* p);

// Runs the kernel where the caches are.
void run_moves(const fewstep_context* ctx, const ArgCheck& check, CommitFn& kernel, MoveProblem* p);

}  // namespace fewstep::kv
