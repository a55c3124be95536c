// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "fewstep/fewstep.h"
#include "layout.h"

int main() {
  const std::vector<size_t> own = layout_of<fewstep_tensor>();
  const std::vector<size_t> real = dlpack_layout();
  check_face_over_dlpack();
  for (size_t i = 0; i < own.size(); ++i) {
    if (own[i] == real[i]) continue;
    std::fprintf(stderr, "entry %zu of layout_of: fewstep has %zu, dlpack.h has %zu\n", i, own[i],
                 real[i]);
    return 1;
  }
  return 0;
}
