// SPDX-License-Identifier: Apache-2.0
#include "solver/cuda/sums.h"
#include "solver/error_norm.h"
#include "solver/error_terms.h"

// Mapping: solver/cuda/sums.h. Requires: N contiguous; partials as large as the workspace says;
// nothing written overlaps.
namespace fewstep::solver::FEWSTEP_ISA {

void error_norm(const ErrorNormProblem& p) {
  const ErrorDone done{p.out, p.out_stride, p.N};
  with_error_terms(p, [&p, &done](const auto& terms) {
    sum_samples("fewstep_solver_error_norm", terms, p.in, p.B, p.N, p.partials, p.cuda_stream,
                done);
  });
}

}  // namespace fewstep::solver::FEWSTEP_ISA
