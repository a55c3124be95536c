// SPDX-License-Identifier: Apache-2.0
#include "kv/cuda/message.h"

// Requires: caches and message do not overlap. A slot without a page is exported as zeros.
namespace fewstep::kv::FEWSTEP_ISA {

void export_tokens(const TransferProblem& p) {
  launch_header<false>(p);
  launch_transfers<false>(p);
  launch_checksum(p, p.message + kSummedHeader);
}

}  // namespace fewstep::kv::FEWSTEP_ISA
