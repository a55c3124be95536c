// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/context.h"

// The CUDA runtime, as far as host code outside the kernels needs it: device.cc where CUDA is
// built, no_device.cc elsewhere. Failures throw FEWSTEP_BACKEND_ERROR naming `function`.
namespace fewstep {

// Makes a device current for this thread and restores the one before. On the CPU it does nothing.
class DeviceScope {
 public:
  DeviceScope(const char* function, Device device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int32_t previous_ = -1;  // to be restored; -1 for nothing
};

namespace gpu {

int32_t device_count();
// Whether warpgroups multiply there (core/cuda/wgmma.h), in this build; on the CPU they do.
bool has_warpgroups(const char* function, Device device);
// True between the begin and end of a stream's capture into a graph.
bool is_capturing(const char* function, void* stream);
// A copy of host memory on the current device; done on return.
void* upload(const char* function, const void* data, size_t bytes);
void release(Device device, void* memory) noexcept;

}  // namespace gpu
}  // namespace fewstep
