// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/check.h"

namespace fewstep::solver {

// The memory of an op's scratch tensor, checked as [W] i64, which must have `bytes` bytes.
inline void* workspace_memory(const View& workspace, int64_t bytes, const ArgCheck& check) {
  const int64_t needed = (bytes + 7) / 8;
  if (workspace.rows < needed) {
    check.fail("workspace",
               format("must have %lld elements or more", static_cast<long long>(needed)),
               std::to_string(workspace.rows));
  }
  if (workspace.rows > 1 && workspace.stride != 1) {
    check.fail("workspace", "must be contiguous", "a strided layout");
  }
  return workspace.data;
}

}  // namespace fewstep::solver
