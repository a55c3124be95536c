// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"

#include "core/cuda/pack.h"
#include "core/status.h"

namespace fewstep::gpu {

void check_blocks(const char* function, int64_t blocks) {
  if (blocks <= kMaxBlocks) return;
  throw Error(
      FEWSTEP_UNSUPPORTED,
      format("%s: a launch has at most 2147483647 blocks, one per sample and more, got %lld",
             function, static_cast<long long>(blocks)));
}

void throw_misaligned(int bytes, const void* address) {
  throw Error(FEWSTEP_INTERNAL, format("a CUDA kernel accesses %d bytes at %p", bytes, address));
}

}  // namespace fewstep::gpu
