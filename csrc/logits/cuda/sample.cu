// SPDX-License-Identifier: Apache-2.0
#include "logits/cuda/analyse.h"
#include "logits/sample.h"

// Mapping: a cluster has a row. Requires: V >= 1, contiguous rows.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct SampleKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Shared = LawShared;

  SampleProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index;
    const RowStatus status = analyse(block, p.rows, &s);
    Drawn drawn = {-1, 0.0f};
    if (status == kRowFine) drawn = draw(block, draw_uniform(key_at(p.draws, r), p.draws.draw), &s);
    block.each_alone([&](int t) {
      if (t != 0) return;
      p.out[r * p.out_stride] = (int32_t)drawn.token;
      if (p.status) p.status[r * p.status_stride] = status;
      if (!p.logprobs) return;
      p.logprobs[r * p.logprobs_stride] =
          drawn.token < 0 ? __builtin_nanf("") : (float)log((double)drawn.weight / s.law.mass);
    });
  }
};

}  // namespace

void sample(const SampleProblem& p) {
  launch_rows("fewstep_logits_sample", SampleKernel{p}, p.rows.R, p.rows.V, p.cuda_stream);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
