// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

// How a matrix of 16-bit elements lies in shared memory for warpgroups' products (wgmma.h) and
// boxes of a tensor (box_copy.h): blocks of 64 columns, at multiples of 1024 bytes, with rows of
// 128 bytes, one after the other, whose eight chunks of 16 bytes change places so that a column of
// eight rows has all banks (PTX: the swizzling mode of 128 bytes).
namespace fewstep::gpu {
namespace {

constexpr int kSwizzledColumns = 64, kSwizzledRow = 128, kSwizzledAtom = 1024;

// Byte of a block where the chunk of row `row` is that has its columns from 8 * chunk on.
FEWSTEP_HOST_DEVICE inline int swizzled(int row, int chunk) {
  return row * kSwizzledRow + (chunk ^ row % 8) * 16;
}

// The same of addresses: where what would lie at `plain` is. Bits 7 to 9 are added in bits 4 to 6.
inline uintptr_t swizzled_address(uintptr_t plain) { return plain ^ (plain >> 7 & 7) << 4; }

}  // namespace
}  // namespace fewstep::gpu
