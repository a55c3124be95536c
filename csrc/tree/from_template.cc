// SPDX-License-Identifier: Apache-2.0
#include "tree/from_template.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/tree.h"
#include "tree/trees.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<FromTemplateFn> kFromTemplate = FEWSTEP_KERNELS(from_template);
constexpr const char* kFunction = "fewstep_tree_from_template";

// The template is one tree whose ranks choose among K candidates and whose nodes have a head each.
void check_template(const ArgCheck& check, const FromTemplateProblem& p) {
  const int32_t ends[2] = {0, int32_t(p.Q)};
  Indices parent, rank, indptr;
  parent.data = p.parent;
  parent.stride = p.parent_stride;
  rank.data = p.rank;
  rank.stride = p.rank_stride;
  indptr.data = ends;
  check_parents(check, parent, indptr, 1);
  for (int64_t i = 1; i < p.Q; ++i) {
    if (rank[i] < 0 || rank[i] >= p.K) {
      check.fail("rank",
                 format("must lie in [0, K=%lld) at node %d", static_cast<long long>(p.K), int(i)),
                 std::to_string(rank[i]));
    }
    int64_t depth = 0;
    for (int64_t at = i; p.heads && at > 0; at = parent[at]) ++depth;
    if (p.heads && depth > p.H) {
      check.fail("parent",
                 format("must give depths of at most H=%lld at node %d",
                        static_cast<long long>(p.H), int(i)),
                 std::to_string(depth));
    }
  }
}

void check_roots(const ArgCheck& check, const FromTemplateProblem& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    const int32_t root = p.root[b * p.root_stride];
    if (root < 0 || (p.table && root >= p.V)) {
      check.fail("root",
                 p.table ? format("must lie in [0, V=%lld) for request %d",
                                  static_cast<long long>(p.V), int(b))
                         : format("must be 0 or more for request %d", int(b)),
                 std::to_string(root));
    }
  }
}

void run_from_template(const fewstep_context* ctx, const fewstep_tree_from_template_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_FROM_TEMPLATE_ARGS_INIT");
  if (!args->table == !args->heads) {
    check.fail("table", "must be given or else 'heads'", args->table ? "both" : "neither");
  }
  const DTypeSet index = only(DType::kI32);
  FromTemplateProblem p{};
  const Indices parent(check.in("parent", args->parent, index, "Q"));
  const Indices rank(check.in("rank", args->rank, index, "Q"));
  const Indices root(check.in("root", args->root, index, "B"));
  if (args->table) {
    const View table = check.in("table", args->table, index, "V K");
    p.table = table.as<int32_t>();
    p.table_stride = table.stride;
    p.V = check.dim('V');
  } else {
    const View candidates = check.in("heads", args->heads, index, "B H K");
    p.heads = candidates.as<int32_t>();
    p.heads_stride = candidates.stride;
    p.H = check.dim('H');
  }
  const View tokens = check.out("tokens", args->tokens, index, "B Q");
  check.no_overlap();
  check_thread_settings();
  p.B = check.dim('B');
  p.Q = check.dim('Q');
  p.K = check.dim('K');
  if (p.Q < 1) check.fail("parent", "must have a root", "no nodes");
  p.parent = parent.data;
  p.parent_stride = parent.stride;
  p.rank = rank.data;
  p.rank_stride = rank.stride;
  p.root = root.data;
  p.root_stride = root.stride;
  FromTemplateFn& kernel = kFromTemplate.pick(check.device(), kFunction);
  if (check.can_read()) {
    check_template(check, p);
    check_roots(check, p);
  }
  if (p.B == 0) return;
  p.tokens = tokens.as<int32_t>();
  p.tokens_stride = tokens.stride;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::tree

extern "C" fewstep_status fewstep_tree_from_template(const fewstep_context* ctx,
                                                     const fewstep_tree_from_template_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_from_template(ctx, args); });
}
