// SPDX-License-Identifier: Apache-2.0
#include "tree/cuda/verify_left.h"
#include "tree/verify.h"

// Mapping: a cluster has a request, and reads the rows that it visits on its way down the tree.
// What rules decide is one thread's of each block; draws, laws and what is left of them are all
// threads'. The loops have one place each from which a row is analysed, what is left is weighed and
// a token is drawn: these are most of the code. Requires: contiguous rows. A child is a later node
// of the request, what is no token is none, and a path ends where `path` does: nobody looked at
// them before.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::kRowFine;
using logits::RowStatus;

struct VerifyKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Shared = VerifyShared;

  VerifyProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    Request request = request_of(p, block.index);
    const bool is_typical = p.rule == Rule::kTypical;
    if (is_typical && request.size > kMaxTypical) request.size = kMaxTypical;
    block.each([&](int t) {  // a Result is found where it is used: kept, it would hold registers
      Result(p, block.index).cut(t, kThreads);
      if (is_typical) start_standing((int32_t)request.size, &s.standing, t, kThreads);
      if (t != 0) return;
      s.path = start_path(request);
      s.is_last = 0;
      start_path(&s.decision);
    });
    RowStatus status = kRowFine;
    for (;;) {
      const int32_t node = block.get(s.path.node);
      if (node < 0) break;
      const bool stands = is_typical && block.get(s.is_last) == 0;
      list_draws(block, request, node, &s);
      const bool is_read = !stands || s.draws.count > 0;
      if (is_read) status = find_target(block, request, node, &s);
      if (stands) {
        if (is_read && status == kRowFine) let_stand(block, request, node, &s);
        go_to_next(block, request, node, &s);
        continue;
      }
      if (status != kRowFine) break;
      decide(block, request, node, &s);
      block.each([&](int t) {
        if (t == 0) follow(Walk(request, s), s.decision, Result(p, block.index), &s.path);
      });
    }
    block.each_alone([&](int t) {
      if (t == 0) end_path(Walk(request, s), status, Result(p, block.index), s.path);
    });
  }

  // Draws of a node in their order; none where the path has no room for them.
  FEWSTEP_HOST_DEVICE void list_draws(const Block& block, const Request& request, int32_t node,
                                      Shared* s) const {
    Draws* const draws = &s->draws;
    const bool is_typical = p.rule == Rule::kTypical;
    const int32_t depth = is_typical ? s->standing.depth[node] : s->path.depth;
    const bool ends = depth >= p.D || (is_typical && s->is_last != 0);
    const Request::Places places = ends ? Request::Places{0, 0} : request.places(node);
    block.each([&](int t) {
      if (t == 0) draws->count = 0;
    });
    for (int64_t from = places.begin; from < places.end; from += kThreads) {
      block.each([&](int t) {
        if (t < kThreads / 32) s->are_draws[t] = 0;
      });
      block.each([&](int t) {
        const bool is_draw = from + t < places.end && request.draw_at(node, from + t) >= 0;
        if (is_draw) gpu::atomic_or(&s->are_draws[t / 32], 1u << t % 32);
      });
      block.each([&](int t) {
        if (!(s->are_draws[t / 32] >> t % 32 & 1u)) return;
        int i = draws->count + gpu::ones_of(s->are_draws[t / 32] & ((1u << t % 32) - 1u));
        for (int j = 0; j < t / 32; ++j) i += gpu::ones_of(s->are_draws[j]);
        if (i >= kMaxDraws) return;
        draws->node[i] = request.draw_at(node, from + t);
        draws->token[i] = request.token(draws->node[i]);
        draws->place[i] = from + t;
      });
      block.each([&](int t) {
        if (t != 0) return;
        int count = draws->count;
        for (int j = 0; j < kThreads / 32; ++j) count += gpu::ones_of(s->are_draws[j]);
        draws->count = count < kMaxDraws ? count : kMaxDraws;
      });
      if (block.get(draws->count) == kMaxDraws) return;
    }
  }

  FEWSTEP_HOST_DEVICE bool is_known() const {
    return p.rule == Rule::kGreedy || p.target_token.data;
  }

  // The target's law after a node, or the token that it chose. Greedy's is the law at temperature
  // 0; the other is found for the sake of log-probabilities.
  FEWSTEP_HOST_DEVICE RowStatus find_target(const Block& block, const Request& request,
                                            int32_t node, Shared* s) const {
    if (p.target_token.data) {
      block.each([&](int t) {
        if (t == 0) s->token = at(p.target_token, request.first + node);
      });
      return block.get(s->token) < 0 ? logits::kRowEmpty : kRowFine;
    }
    FEWSTEP_NO_UNROLL
    for (int is_best = p.rule == Rule::kGreedy ? 1 : 0;; is_best = 0) {
      block.each([&](int t) {
        if (t != 0) return;
        logits::RowSpec row = request.row(node);
        if (is_best) row.temperature = 0.0f;
        logits::FEWSTEP_ISA::put_row(row, p.logits_pitch, &s->law.law.row);
      });
      const RowStatus status = analyse_row(block, &s->law);
      if (status != kRowFine) return status;
      hold(block, s);
      if (!is_best) return kRowFine;
      block.each([&](int t) {
        if (t == 0) s->token = s->held.few.ids[0];
      });
      if (!p.logprobs) return kRowFine;
    }
  }

  FEWSTEP_HOST_DEVICE void decide(const Block& block, const Request& request, int32_t node,
                                  Shared* s) const {
    if (is_known()) {
      block.each([&](int t) {
        if (t == 0) take_token(s->draws, s->token, &s->decision);
      });
      return;
    }
    const DraftLaw q = p.draft ? request.draft(node) : DraftLaw{};
    block.each([&](int t) {
      if (t == 0) start(node, s->path.depth, &s->decision);
    });
    FEWSTEP_NO_UNROLL
    for (;;) {
      block.each([&](int t) {
        if (t == 0) Rules<Walk>(Walk(request, *s), &s->decision).go_on();
      });
      const Ask ask = block.get(s->decision.ask);
      if (ask == Ask::kNothing) return;
      if (ask == Ask::kMass) {
        weigh(block, q, s);
      } else if (ask == Ask::kMost) {
        find_most(block, q, s);
      } else {
        const int64_t token = draw_token(block, ask == Ask::kTokenLeft, q, s);
        block.each([&](int t) {
          if (t == 0) s->decision.token = token;
        });
      }
    }
  }

  // The sum of w log w over the law's weights w.
  FEWSTEP_HOST_DEVICE double sum_logs(const Block& block, Shared* s) const {
    LawShared* const law = &s->law;
    if (law->law.count < 0) {
      return sum_row(block, law->law.row, &law->pieces.sums, &law->total,
                     [&](int64_t v, float l, int, int) {
                       return weighed_logits(law->law.w, vec::set(l), v).v;
                     });
    }
    double* const terms = law->work.bins.sums[0];
    block.each([&](int t) {
      for (int i = t; i < law->law.count; i += kThreads) {
        const double w = (double)s->held.few.weights[i];
        terms[i] = w > 0.0 ? w * log(w) : 0.0;
      }
    });
    block.each([&](int t) {
      if (t != 0) return;
      law->total = 0.0;
      for (int i = 0; i < law->law.count; ++i) law->total += terms[i];
    });
    return block.get(law->total);
  }

  // Children of a node that stand.
  FEWSTEP_HOST_DEVICE void let_stand(const Block& block, const Request& request, int32_t node,
                                     Shared* s) const {
    const double sum = sum_logs(block, s);
    block.each([&](int t) {
      if (t != 0) return;
      const double mass = s->law.law.mass;
      s->least = least_standing(p.params, log(mass) - sum / mass);
    });
    block.each([&](int t) {
      if (t >= s->draws.count) return;
      const int32_t child = s->draws.node[t];
      for (int i = 0; i < t; ++i) {  // drawn twice, it is one thread's
        if (s->draws.node[i] == child) return;
      }
      const double chance = Walk(request, *s).probability(s->draws.token[t]);
      if (chance > s->least) put_standing(node, child, chance, &s->standing);
    });
  }

  // To the next node that stands; past the last, to the end of the path.
  FEWSTEP_HOST_DEVICE void go_to_next(const Block& block, const Request& request, int32_t node,
                                      Shared* s) const {
    block.each([&](int t) {
      if (t != 0) return;
      const int32_t size = (int32_t)request.size;
      int32_t next = node + 1;
      while (next < size && s->standing.depth[next] < 0) ++next;
      s->path.node = next;
      if (next < size) return;
      s->is_last = 1;
      s->path.node = best_standing(s->standing, size);
      s->path.depth = put_path(request, s->standing, s->path.node, Result(p, block.index));
    });
  }
};

}  // namespace

void verify(const VerifyProblem& p) {
  const int64_t V = p.target_token.data ? 0 : p.V;  // of the rows that are read
  launch_rows("fewstep_tree_verify", VerifyKernel{p}, p.B, V, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
