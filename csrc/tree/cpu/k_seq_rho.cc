// SPDX-License-Identifier: Apache-2.0
#include "tree/k_seq_rho.h"

#include "core/cpu/parallel.h"
#include "tree/cpu/residual.h"

// Requires: V >= 1, k >= 1, filters and ids checked. A row is one thread's.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct Scratch {
  TargetLaw target;
  Masses masses;
  Draws none;
};

// The chance that one draw is accepted.
double chance_at(double rho, const DraftLaw& q, Scratch* s) {
  const Left left = overlap(Kind::kOverlap, rho);
  return weigh({s->target, q, s->none, left}, &s->masses);
}

void find_rho(const KSeqRhoProblem& p, int64_t r, Scratch* scratch) {
  const logits::RowStatus status =
      logits::FEWSTEP_ISA::analyse(row_at(p.rows, r), &scratch->target);
  double rho = __builtin_nan(""), accept = rho;
  if (status == logits::kRowFine) {
    const int32_t* ids = p.laws.ids ? p.laws.ids + r * p.laws.ids_stride : nullptr;
    const DraftLaw q = {p.laws.q + r * p.laws.stride, ids, p.laws.S};
    RhoSearch search = start_rho(p.k);
    while (is_open(search)) put_beta(chance_at(next_rho(search), q, scratch), &search);
    rho = search.high;
    if (p.accept) accept = chance_at(rho, q, scratch);
  }
  p.rho[r * p.rho_stride] = rho;
  if (p.accept) p.accept[r * p.accept_stride] = accept;
  if (p.status) p.status[r * p.status_stride] = status;
}

}  // namespace

void k_seq_rho(const KSeqRhoProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t r = begin; r < end; ++r) find_rho(*(const KSeqRhoProblem*)context, r, &scratch);
  };
  parallel_for(p.threads, p.rows.R, 1, rows, (void*)&p);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
