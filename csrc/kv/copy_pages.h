// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "kv/cache.h"
#include "kv/commit.h"

namespace fewstep::kv {

// Page target[n] becomes page source[n], in order, in every part of every layer; -1 is no page.
struct CopyPagesProblem {
  int64_t L, N, P, T, G;
  int32_t parts;
  int64_t bytes[4];  // of one head's row, by part
  const Layer* layers;
  Ints source, target;
  int32_t threads;
  void* cuda_stream;
};
using CopyPagesFn = void(const CopyPagesProblem&);
FEWSTEP_DECLARE_KERNELS(CopyPagesFn, copy_pages)

}  // namespace fewstep::kv
