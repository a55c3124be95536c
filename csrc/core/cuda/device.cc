// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/device.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "core/cuda/box_copy.h"
#include "core/cuda/launch.h"
#include "core/status.h"

namespace fewstep {
namespace gpu {

void throw_if_failed(const char* function, int32_t code) {
  if (code == cudaSuccess) return;
  const cudaError_t error = static_cast<cudaError_t>(code);
  (void)cudaGetLastError();  // the caller gets it from here; the next call must not find it again
  throw Error(FEWSTEP_BACKEND_ERROR, format("%s: CUDA reported %s (%s)", function,
                                            cudaGetErrorName(error), cudaGetErrorString(error)));
}

int32_t device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;  // no driver, or one too old
}

bool has_warpgroups(const char* function, Device device) {
  if (device.type != kCuda) return true;
#if defined(FEWSTEP_WITH_SM90A)
  int major = 0, minor = 0;
  const cudaDeviceAttr attributes[] = {cudaDevAttrComputeCapabilityMajor,
                                       cudaDevAttrComputeCapabilityMinor};
  throw_if_failed(function, cudaDeviceGetAttribute(&major, attributes[0], device.id));
  throw_if_failed(function, cudaDeviceGetAttribute(&minor, attributes[1], device.id));
  return major == 9 && minor == 0;
#else
  (void)function;
  return false;
#endif
}

namespace {

// The driver's function, which is looked up: nothing links the driver.
decltype(&cuTensorMapEncodeTiled) tensor_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  constexpr const char* kName = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(kName, &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(kName, &found, cudaEnableDefault, &result);
#endif
  if (error != cudaSuccess) (void)cudaGetLastError();
  const bool is_there = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
  return is_there ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found) : nullptr;
}

}  // namespace

bool map_tensor_by_driver(const BoxedTensor& tensor, bool is_bf16, TensorMap* map) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  static const auto kEncode = tensor_encoder();
  if (!kEncode) return false;
  cuuint64_t extents[4], strides[3];
  for (int d = 0; d < 4; ++d) extents[d] = static_cast<cuuint64_t>(tensor.extents[d]);
  for (int d = 0; d < 3; ++d) strides[d] = static_cast<cuuint64_t>(tensor.strides[d]);
  const cuuint32_t box[4] = {kSwizzledColumns, 1, static_cast<cuuint32_t>(tensor.rows), 1};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  CUtensorMap made;
  const CUresult code =
      kEncode(&made, is_bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
              4, const_cast<char*>(tensor.data), extents, strides, box, steps,
              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS) return false;
  std::memcpy(map, &made, sizeof made);
  return true;
}

int32_t cluster_size_of(const char* function, const void* entry, int64_t clusters, int64_t most) {
  if (cluster_size(clusters, most, INT64_MAX) == 1) return 1;
  cudaFuncAttributes code;
  throw_if_failed(function, cudaFuncGetAttributes(&code, entry));
  if (code.ptxVersion < 90) return 1;  // it may have been compiled for older GPUs than this one
  int device = 0, multiprocessors = 0;
  throw_if_failed(function, cudaGetDevice(&device));
  throw_if_failed(function,
                  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return cluster_size(clusters, most, multiprocessors);
}

bool is_capturing(const char* function, void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  throw_if_failed(function, cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

void* upload(const char* function, const void* data, size_t bytes) {
  void* memory = nullptr;
  throw_if_failed(function, cudaMalloc(&memory, bytes));
  const cudaError_t error = cudaMemcpy(memory, data, bytes, cudaMemcpyHostToDevice);
  if (error != cudaSuccess) (void)cudaFree(memory);
  throw_if_failed(function, error);
  return memory;
}

void release(Device device, void* memory) noexcept {
  // At the end of the process the driver may be gone, and the memory with it.
  int previous = 0;
  if (cudaGetDevice(&previous) != cudaSuccess || cudaSetDevice(device.id) != cudaSuccess) return;
  (void)cudaFree(memory);
  (void)cudaSetDevice(previous);
}

}  // namespace gpu

DeviceScope::DeviceScope(const char* function, Device device) {
  if (device.type != kCuda) return;
  int current = 0;
  gpu::throw_if_failed(function, cudaGetDevice(&current));
  if (current == device.id) return;
  gpu::throw_if_failed(function, cudaSetDevice(device.id));
  previous_ = current;
}

DeviceScope::~DeviceScope() {
  if (previous_ >= 0) (void)cudaSetDevice(previous_);
}

}  // namespace fewstep
