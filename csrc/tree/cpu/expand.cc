// SPDX-License-Identifier: Apache-2.0
#include "tree/expand.h"

#include "core/cpu/parallel.h"
#include "tree/cpu/row_law.h"

// Requires: indptr checked, 1 <= K, M <= kMaxChildren.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int64_t kLogitsOfARange = 16384;

void expand_row(const ExpandProblem& p, int64_t r) {
  int32_t* ids = p.ids + r * p.ids_stride;
  float* logp = p.logp + r * p.logp_stride;
  float values[kMaxChildren];
  int32_t found[kMaxChildren];
  Best best = {values, found, p.K, 0};
  const float above = p.cum_logp[r * p.cum_logp_stride];
  int32_t status = 0;
  double total = 0.0;
  if (above > -INFINITY) {
    const Law law = law_of({p.logits + r * p.logits_pitch, p.dtype, p.V, 1.0f}, &best);
    total = law.log_total();
    if (!law.valid()) {
      status = 1;
      best.count = 0;
    }
  }
  for (int j = 0; j < p.K; ++j) {
    int32_t id = j < best.count ? found[j] : -1;
    if (id >= 0 && p.d2t) id = p.d2t[id * p.d2t_stride];
    ids[j] = id < 0 ? -1 : id;
    logp[j] = id < 0 ? -INFINITY : (float)((double)above + ((double)values[j] - total));
  }
  if (p.status) p.status[r * p.status_stride] = status;
}

void expand_range(void* context, int64_t from, int64_t to) {
  const ExpandProblem& p = *static_cast<const ExpandProblem*>(context);
  for (int64_t r = from; r < to; ++r) expand_row(p, r);
}

// Of a request's children the M best, of equal ones the earlier first.
void choose_beam(const ExpandProblem& p, int64_t b) {
  float values[kMaxChildren];
  int32_t found[kMaxChildren];
  Best best = {values, found, p.M, 0};
  const int64_t begin = p.indptr[b * p.indptr_stride];
  const int64_t rows = p.indptr[(b + 1) * p.indptr_stride] - begin;
  for (int64_t r = 0; r < rows; ++r) {
    const float* logp = p.logp + (begin + r) * p.logp_stride;
    for (int j = 0; j < p.K; ++j) best.offer(logp[j], (int32_t)(r * p.K + j));
  }
  for (int j = 0; j < p.M; ++j) {
    const bool given = j < best.count;
    const int32_t row = given ? found[j] / p.K : -1;
    p.beam_ids[b * p.beam_ids_stride + j] =
        given ? p.ids[(begin + row) * p.ids_stride + found[j] % p.K] : -1;
    p.beam_logp[b * p.beam_logp_stride + j] = given ? values[j] : -INFINITY;
    p.beam_parent[b * p.beam_parent_stride + j] = row;
  }
}

}  // namespace

void expand(const ExpandProblem& p) {
  ExpandProblem own = p;
  parallel_for(p.threads, p.R, 1 + kLogitsOfARange / (p.V + 1), expand_range, &own);
  for (int64_t b = 0; p.beam_ids && b < p.B; ++b) choose_beam(p, b);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
