// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "fewstep/context.h"

// Named without a namespace because it is the C type behind the public pointer.
struct fewstep_context {
  int32_t device_type = 1;
  int32_t device_id = 0;
  void* stream = nullptr;
  int32_t threads = 0;  // 0: the process-wide count
};

namespace fewstep {

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };

struct Device {
  int32_t type = 0;  // DeviceType; 0 until known
  int32_t id = 0;
  bool operator==(const Device&) const = default;
};

// What a kernel needs to know of where it runs.
struct Execution {
  void* stream;     // cudaStream_t on CUDA
  int32_t threads;  // CPU threads, 0 for the process-wide count
};

inline Execution execution_of(const fewstep_context* ctx) {
  return ctx ? Execution{ctx->stream, ctx->threads} : Execution{nullptr, 0};
}

}  // namespace fewstep
