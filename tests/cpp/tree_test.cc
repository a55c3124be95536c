// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fewstep/fewstep.hpp"

using fewstep::TensorRef;

namespace {

using Ints = std::vector<int32_t>;

std::string build(const Ints& parent, const Ints& indptr, Ints* depth, Ints* first, Ints* next,
                  int32_t max_depth = -1) {
  const TensorRef parent_ref(parent), indptr_ref(indptr), depth_ref(*depth), first_ref(*first),
      next_ref(*next);
  const fewstep_tensor parent_view = parent_ref.view(), indptr_view = indptr_ref.view(),
                       depth_view = depth_ref.view(), first_view = first_ref.view(),
                       next_view = next_ref.view();
  fewstep_tree_build_args args = FEWSTEP_TREE_BUILD_ARGS_INIT;
  args.max_depth = max_depth;
  args.parent = &parent_view;
  args.indptr = &indptr_view;
  args.depth = &depth_view;
  args.first_child = &first_view;
  args.next_sibling = &next_view;
  return fewstep_tree_build(nullptr, &args) == FEWSTEP_OK ? "" : fewstep_last_error();
}

}  // namespace

TEST_CASE("a tree is built from its parents, or refused whole") {
  const Ints indptr = {0, 4, 4, 5};
  Ints depth(5, 9), first(5, 9), next(5, 9);
  CHECK(build({-1, 0, 0, 3, -1}, indptr, &depth, &first, &next) ==
        "fewstep_tree_build: 'parent' must be an earlier node, in [0, 3), at node 3 of request 0, "
        "got 3");
  CHECK(build({-1, 0, 0, 1, -1}, indptr, &depth, &first, &next, 1) ==
        "fewstep_tree_build: 'parent' must give depths of at most max_depth=1 at node 3 of request "
        "0, got 2");
  CHECK(depth == Ints(5, 9));
  CHECK(build({-1, 0, 0, 1, -1}, indptr, &depth, &first, &next) == "");
  CHECK(depth == Ints{0, 1, 1, 2, 0});
  CHECK(first == Ints{1, 3, -1, -1, -1});
  CHECK(next == Ints{-1, 2, -1, -1, -1});
}

TEST_CASE("arguments of another size are refused") {
  fewstep_tree_build_args args = FEWSTEP_TREE_BUILD_ARGS_INIT;
  args.size = 8;
  CHECK(fewstep_tree_build(nullptr, &args) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) ==
        "fewstep_tree_build: 'args' must have its size set by FEWSTEP_TREE_BUILD_ARGS_INIT, got 8");
}
