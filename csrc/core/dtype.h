// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "fewstep/tensor.h"

namespace fewstep {

// name, text, DLPack code, bits. The one list of element types.
#define FEWSTEP_DTYPES(X)     \
  X(kF32, "float32", 2, 32)   \
  X(kF16, "float16", 2, 16)   \
  X(kBF16, "bfloat16", 4, 16) \
  X(kF64, "float64", 2, 64)   \
  X(kI32, "int32", 0, 32)     \
  X(kI64, "int64", 0, 64)     \
  X(kU64, "uint64", 1, 64)    \
  X(kI8, "int8", 0, 8)        \
  X(kU8, "uint8", 1, 8)       \
  X(kU32, "uint32", 1, 32)    \
  X(kE4M3, "float8_e4m3fn", 10, 8)

enum class DType : uint8_t {
#define FEWSTEP_X(name, text, code, bits) name,
  FEWSTEP_DTYPES(FEWSTEP_X)
#undef FEWSTEP_X
};

// A set of types as a bit mask, one bit per enumerator.
using DTypeSet = uint32_t;

constexpr DTypeSet operator|(DType a, DType b) { return 1u << unsigned(a) | 1u << unsigned(b); }
constexpr DTypeSet operator|(DTypeSet a, DType b) { return a | 1u << unsigned(b); }
constexpr DTypeSet only(DType t) { return 1u << unsigned(t); }
constexpr bool contains(DTypeSet set, DType t) { return (set >> unsigned(t) & 1u) != 0; }

constexpr DTypeSet kFloating = DType::kF32 | DType::kF16 | DType::kBF16;
constexpr DTypeSet kSeeds = DType::kI64 | DType::kU64;
constexpr DTypeSet kScaledBytes = DType::kI8 | DType::kE4M3;  // caches that have scales
constexpr DTypeSet kBitWords = DType::kI32 | DType::kU32;     // 32 bits of a mask; torch has int32

constexpr int64_t size_of(DType t) {
  switch (t) {
#define FEWSTEP_X(name, text, code, bits) \
  case DType::name:                       \
    return bits / 8;
    FEWSTEP_DTYPES(FEWSTEP_X)
#undef FEWSTEP_X
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  switch (t) {
#define FEWSTEP_X(name, text, code, bits) \
  case DType::name:                       \
    return text;
    FEWSTEP_DTYPES(FEWSTEP_X)
#undef FEWSTEP_X
  }
  return "?";
}

// False when the library has no such type.
inline bool dtype_of(uint8_t code, uint8_t bits, uint16_t lanes, DType* out) {
  if (lanes != 1) return false;
#define FEWSTEP_X(name, text, dl_code, dl_bits) \
  if (code == dl_code && bits == dl_bits) {     \
    *out = DType::name;                         \
    return true;                                \
  }
  FEWSTEP_DTYPES(FEWSTEP_X)
#undef FEWSTEP_X
  return false;
}

}  // namespace fewstep
