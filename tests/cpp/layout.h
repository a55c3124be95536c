// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

// Offsets and sizes of a tensor type's fields: those of fewstep.h and of dlpack.h must agree.
template <class T>
std::vector<size_t> layout_of() {
  using Device = decltype(T::device);
  using Type = decltype(T::dtype);
  return {sizeof(T),
          alignof(T),
          offsetof(T, data),
          offsetof(T, device),
          offsetof(T, ndim),
          offsetof(T, dtype),
          offsetof(T, shape),
          offsetof(T, strides),
          offsetof(T, byte_offset),
          sizeof(Device),
          offsetof(Device, device_type),
          offsetof(Device, device_id),
          sizeof(Device::device_type),
          sizeof(Type),
          offsetof(Type, code),
          offsetof(Type, bits),
          offsetof(Type, lanes),
          sizeof(T::ndim),
          sizeof(T::byte_offset)};
}

std::vector<size_t> dlpack_layout();
void check_face_over_dlpack();
