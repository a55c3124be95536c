/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_TENSOR_H_
#define FEWSTEP_TENSOR_H_

#include <stdint.h>

/* Tensors cross the border as DLPack's DLTensor. Its layout is an open ABI: a host that includes
 * <dlpack/dlpack.h> first passes its DLTensor as it is; others use the layout-identical struct
 * below. Tensors are borrowed for the call (CPU) or until the enqueued work is done (CUDA). */
#if defined(DLPACK_DLPACK_H_)
typedef DLTensor fewstep_tensor;
#else
typedef struct fewstep_device {
  int32_t device_type; /* DLDeviceType: 1 CPU, 2 CUDA, 3 CUDA host memory, 13 CUDA managed */
  int32_t device_id;
} fewstep_device;

typedef struct fewstep_dtype {
  uint8_t code; /* DLDataTypeCode: 0 int, 1 uint, 2 float, 4 bfloat, 10 float8_e4m3fn */
  uint8_t bits;
  uint16_t lanes;
} fewstep_dtype;

typedef struct fewstep_tensor {
  void* data;
  fewstep_device device;
  int32_t ndim;
  fewstep_dtype dtype;
  int64_t* shape;   /* [ndim] */
  int64_t* strides; /* [ndim], in elements; NULL for row-major contiguous */
  uint64_t byte_offset;
} fewstep_tensor;
#endif

#endif
