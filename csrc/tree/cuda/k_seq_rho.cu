// SPDX-License-Identifier: Apache-2.0
#include "tree/cuda/verify_left.h"
#include "tree/k_seq_rho.h"

// Mapping: a cluster has a row. Requires: V >= 1, k >= 1, contiguous rows.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct KSeqRhoKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Shared = VerifyShared;

  KSeqRhoProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index;
    const logits::RowStatus status = analyse(block, p.rows, &s.law);
    const bool is_fine = status == logits::kRowFine;
    if (is_fine) {
      hold(block, &s);
      find(block, draft_of(r), &s);
    }
    block.each_alone([&](int t) {
      if (t != 0) return;
      const double none = __builtin_nan("");
      p.rho[r * p.rho_stride] = is_fine ? s.decision.rho.high : none;
      if (p.accept) p.accept[r * p.accept_stride] = is_fine ? s.decision.mass : none;
      if (p.status) p.status[r * p.status_stride] = status;
    });
  }

  FEWSTEP_HOST_DEVICE DraftLaw draft_of(int64_t r) const {
    const int32_t* ids = p.laws.ids ? p.laws.ids + r * p.laws.ids_stride : nullptr;
    return {p.laws.q + r * p.laws.stride, ids, p.laws.S};
  }

  // Leaves rho, and the chance that one draw is accepted in the decision's mass.
  FEWSTEP_HOST_DEVICE void find(const Block& block, const DraftLaw& q, Shared* s) const {
    block.each([&](int t) {
      if (t != 0) return;
      s->draws.count = 0;
      s->decision.rho = start_rho(p.k);
    });
    for (;;) {
      const bool goes_on = is_open(block.get(s->decision.rho));
      if (!goes_on && !p.accept) return;
      block.each([&](int t) {
        if (t == 0) s->decision.left = overlap(Kind::kOverlap, next_rho(s->decision.rho));
      });
      weigh(block, q, s);
      if (!goes_on) return;
      block.each([&](int t) {
        if (t == 0) put_beta(s->decision.mass, &s->decision.rho);
      });
    }
  }
};

}  // namespace

void k_seq_rho(const KSeqRhoProblem& p) {
  launch_rows("fewstep_tree_k_seq_rho", KSeqRhoKernel{p}, p.rows.R, p.rows.V, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
