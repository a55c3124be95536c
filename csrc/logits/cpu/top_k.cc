// SPDX-License-Identifier: Apache-2.0
#include "logits/top_k.h"

#include "core/cpu/parallel.h"
#include "logits/cpu/law.h"

// Requires: V >= 1, 1 <= K <= kMaxCandidates, contiguous rows. A row is one thread's.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

void top_k_row(const TopKProblem& p, int64_t r, Candidate* best, Law* law) {
  const RowSpec row = row_at(p.rows, r);
  Scan scan = scan_row(row, p.K, best);
  double total = (double)__builtin_nanf("");
  if (scan.status != kRowFine) {
    scan.count = 0;
  } else if (p.normalise || p.log_normaliser) {
    begin_law(row, scan.max, 1.0f, law);
    total = (double)scan.max + log(row_sum(*law));
  }
  sort(best, scan.count, ByRank());
  int32_t* ids = p.ids + r * p.ids_stride;
  float* values = p.values + r * p.values_stride;
  const double shift = p.normalise ? total : 0.0;
  for (int i = 0; i < scan.count; ++i) {
    ids[i] = best[i].id;
    values[i] = (float)((double)best[i].value - shift);
  }
  for (int i = scan.count; i < p.K; ++i) {
    ids[i] = -1;
    values[i] = scan.status == kRowFine ? kMinusInfinity : __builtin_nanf("");
  }
  if (p.log_normaliser) p.log_normaliser[r * p.log_normaliser_stride] = (float)total;
  if (p.status) p.status[r * p.status_stride] = scan.status;
}

}  // namespace

void top_k(const TopKProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Candidate best[kMaxBuffer];
    Law law;
    for (int64_t r = begin; r < end; ++r) top_k_row(*(const TopKProblem*)context, r, best, &law);
  };
  parallel_for(p.threads, p.rows.R, grain_of(p.rows), rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
