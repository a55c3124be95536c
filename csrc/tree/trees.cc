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

void check_ids(const ArgCheck& check, const View& ids, int64_t S, int64_t V) {
  for (int64_t r = 0; r < ids.rows; ++r) {
    const int32_t* id = ids.as<const int32_t>() + r * ids.stride;
    for (int64_t s = 0; s < S; ++s) {
      if (id[s] > (s > 0 ? id[s - 1] : -1) && id[s] < V) continue;
      check.fail("draft_ids", format("must ascend within [0, %lld)", static_cast<long long>(V)),
                 format("%d at [%lld, %lld]", int(id[s]), static_cast<long long>(r),
                        static_cast<long long>(s)));
    }
  }
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

DraftLaws draft_laws(const ArgCheck& check, const View& draft, const View& ids, int64_t V) {
  const int64_t S = check.dim('S');
  if (check.can_read()) check_ids(check, ids, S, V);
  if (!ids.data && S != V) {
    check.fail("draft",
               format("must have V=%lld columns without draft_ids", static_cast<long long>(V)),
               std::to_string(S));
  }
  return {draft.as<const float>(), draft.rows > 1 ? draft.stride : 0, S, ids.as<const int32_t>(),
          ids.rows > 1 ? ids.stride : 0};
}

}  // namespace fewstep::tree
