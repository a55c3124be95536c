// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/check.h"
#include "linear/layout.h"

// Checks that the family's ops share.
namespace fewstep::linear {

inline bool is_kind(int32_t kind) { return kind >= 0 && kind < kKinds; }
inline bool is_group(int32_t kind, int32_t group) {
  return kind != int32_t(Kind::kInt4) || group == 32 || group == 64;
}

inline bool is_quantised(Kind kind) { return kind == Kind::kInt8 || kind == Kind::kInt4; }

inline DTypeSet unpacked_types(Kind kind) {
  return is_quantised(kind) ? DType::kF32 | DType::kF16 | DType::kBF16 : only(dtype_of(kind));
}

inline void check_kind(const ArgCheck& check, int32_t kind, int32_t group) {
  if (!is_kind(kind)) check.fail("kind", "must lie in [0, 4]", std::to_string(kind));
  if (!is_group(kind, group)) {
    check.fail("group", "must be 32 or 64 for int4", std::to_string(group));
  }
}

// After the shapes of [O, I] are bound: neither may be 0.
inline void check_sizes(const ArgCheck& check, ArgName name) {
  if (check.dim('O') < 1 || check.dim('I') < 1) {
    check.fail(name, "must belong to 1 or more inputs and outputs",
               format("%lld and %lld", static_cast<long long>(check.dim('I')),
                      static_cast<long long>(check.dim('O'))));
  }
}

inline void check_contiguous(const ArgCheck& check, ArgName name, const View& v) {
  if (v.rows > 1 && v.stride != 1) check.fail(name, "must be contiguous", "a strided layout");
}

// A tensor [P] of packed weights.
inline char* packed_memory(const ArgCheck& check, ArgName name, const View& v, int32_t kind,
                           int32_t group) {
  const int64_t bytes = packed_bytes(Kind(kind), check.dim('O'), check.dim('I'), group);
  if (v.rows != bytes) {
    check.fail(
        name,
        format("must have the %lld bytes of O=%lld, I=%lld", static_cast<long long>(bytes),
               static_cast<long long>(check.dim('O')), static_cast<long long>(check.dim('I'))),
        std::to_string(v.rows));
  }
  check_contiguous(check, name, v);
  return v.as<char>();
}

// What CUDA's products want beside: they read packed weights 16 bytes at a time and count inputs in
// 32 bits.
inline void check_for_cuda(const ArgCheck& check, ArgName name, const char* packed) {
  if (!check.is_for_cuda()) return;
  const int past = static_cast<int>(reinterpret_cast<uintptr_t>(packed) % 16);
  if (past != 0) {
    check.fail(name, "must begin at a multiple of 16 bytes on CUDA",
               format("%d bytes past one", past));
  }
  if (check.dim('I') > INT32_MAX / 4) {
    check.fail(name, "must have fewer than 2^29 inputs on CUDA",
               std::to_string(static_cast<long long>(check.dim('I'))));
  }
}

}  // namespace fewstep::linear
