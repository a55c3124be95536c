// SPDX-License-Identifier: Apache-2.0
#include "core/indptr.h"

namespace fewstep {

int64_t check_indptr(const ArgCheck& check, const char* name, Indices indptr, int64_t B, int64_t N,
                     char letter) {
  if (indptr[0] != 0) check.fail(name, "must begin with 0", std::to_string(indptr[0]));
  int64_t largest = 0;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t size = int64_t(indptr[b + 1]) - indptr[b];
    if (size < 0) {
      check.fail(name, format("must ascend, so be %d or more at %d", indptr[b], int(b + 1)),
                 std::to_string(indptr[b + 1]));
    }
    largest = size > largest ? size : largest;
  }
  if (indptr[B] != N) {
    check.fail(name, format("must end with %c=%lld", letter, static_cast<long long>(N)),
               std::to_string(indptr[B]));
  }
  return largest;
}

}  // namespace fewstep
