// SPDX-License-Identifier: Apache-2.0
#include "kv/truncate.h"

// One thread: the lengths of a batch are few. Requires: nothing overlaps.
namespace fewstep::kv::FEWSTEP_ISA {

void truncate(const TruncateProblem& p) {
  for (int64_t b = 0; b < p.B; ++b) p.length[b * p.length_stride] = at(p.kept, b);
}

}  // namespace fewstep::kv::FEWSTEP_ISA
