// SPDX-License-Identifier: Apache-2.0
#include "tree/build.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/tree.h"
#include "tree/trees.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<BuildFn> kBuild = FEWSTEP_KERNELS(build);
constexpr const char* kFunction = "fewstep_tree_build";

// The depths are written by the kernel; a tree that is too deep must be found before.
void check_depth(const ArgCheck& check, Indices parent, Indices indptr, int64_t B,
                 int32_t max_depth) {
  if (max_depth < 0) return;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t begin = indptr[b], size = indptr[b + 1] - begin;
    for (int64_t i = 1; i < size; ++i) {
      int64_t depth = 0, at = i;
      while (at > 0 && depth <= max_depth) {
        at = parent[begin + at];
        ++depth;
      }
      if (depth > max_depth) {
        check.fail("parent",
                   format("must give depths of at most max_depth=%d at node %d of request %d",
                          max_depth, int(i), int(b)),
                   std::to_string(depth));
      }
    }
  }
}

void check_trees(const ArgCheck& check, Indices parent, Indices indptr, const BuildProblem& p,
                 int32_t max_depth) {
  const int64_t largest = check_indptr(check, "indptr", indptr, p.B, p.N, 'N');
  if (p.bits && largest > 32 * p.W) {
    check.fail("bits",
               format("must have %lld words per node or more, a bit for each node of a request",
                      static_cast<long long>((largest + 31) / 32)),
               std::to_string(p.W));
  }
  check_parents(check, parent, indptr, p.B);
  check_depth(check, parent, indptr, p.B, max_depth);
}

int32_t* output(const View& v, int64_t* stride) {
  *stride = v.stride;
  return v.as<int32_t>();
}

void run_build(const fewstep_context* ctx, const fewstep_tree_build_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_BUILD_ARGS_INIT");
  const DTypeSet index = only(DType::kI32);
  BuildProblem p{};
  const Indices parent(check.in("parent", args->parent, index, "N"));
  const Indices indptr(check.in("indptr", args->indptr, index, "B+1"));
  p.depth = output(check.out("depth", args->depth, index, "N"), &p.depth_stride);
  if (!args->first_child != !args->next_sibling) {
    check.fail("first_child", "must be given together with next_sibling", "one of them");
  }
  if (args->first_child) {
    p.first_child =
        output(check.out("first_child", args->first_child, index, "N"), &p.first_child_stride);
    p.next_sibling =
        output(check.out("next_sibling", args->next_sibling, index, "N"), &p.next_sibling_stride);
  }
  if (args->positions) {
    p.positions = output(check.out("positions", args->positions, index, "N"), &p.positions_stride);
  }
  if (args->base) {
    const Indices base(check.in("base", args->base, index, "B"));
    p.base = base.data;
    p.base_stride = base.stride;
  }
  if (args->bits) {
    const View bits = check.out("bits", args->bits, kBitWords, "N W");
    p.bits = bits.as<uint32_t>();
    p.bits_stride = bits.stride;
    p.W = check.dim('W');
  }
  check.no_overlap();
  check_thread_settings();
  p.B = check.dim('B');
  p.N = check.dim('N');
  BuildFn& kernel = kBuild.pick(check.device(), kFunction);
  if (check.can_read()) check_trees(check, parent, indptr, p, args->max_depth);
  if (p.N == 0) return;
  p.parent = parent.data;
  p.parent_stride = parent.stride;
  p.indptr = indptr.data;
  p.indptr_stride = indptr.stride;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::tree

extern "C" fewstep_status fewstep_tree_build(const fewstep_context* ctx,
                                             const fewstep_tree_build_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_build(ctx, args); });
}
