// SPDX-License-Identifier: Apache-2.0
#include "kv/cuda/message.h"

// Requires: caches and message do not overlap. A slot without a page is passed over.
namespace fewstep::kv::FEWSTEP_ISA {

void import_tokens(const TransferProblem& p) {
  launch_header<true>(p);
  launch_checksum(p, p.status + 1);
  launch_transfers<true>(p);
}

}  // namespace fewstep::kv::FEWSTEP_ISA
