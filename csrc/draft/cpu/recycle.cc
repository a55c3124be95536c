// SPDX-License-Identifier: Apache-2.0
#include "draft/recycle.h"

#include <string.h>

// A copy of rows, for which no ISA has more to offer than memcpy. Requires: tokens below V, nothing
// overlaps.
namespace fewstep::draft::FEWSTEP_ISA {

void recycle(const RecycleProblem& p) {
  for (int64_t n = 0; n < p.N; ++n) {
    memcpy(p.table + p.tokens[n * p.tokens_stride] * p.table_stride,
           p.top_ids + n * p.top_ids_stride, size_t(p.K) * sizeof(int32_t));
  }
}

}  // namespace fewstep::draft::FEWSTEP_ISA
