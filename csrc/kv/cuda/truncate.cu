// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "kv/truncate.h"

// Mapping: a thread has a request. What is not in [0, length] leaves it as it is.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

struct TruncateKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  static constexpr bool kPrepares = false;
  struct Shared {};

  TruncateProblem p;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared&) const {
    const int64_t b = thread.block * kThreads + thread.index;
    if (b >= p.B) return;
    int32_t* length = p.length + b * p.length_stride;
    const int32_t kept = at(p.kept, b);
    if (kept >= 0 && kept <= *length) *length = kept;
  }
};

}  // namespace

void truncate(const TruncateProblem& p) {
  const int64_t blocks = (p.B + TruncateKernel::kThreads - 1) / TruncateKernel::kThreads;
  if (blocks > 0) {
    gpu::launch("fewstep_kv_truncate", TruncateKernel{p}, blocks, p.cuda_stream);
  }
}

}  // namespace fewstep::kv::FEWSTEP_ISA
