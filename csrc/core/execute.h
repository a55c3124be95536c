// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/check.h"
#include "core/context.h"
#include "core/cuda/device.h"

namespace fewstep {

// Runs an op's kernel as the context says, with the tensors' device current: the last thing that an
// op does once its arguments are checked.
template <class Problem>
void execute(const fewstep_context* ctx, const ArgCheck& check, void (&kernel)(const Problem&),
             Problem* p) {
  const Execution run = execution_of(ctx);
  if constexpr (requires { p->threads; }) p->threads = run.threads;
  p->cuda_stream = run.stream;
  const DeviceScope scope(check.function(), check.device());
  kernel(*p);
}

}  // namespace fewstep
