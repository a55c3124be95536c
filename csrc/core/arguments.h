// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/status.h"

// Checks of arguments at the C boundary that are no tensors; see core/check.h for those.

namespace fewstep {

inline void not_null(const char* function, const char* argument, const void* pointer) {
  if (!pointer) {
    throw Error(FEWSTEP_INVALID_ARGUMENT, format("%s: '%s' must not be NULL", function, argument));
  }
}

inline void at_least(const char* function, const char* argument, int64_t least, int64_t value) {
  if (value < least) {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("%s: '%s' must be %lld or more, got %lld", function, argument,
                       static_cast<long long>(least), static_cast<long long>(value)));
  }
}

inline void within(const char* function, const char* argument, int64_t least, int64_t most,
                   int64_t value) {
  if (value >= least && value <= most) return;
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("%s: '%s' must lie in [%lld, %lld], got %lld", function, argument,
                     static_cast<long long>(least), static_cast<long long>(most),
                     static_cast<long long>(value)));
}

// A struct's size, which its INIT macro sets.
inline void sized(const char* function, const char* argument, uint32_t least, const char* init,
                  uint32_t size) {
  if (size >= least) return;
  throw Error(FEWSTEP_INVALID_ARGUMENT, format("%s: '%s' must have its size set by %s, got %u",
                                               function, argument, init, unsigned(size)));
}

}  // namespace fewstep
