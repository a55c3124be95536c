// SPDX-License-Identifier: Apache-2.0
#include "logits/sample.h"

#include "core/cpu/parallel.h"
#include "logits/cpu/analyse.h"

// Requires: V >= 1, contiguous rows, valid filters. A row is one thread's; its law lies on the
// stack.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

void sample_row(const SampleProblem& p, int64_t r, Law* law) {
  const RowStatus status = analyse(row_at(p.rows, r), law);
  int64_t token = -1;
  if (status == kRowFine) {
    token = draw(*law, draw_uniform(key_at(p.draws, r), p.draws.draw));
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
  parallel_for(p.threads, p.rows.R, grain_of(p.rows), rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
