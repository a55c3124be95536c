// SPDX-License-Identifier: Apache-2.0
#include "tree/sample_children.h"

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/noise.h"
#include "fewstep/tree.h"
#include "logits/filters.h"
#include "tree/trees.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<SampleChildrenFn> kSampleChildren = FEWSTEP_KERNELS(sample_children);
constexpr const char* kFunction = "fewstep_tree_sample_children";
constexpr DTypeSet kIndex = only(DType::kI32);
constexpr DTypeSet kScore = only(DType::kF32);

void check_count(const ArgCheck& check, const char* name, int64_t count) {
  if (count < 1 || count > kMaxDraws) {
    check.fail(name, "must have 1 to 64 children per row", std::to_string(count));
  }
}

void take_inputs(const fewstep_tree_sample_children_args& args, ArgCheck& check,
                 SampleChildrenProblem* p) {
  const View given = check.in("logits", args.logits, kFloating, "R V");
  p->rows = logits::rows_of(given, nullptr, View{}, logits::Filters{}, check);
  const View seeds = check.in("seeds", args.seeds, kSeeds, "B");
  p->seeds = seeds.as<uint64_t>();
  p->seeds_stride = seeds.stride;
  const View positions = check.in("positions", args.positions, kIndex, "R");
  p->positions = positions.as<int32_t>();
  p->positions_stride = positions.stride;
  if (args.node) {
    const View node = check.in("node", args.node, kIndex, "R");
    p->node = node.as<int32_t>();
    p->node_stride = node.stride;
  }
  if (args.cum_logp) {
    const View cum = check.in("cum_logp", args.cum_logp, kScore, "R");
    p->cum_logp = cum.as<float>();
    p->cum_logp_stride = cum.stride;
  }
  if (args.parent_perturbed) {
    const View scores = check.in("parent_perturbed", args.parent_perturbed, kScore, "R");
    if (p->law != DrawLaw::kStochasticBeam) {
      check.fail("parent_perturbed", "must be left out but for the stochastic beam", "one");
    }
    p->parent_scores = scores.as<float>();
    p->parent_scores_stride = scores.stride;
  }
  if (args.d2t) {
    const View d2t = check.in("d2t", args.d2t, kIndex, "V");
    p->d2t = d2t.as<int32_t>();
    p->d2t_stride = d2t.stride;
  }
}

void take_outputs(const fewstep_tree_sample_children_args& args, ArgCheck& check,
                  SampleChildrenProblem* p) {
  const View draws = check.out("draws", args.draws, kIndex, "R K");
  p->draws = draws.as<int32_t>();
  p->draws_stride = draws.stride;
  check_count(check, "draws", check.dim('K'));
  const View logq = check.out("logq", args.logq, kScore, "R K");
  p->logq = logq.as<float>();
  p->logq_stride = logq.stride;
  if (p->law == DrawLaw::kIid && args.perturbed) {
    check.fail("perturbed", "must be left out for independent draws", "one");
  }
  if (p->law != DrawLaw::kIid) {
    const View perturbed = check.out("perturbed", args.perturbed, kScore, "R K");
    p->perturbed = perturbed.as<float>();
    p->perturbed_stride = perturbed.stride;
  }
  if (args.beam) {
    if (p->law == DrawLaw::kIid) {
      check.fail("beam", "must be left out for independent draws", "one");
    }
    const View beam = check.out("beam", args.beam, kIndex, "B M");
    check_count(check, "beam", check.dim('M'));
    p->M = int32_t(check.dim('M'));
    p->beam = beam.as<int32_t>();
    p->beam_stride = beam.stride;
  }
  if (args.status) {
    const View status = check.out("status", args.status, kIndex, "R");
    p->status = status.as<int32_t>();
    p->status_stride = status.stride;
  }
}

void run_sample_children(const fewstep_context* ctx,
                         const fewstep_tree_sample_children_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_SAMPLE_CHILDREN_ARGS_INIT");
  if (args->law < 0 || args->law > int(DrawLaw::kStochasticBeam)) {
    check.fail("law", "must be a fewstep_draw_law", std::to_string(args->law));
  }
  SampleChildrenProblem p{};
  p.law = DrawLaw(args->law);
  p.stream = FEWSTEP_STREAM_DRAFT;
  const Indices indptr(check.in("indptr", args->indptr, kIndex, "B+1"));
  take_inputs(*args, check, &p);
  p.filters = logits::check_filters(args->filters, "B", check);
  take_outputs(*args, check, &p);
  check.no_overlap();
  check_thread_settings();
  p.B = check.dim('B');
  p.K = int32_t(check.dim('K'));
  SampleChildrenFn& kernel = kSampleChildren.pick(check.device(), kFunction);
  if (check.can_read()) check_indptr(check, "indptr", indptr, p.B, p.rows.R, 'R');
  p.indptr = indptr.data;
  p.indptr_stride = indptr.stride;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::tree

extern "C" fewstep_status fewstep_tree_sample_children(
    const fewstep_context* ctx, const fewstep_tree_sample_children_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_sample_children(ctx, args); });
}
