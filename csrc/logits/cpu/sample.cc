// SPDX-License-Identifier: Apache-2.0
#include "logits/sample.h"

#include "core/cpu/parallel.h"
#include "core/draws.h"
#include "logits/cpu/analyse.h"

// Requires: V >= 1, contiguous rows, valid filters. A row is one thread's; its law lies on the
// stack.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

void sample_row(const SampleProblem& p, int64_t r, Law* law) {
  RowSpec row{};
  row.logits = p.logits + r * p.logits_pitch;
  row.bitmask = p.bitmask ? p.bitmask + r * p.bitmask_stride : nullptr;
  row.V = p.V;
  row.dtype = p.dtype;
  put_filters(*p.filters, r, &row);
  const RowStatus status = analyse(row, law);
  int64_t token = -1;
  if (status == kRowFine) {
    const DrawKey key{p.seeds[r * p.seeds_stride], (uint32_t)p.positions[r * p.positions_stride],
                      p.stream};
    token = draw(*law, draw_uniform(key, p.draw));
  }
  p.out[r * p.out_stride] = (int32_t)token;
  if (p.status) p.status[r * p.status_stride] = status;
  if (p.logprobs) {
    p.logprobs[r * p.logprobs_stride] =
        token < 0 ? __builtin_nanf("") : (float)log(probability(*law, token));
  }
}

}  // namespace

void sample(const SampleProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Law law;
    for (int64_t r = begin; r < end; ++r) sample_row(*(const SampleProblem*)context, r, &law);
  };
  // About 10 us of work for a thread.
  const int64_t grain = p.V >= 32768 ? 1 : 32768 / p.V;
  parallel_for(p.threads, p.R, grain, rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
