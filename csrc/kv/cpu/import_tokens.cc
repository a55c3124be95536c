// SPDX-License-Identifier: Apache-2.0
#include "kv/cpu/message_rows.h"

// Requires: a message of these caches, whose header and checksum were compared; slots on pages that
// there are.
namespace fewstep::kv::FEWSTEP_ISA {

void import_tokens(const TransferProblem& p) {
  const char* payload = p.message + kHeaderBytes;
  for_rows(p, [=](char* at, int64_t i, size_t n) { memcpy(at, payload + i, n); });
}

}  // namespace fewstep::kv::FEWSTEP_ISA
