// SPDX-License-Identifier: Apache-2.0
#include "core/context.h"

#include "core/cuda/device.h"
#include "core/status.h"

using fewstep::Error;
using fewstep::format;
using fewstep::guard;

extern "C" {

fewstep_status fewstep_context_create(int32_t device_type, int32_t device_id,
                                      fewstep_context** out) {
  return guard([&] {
    if (!out)
      throw Error(FEWSTEP_INVALID_ARGUMENT, "fewstep_context_create: 'out' must not be NULL");
    if (device_type != fewstep::kCpu && device_type != fewstep::kCuda) {
      throw Error(FEWSTEP_UNSUPPORTED,
                  format("fewstep_context_create: 'device_type' must be 1 (CPU) or 2 "
                         "(CUDA), got %d",
                         int(device_type)));
    }
    if (device_id < 0 || (device_type == fewstep::kCpu && device_id != 0)) {
      throw Error(
          FEWSTEP_INVALID_ARGUMENT,
          format("fewstep_context_create: 'device_id' must name a device, got %d", int(device_id)));
    }
    if (device_type == fewstep::kCuda && device_id >= fewstep_cuda_device_count()) {
      throw Error(FEWSTEP_UNSUPPORTED,
                  format("fewstep_context_create: 'device_id' must be below %d, the number of "
                         "usable CUDA devices, got %d",
                         int(fewstep_cuda_device_count()), int(device_id)));
    }
    *out = new fewstep_context{device_type, device_id, nullptr, 0};
  });
}

void fewstep_context_destroy(fewstep_context* ctx) { delete ctx; }

fewstep_status fewstep_context_set_stream(fewstep_context* ctx, void* stream) {
  return guard([&] {
    if (!ctx) {
      throw Error(FEWSTEP_INVALID_ARGUMENT, "fewstep_context_set_stream: 'ctx' must not be NULL");
    }
    ctx->stream = stream;
  });
}

fewstep_status fewstep_context_set_num_threads(fewstep_context* ctx, int32_t threads) {
  return guard([&] {
    if (!ctx) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  "fewstep_context_set_num_threads: 'ctx' must not be NULL");
    }
    if (threads < 0) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("fewstep_context_set_num_threads: 'threads' must be 0 or more, got %d",
                         int(threads)));
    }
    ctx->threads = threads;
  });
}

#if defined(FEWSTEP_WITH_CUDA)
int32_t fewstep_cuda_built(void) { return 1; }
#else
int32_t fewstep_cuda_built(void) { return 0; }
#endif
int32_t fewstep_cuda_device_count(void) { return fewstep::gpu::device_count(); }

}  // extern "C"
