// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kv/message.h"

// Included by kernel files only.
namespace fewstep::kv {
namespace {

// Calls copy(place, offset, bytes) for each head's row of a message, in the payload's order.
template <class Copy>
inline void for_rows(const TransferProblem& p, const Copy& copy) {
  int64_t offset = 0;
  for (int64_t layer = 0; layer < p.L; ++layer) {
    for (int part = 0; part < p.parts; ++part) {
      const Cache& c = p.layers[layer].part[part];
      for (int64_t slot = p.begin; slot < p.begin + p.tokens; ++slot) {
        char* place = c.data + offset_of(p.pages, c, p.row, slot);
        for (int64_t g = 0; g < p.G; ++g, offset += p.bytes[part]) {
          copy(place + g * c.head, offset, (size_t)p.bytes[part]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fewstep::kv
