// SPDX-License-Identifier: Apache-2.0
#include "tree/verify.h"

#include <cmath>

#include "core/check.h"
#include "core/cpu/parallel.h"
#include "core/execute.h"
#include "fewstep/verify.h"
#include "logits/filters.h"
#include "tree/trees.h"

namespace fewstep::tree {
namespace {

constexpr KernelSet<VerifyFn> kVerify = FEWSTEP_KERNELS(verify);
constexpr const char* kFunction = "fewstep_tree_verify";
constexpr const char* kRules[] = {"greedy", "match", "target_only", "chain",   "rrs",
                                  "k_seq",  "block", "canonical",   "typical", "adjusted_target"};
constexpr const char* kLaws[] = {"deterministic", "iid", "without_replacement", "external_weights"};
constexpr DTypeSet kIndex = only(DType::kI32);
constexpr int kRuleCount = sizeof kRules / sizeof kRules[0];
constexpr int kLawCount = sizeof kLaws / sizeof kLaws[0];

// Which rules do what they say for drafts of a law.
bool is_legal(Rule rule, Law law) {
  const bool is_drawn = law == Law::kIid || law == Law::kWithoutReplacement;
  switch (rule) {
    case Rule::kChain:
    case Rule::kBlock:
      return law != Law::kExternalWeights;
    case Rule::kRrs:
    case Rule::kAdjustedTarget:
      return is_drawn;
    case Rule::kKSeq:
      return law == Law::kIid;
    case Rule::kCanonical:
      return law == Law::kExternalWeights;
    default:
      return true;
  }
}
bool needs_draft(Rule rule, Law law) {
  switch (rule) {
    case Rule::kChain:
    case Rule::kBlock:
      return law != Law::kDeterministic;
    case Rule::kRrs:
    case Rule::kKSeq:
    case Rule::kCanonical:
    case Rule::kAdjustedTarget:
      return true;
    default:
      return false;
  }
}
bool needs_one_child(Rule rule) {
  return rule == Rule::kChain || rule == Rule::kBlock || rule == Rule::kAdjustedTarget;
}

void check_pair(const fewstep_tree_verify_args& args, const ArgCheck& check) {
  if (args.rule < 0 || args.rule >= kRuleCount) {
    check.fail("rule", "must be a fewstep_verify_rule", std::to_string(args.rule));
  }
  if (args.law < 0 || args.law >= kLawCount) {
    check.fail("law", "must be a fewstep_draft_law", std::to_string(args.law));
  }
  if (is_legal(Rule(args.rule), Law(args.law))) return;
  std::string allowed;
  for (int r = 0; r < kRuleCount; ++r) {
    if (is_legal(Rule(r), Law(args.law)))
      allowed += (allowed.empty() ? "" : ", ") + std::string(kRules[r]);
  }
  check.fail("rule", "must be one of " + allowed + " for drafts of law " + kLaws[args.law],
             kRules[args.rule]);
}

VerifyParams check_params(const fewstep_verify_params& params, const ArgCheck& check) {
  const struct {
    const char* name;
    double value;
  } all[] = {{"epsilon", params.epsilon}, {"delta", params.delta}, {"share", params.share}};
  for (const auto& one : all) {
    if (one.value >= 0.0 && one.value < HUGE_VAL) continue;
    check.fail(one.name, "must be finite and 0 or more", format("%g", one.value));
  }
  constexpr int kStrongest = 80;  // exp of more is none in float32
  if (!(params.strength >= 0.0 && params.strength <= kStrongest)) {
    check.fail("strength", format("must lie in 0 to %d", kStrongest),
               format("%g", params.strength));
  }
  return {params.epsilon, params.delta, float(params.strength), float(params.share)};
}

template <class T>
Vector<T> vector_of(const View& v) {
  return {v.as<T>(), v.stride};
}

// Tokens are below V; negative ones are nodes that nothing can accept.
void check_tokens(const ArgCheck& check, Indices token, int64_t N, int64_t V) {
  for (int64_t i = 0; i < N; ++i) {
    if (token[i] < V) continue;
    check.fail("token", format("must be below V=%lld", static_cast<long long>(V)),
               format("%d at %lld", int(token[i]), static_cast<long long>(i)));
  }
}

void check_depths(const ArgCheck& check, const VerifyProblem& p, Indices parent, Indices indptr) {
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t begin = indptr[b], size = indptr[b + 1] - begin;
    for (int64_t i = 1; i < size; ++i) {
      int64_t depth = 0;
      for (int64_t at = i; at > 0; at = parent[begin + at]) ++depth;
      if (depth <= p.D) continue;
      check.fail("path",
                 format("must have a column for each level of the trees, %lld or more",
                        static_cast<long long>(depth)),
                 std::to_string(p.D));
    }
  }
}

// The list of draws names children of the node that it belongs to.
void check_draws(const ArgCheck& check, const VerifyProblem& p, Indices parent, Indices indptr) {
  const Indices begin = [&] {
    Indices i;
    i.data = p.draw_indptr.data;
    i.stride = p.draw_indptr.stride;
    return i;
  }();
  check_indptr(check, "draw_indptr", begin, p.N, p.K, 'K');
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t first = indptr[b], size = indptr[b + 1] - first;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t d = begin[first + i]; d < begin[first + i + 1]; ++d) {
        const int32_t child = p.draw_node.data[d * p.draw_node.stride];
        if (child > 0 && child < size && parent[first + child] == i) continue;
        check.fail("draw_node", format("must be a child of node %d of request %d", int(i), int(b)),
                   format("%d at %lld", int(child), static_cast<long long>(d)));
      }
    }
  }
}

// Canonical picks one of a node's draws by its weight.
void check_weights(const ArgCheck& check, const VerifyProblem& p, Indices indptr) {
  if (p.rule != Rule::kCanonical) return;
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t i = indptr[b]; i < indptr[b + 1]; ++i) {
      const int64_t begin = at(p.draw_indptr, i), end = at(p.draw_indptr, i + 1);
      if (end - begin > FEWSTEP_MAX_DRAWS) {
        check.fail(
            "draw_indptr",
            format("must give a node %d draws at most for rule canonical", FEWSTEP_MAX_DRAWS),
            format("%lld at %lld", static_cast<long long>(end - begin), static_cast<long long>(i)));
      }
      bool is_draw = false;
      double sum = 0.0;
      for (int64_t d = begin; d < end; ++d) {
        const float weight = at(p.draw_weight, d);
        if (!(weight >= 0.0f && weight < HUGE_VALF)) {
          check.fail("draw_weight", "must be finite and 0 or more",
                     format("%g at %lld", double(weight), static_cast<long long>(d)));
        }
        if (at(p.token, indptr[b] + at(p.draw_node, d)) < 0) continue;
        is_draw = true;
        sum += weight;
      }
      if (is_draw && !(sum > 0.0)) {
        check.fail("draw_weight", "must be above 0 for one of a node's draws",
                   format("0 for all of node %lld", static_cast<long long>(i)));
      }
    }
  }
}

void check_sizes(const ArgCheck& check, const VerifyProblem& p, Indices indptr) {
  if (p.rule != Rule::kTypical) return;
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t size = indptr[b + 1] - indptr[b];
    if (size <= FEWSTEP_MAX_TYPICAL_NODES) continue;
    check.fail(
        "indptr",
        format("must give a tree %d nodes at most for rule typical", FEWSTEP_MAX_TYPICAL_NODES),
        format("%lld in request %d", static_cast<long long>(size), int(b)));
  }
}

void check_one_draw(const ArgCheck& check, const VerifyProblem& p, Indices parent, Indices indptr) {
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t first = indptr[b], size = indptr[b + 1] - first;
    for (int64_t i = 2; i < size; ++i) {
      for (int64_t j = 1; j < i; ++j) {
        if (parent[first + i] != parent[first + j]) continue;
        check.fail(
            "parent",
            "must give a node one child at most for rule " + std::string(kRules[int(p.rule)]),
            format("nodes %d and %d of request %d", int(j), int(i), int(b)));
      }
    }
  }
}

// The target's logits, or for some rules the tokens that it chose.
void take_target(const fewstep_tree_verify_args& args, ArgCheck& check, VerifyProblem* p) {
  if (args.target_token) {
    if (p->rule != Rule::kGreedy && p->rule != Rule::kMatch) {
      check.fail("target_token", "must be left out but for rules greedy and match", "one");
    }
    const auto leave_out = [&](const char* name, const fewstep_tensor* tensor) {
      if (tensor) check.fail(name, "must be left out with target_token", "one");
    };
    leave_out("logits", args.logits);
    leave_out("bitmask", args.bitmask);
    leave_out("logprobs", args.logprobs);
    p->target_token = vector_of<const int32_t>(
        check.in("target_token", args.target_token, only(DType::kI32), "N"));
    p->V = INT32_MAX;
    return;
  }
  const View logits = check.in("logits", args.logits, kFloating, "N V");
  p->logits = logits.as<const char>();
  p->logits_pitch = logits.stride * size_of(logits.dtype);
  p->dtype = logits.dtype;
  p->V = check.dim('V');
  if (p->V > INT32_MAX) {
    check.fail("logits", "must have less than 2^31 per row",
               std::to_string(static_cast<long long>(p->V)));
  }
  if (args.bitmask) {
    const View mask = check.in("bitmask", args.bitmask, kBitWords, "N W");
    p->bitmask = mask.as<const uint32_t>();
    p->bitmask_stride = mask.stride;
  }
  logits::check_words(args.bitmask, p->V, check);
}

void take_draft(const fewstep_tree_verify_args& args, ArgCheck& check, VerifyProblem* p) {
  if (!needs_draft(p->rule, p->law)) return;
  const View draft = check.in("draft", args.draft, only(DType::kF32), "M S");
  View ids;
  if (args.draft_ids) ids = check.in("draft_ids", args.draft_ids, only(DType::kI32), "1|M S");
  const DraftLaws laws = draft_laws(check, draft, ids, p->V);
  p->draft = laws.q;
  p->draft_stride = laws.stride;
  p->S = laws.S;
  p->draft_ids = laws.ids;
  p->draft_ids_stride = laws.ids_stride;
  p->M = check.dim('M');
  if (!args.draft_row) {
    if (p->M < p->N)
      check.fail("draft",
                 format("must have a row for each of N=%lld nodes without draft_row",
                        static_cast<long long>(p->N)),
                 std::to_string(p->M));
    return;
  }
  const View rows = check.in("draft_row", args.draft_row, only(DType::kI32), "N");
  p->draft_row = vector_of<const int32_t>(rows);
  for (int64_t i = 0; check.can_read() && i < p->N; ++i) {
    const int32_t row = at(p->draft_row, i);
    if (row >= 0 && row < p->M) continue;
    check.fail("draft_row", format("must lie in [0, M=%lld)", static_cast<long long>(p->M)),
               format("%d at %lld", int(row), static_cast<long long>(i)));
  }
}

void take_draws(const fewstep_tree_verify_args& args, ArgCheck& check, VerifyProblem* p) {
  if (!args.draw_indptr != !args.draw_node) {
    check.fail("draw_node", "must be given together with draw_indptr", "one of them");
  }
  if (args.draw_indptr) {
    p->draw_indptr =
        vector_of<const int32_t>(check.in("draw_indptr", args.draw_indptr, kIndex, "N+1"));
    p->draw_node = vector_of<const int32_t>(check.in("draw_node", args.draw_node, kIndex, "K"));
    p->K = check.dim('K');
  }
  if (p->rule != Rule::kCanonical) return;
  if (!args.draw_indptr) {
    check.fail("draw_indptr", "must be given for rule canonical", "NULL");
  }
  p->draw_weight =
      vector_of<const float>(check.in("draw_weight", args.draw_weight, only(DType::kF32), "K"));
}

void take_outputs(const fewstep_tree_verify_args& args, ArgCheck& check, VerifyProblem* p) {
  const View path = check.out("path", args.path, kIndex, "B D");
  p->path = path.as<int32_t>();
  p->path_stride = path.stride;
  p->D = check.dim('D');
  p->accepted = vector_of<int32_t>(check.out("accepted", args.accepted, kIndex, "B"));
  p->next_token = vector_of<int32_t>(check.out("next_token", args.next_token, kIndex, "B"));
  if (args.status) p->status = vector_of<int32_t>(check.out("status", args.status, kIndex, "B"));
  if (!args.logprobs) return;
  const View l = check.out("logprobs", args.logprobs, only(DType::kF32), "B E");
  if (check.dim('E') != p->D + 1) {
    check.fail("logprobs",
               format("must have D + 1 = %lld columns", static_cast<long long>(p->D + 1)),
               std::to_string(check.dim('E')));
  }
  p->logprobs = l.as<float>();
  p->logprobs_stride = l.stride;
}

// What the host can read.
void check_values(const ArgCheck& check, const VerifyProblem& p, Indices parent, Indices indptr,
                  Indices token) {
  check_indptr(check, "indptr", indptr, p.B, p.N, 'N');
  check_parents(check, parent, indptr, p.B);
  check_tokens(check, token, p.N, p.V);
  check_depths(check, p, parent, indptr);
  if (p.draw_indptr.data) check_draws(check, p, parent, indptr);
  check_weights(check, p, indptr);
  check_sizes(check, p, indptr);
  if (needs_one_child(p.rule)) check_one_draw(check, p, parent, indptr);
}

void run_verify(const fewstep_context* ctx, const fewstep_tree_verify_args* args) {
  ArgCheck check(kFunction, ctx);
  check.sized("args", args, "FEWSTEP_TREE_VERIFY_ARGS_INIT");
  check_pair(*args, check);
  VerifyProblem p{};
  p.rule = Rule(args->rule);
  p.law = Law(args->law);
  p.params = check_params(args->params, check);
  const View parent = check.in("parent", args->parent, kIndex, "N");
  const View indptr = check.in("indptr", args->indptr, kIndex, "B+1");
  const View token = check.in("token", args->token, kIndex, "N");
  p.N = check.dim('N');
  take_target(*args, check, &p);
  const View seeds = check.in("seeds", args->seeds, kSeeds, "B");
  const View positions = check.in("positions", args->positions, kIndex, "B");
  p.B = check.dim('B');
  p.filters = logits::check_filters(args->filters, "B", check);
  p.parent = vector_of<const int32_t>(parent);
  p.indptr = vector_of<const int32_t>(indptr);
  p.token = vector_of<const int32_t>(token);
  p.seeds = vector_of<const uint64_t>(seeds);
  p.positions = vector_of<const int32_t>(positions);
  take_draft(*args, check, &p);
  take_outputs(*args, check, &p);
  take_draws(*args, check, &p);
  if (check.can_read()) check_values(check, p, Indices(parent), Indices(indptr), Indices(token));
  check.no_overlap();
  check_thread_settings();
  VerifyFn& kernel = kVerify.pick(check.device(), kFunction);
  if (p.B > 0) execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::tree

extern "C" fewstep_status fewstep_tree_verify(const fewstep_context* ctx,
                                              const fewstep_tree_verify_args* args) {
  return fewstep::guard([&] { fewstep::tree::run_verify(ctx, args); });
}
