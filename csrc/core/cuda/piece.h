// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/pack.h"

// Bytes that a thread copies with one access. Included by CUDA kernel files only.
namespace fewstep::gpu {
namespace {

template <int kBytes>
struct Piece;

template <>
struct Piece<16> {
  uint32_t w[4];
  FEWSTEP_HOST_DEVICE void load(const char* p) { load16(p, w); }
  FEWSTEP_HOST_DEVICE void store(char* p) const { store16(p, w); }
};

template <>
struct Piece<4> {
  uint32_t w;
  FEWSTEP_HOST_DEVICE void load(const char* p) { w = *(const Word*)p; }
  FEWSTEP_HOST_DEVICE void store(char* p) const { *(Word*)p = w; }
};

template <>
struct Piece<2> {
  uint16_t w;
  FEWSTEP_HOST_DEVICE void load(const char* p) { w = *(const HalfWord*)p; }
  FEWSTEP_HOST_DEVICE void store(char* p) const { *(HalfWord*)p = w; }
};

template <>
struct Piece<1> {
  char w;
  FEWSTEP_HOST_DEVICE void load(const char* p) { w = *p; }
  FEWSTEP_HOST_DEVICE void store(char* p) const { *p = w; }
};

// Bytes of the largest piece that divides all addresses and distances whose bits `any` has.
inline int piece_bytes(uint64_t any) {
  if (any % 16 == 0) return 16;
  if (any % 4 == 0) return 4;
  return any % 2 == 0 ? 2 : 1;
}

// Calls f.move<bytes>(...) for a piece of so many bytes.
template <class F, class... Args>
FEWSTEP_HOST_DEVICE inline void with_piece(int bytes, const F& f, const Args&... args) {
  if (bytes == 16) {
    f.template move<16>(args...);
  } else if (bytes == 4) {
    f.template move<4>(args...);
  } else if (bytes == 2) {
    f.template move<2>(args...);
  } else {
    f.template move<1>(args...);
  }
}

}  // namespace
}  // namespace fewstep::gpu
