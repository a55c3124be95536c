// SPDX-License-Identifier: Apache-2.0
// Products of bytes on tensor cores, in emulation: fragments as PTX lists them for .m16n8k32 .s8.
#include <doctest/doctest.h>

#include "core/cuda/mma.h"

using namespace fewstep;

namespace {

int left(int row, int k) { return (row * 37 + k * 11) % 256 - 128; }
int right(int k, int column) { return (k * 29 + column * 53 + 7) % 256 - 128; }

void put(uint32_t* words, int i, int value) {
  words[i / 4] |= uint32_t(value & 0xff) << (i % 4 * 8);
}

}  // namespace

TEST_CASE("a warp multiplies signed bytes and adds them up in integers") {
  uint32_t a[64][4] = {}, b[64][2] = {}, c[64][4];
  for (int t = 0; t < 64; ++t) {  // two warps, the second with its signs changed
    const int group = t % 32 / 4, in_group = t % 4, sign = t < 32 ? 1 : -1;
    for (int i = 0; i < 16; ++i) {
      const int row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
      put(a[t], i, left(row, in_group * 4 + i % 4 + (i >= 8 ? 16 : 0)));
    }
    for (int i = 0; i < 8; ++i) {
      const int value = right(in_group * 4 + i % 4 + (i >= 4 ? 16 : 0), group);
      put(b[t], i, sign * (value == -128 ? -127 : value));
    }
    for (uint32_t& x : c[t]) x = uint32_t(1000 * t);
  }
  gpu::multiply_bytes(
      gpu::Block<64>{0}, [&](int t) { return c[t]; }, [&](int t) { return a[t]; },
      [&](int t) { return b[t]; });
  for (int t = 0; t < 64; ++t) {
    for (int i = 0; i < 4; ++i) {
      const int row = t % 32 / 4 + (i < 2 ? 0 : 8), column = t % 4 * 2 + i % 2;
      int sum = 0;
      for (int k = 0; k < 32; ++k) {
        const int value = right(k, column);
        sum += left(row, k) * (value == -128 ? -127 : value);
      }
      CHECK(int(c[t][i]) == 1000 * t + (t < 32 ? sum : -sum));
    }
  }
}
