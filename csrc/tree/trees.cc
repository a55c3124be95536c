// SPDX-License-Identifier: Apache-2.0
#include "tree/trees.h"

namespace fewstep::tree {
namespace {

[[noreturn]] void fail_parent(const ArgCheck& check, int64_t b, int64_t i, int32_t parent) {
  if (i == 0) {
    check.fail("parent", format("must be -1 at the root, node 0 of request %d", int(b)),
               std::to_string(parent));
  }
  if (parent == -1) {
    check.fail("parent",
               format("must have one root per request, so an earlier node at node %d of request %d",
                      int(i), int(b)),
               "-1");
  }
  check.fail("parent",
             format("must be an earlier node, in [0, %d), at node %d of request %d", int(i), int(i),
                    int(b)),
             std::to_string(parent));
}

}  // namespace

void check_parents(const ArgCheck& check, Indices parent, Indices indptr, int64_t B) {
  for (int64_t b = 0; b < B; ++b) {
    const int64_t begin = indptr[b], size = indptr[b + 1] - begin;
    if (size > 0 && parent[begin] != -1) fail_parent(check, b, 0, parent[begin]);
    for (int64_t i = 1; i < size; ++i) {
      const int32_t p = parent[begin + i];
      if (p < 0 || p >= i) fail_parent(check, b, i, p);
    }
  }
}

}  // namespace fewstep::tree
