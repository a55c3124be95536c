// SPDX-License-Identifier: Apache-2.0
#include "tree/expand.h"

#include "core/cpu/parallel.h"
#include "logits/cpu/analyse.h"
#include "tree/cpu/beam.h"

// Requires: V >= 1, indptr checked, 1 <= K, M <= kMaxChildren.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

void expand_row(const ExpandProblem& p, int64_t r, logits::FEWSTEP_ISA::Law* law) {
  int32_t* ids = p.ids + r * p.ids_stride;
  float* logp = p.logp + r * p.logp_stride;
  Candidate best[kMaxBuffer];
  int count = 0;
  const float above = p.cum_logp[r * p.cum_logp_stride];
  logits::RowStatus status = logits::kRowFine;
  double total = 0.0;
  if (above > -INFINITY) {
    const logits::RowSpec row = row_at(p.rows, r);
    Keeper keeper{best, p.K, -INFINITY};
    begin_law(row, 0.0f, 1.0f, law);
    status = analyse_all(row, law, &keeper);
    if (status == logits::kRowFine) {
      count = ranked(&keeper);
      total = (double)law->max + log(law->mass);
    }
  }
  for (int j = 0; j < p.K; ++j) {
    int32_t id = j < count ? best[j].id : -1;
    if (id >= 0 && p.d2t) id = p.d2t[id * p.d2t_stride];
    ids[j] = id < 0 ? -1 : id;
    logp[j] = id < 0 ? -INFINITY : (float)((double)above + ((double)best[j].value - total));
  }
  if (p.status) p.status[r * p.status_stride] = status;
}

void expand_range(void* context, int64_t from, int64_t to) {
  const ExpandProblem& p = *static_cast<const ExpandProblem*>(context);
  logits::FEWSTEP_ISA::Law law;
  for (int64_t r = from; r < to; ++r) expand_row(p, r, &law);
}

// Of a request's children the M best, of equal ones the earlier first.
void choose_beam(const ExpandProblem& p, int64_t b) {
  Candidate best[kMaxBuffer];
  const int64_t begin = p.indptr[b * p.indptr_stride];
  const int64_t rows = p.indptr[(b + 1) * p.indptr_stride] - begin;
  const float* logp = p.logp + begin * p.logp_stride;
  const int count = choose_best(logp, p.logp_stride, rows, p.K, p.M, best);
  for (int j = 0; j < p.M; ++j) {
    const bool given = j < count;
    const int32_t row = given ? best[j].id / p.K : -1;
    p.beam_ids[b * p.beam_ids_stride + j] =
        given ? p.ids[(begin + row) * p.ids_stride + best[j].id % p.K] : -1;
    p.beam_logp[b * p.beam_logp_stride + j] = given ? best[j].value : -INFINITY;
    p.beam_parent[b * p.beam_parent_stride + j] = row;
  }
}

}  // namespace

void expand(const ExpandProblem& p) {
  ExpandProblem own = p;
  parallel_for(p.threads, p.rows.R, grain_of(p.rows), expand_range, &own);
  for (int64_t b = 0; p.beam_ids && b < p.B; ++b) choose_beam(p, b);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
