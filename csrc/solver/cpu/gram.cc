// SPDX-License-Identifier: Apache-2.0
#include "solver/gram.h"

#include "solver/cpu/sums.h"
#include "solver/gram_matrix.h"

// Requires: N contiguous; partials as large as the workspace says; nothing overlaps.
namespace fewstep::solver::FEWSTEP_ISA {
namespace {

template <int K>
void gram_of(const GramProblem& p) {
  sum_samples(GramTerms<K>(), p.in, p.B, p.N, p.partials, p.threads,
              GramDone<K>{p.out, p.out_stride, p.N});
}

}  // namespace

void gram(const GramProblem& p) {
  if (p.K == 1) return gram_of<1>(p);
  if (p.K == 2) return gram_of<2>(p);
  if (p.K == 3) return gram_of<3>(p);
  if (p.K == 4) return gram_of<4>(p);
}

}  // namespace fewstep::solver::FEWSTEP_ISA
