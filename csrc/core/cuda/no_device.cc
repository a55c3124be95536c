// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/device.h"
#include "core/status.h"

// The stub of the CUDA runtime: no device exists, so nothing here is reached but the constructor.
namespace fewstep {

DeviceScope::DeviceScope(const char*, Device) {}
DeviceScope::~DeviceScope() = default;

namespace gpu {

int32_t device_count() { return 0; }
bool has_warpgroups(const char*, Device) { return true; }
bool is_capturing(const char*, void*) { return false; }
void* upload(const char* function, const void*, size_t) {
  throw Error(FEWSTEP_UNSUPPORTED, std::string(function) + ": this build has no CUDA kernels");
}
void release(Device, void*) noexcept {}

}  // namespace gpu
}  // namespace fewstep
