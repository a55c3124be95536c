// SPDX-License-Identifier: Apache-2.0
#include "kv/cpu/message_rows.h"

// Requires: what the header says is that of the caches, slots on pages that there are.
namespace fewstep::kv::FEWSTEP_ISA {

void export_tokens(const TransferProblem& p) {
  char* payload = p.message + kHeaderBytes;
  for_rows(p, [=](const char* at, int64_t i, size_t n) { memcpy(payload + i, at, n); });
  Header header = p.header;
  header.checksum += payload_sum(payload, (int64_t)header.payload_bytes);
  memcpy(p.message, &header, sizeof header);
}

}  // namespace fewstep::kv::FEWSTEP_ISA
