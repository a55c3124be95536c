// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/math.h"
#include "logits/cuda/analyse.h"
#include "tree/cpu/path.h"
#include "tree/cpu/standing.h"

// What rejected drafts leave of a row's law, by a block of threads, in the order of the CPU's sums.
// Included by CUDA kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::kMaxCandidates;
using logits::FEWSTEP_ISA::Block;
using logits::FEWSTEP_ISA::kBlock;
using logits::FEWSTEP_ISA::kGroup;
using logits::FEWSTEP_ISA::kGroups;
using logits::FEWSTEP_ISA::kMaxPieces;
using logits::FEWSTEP_ISA::kThreads;
using logits::FEWSTEP_ISA::launch_rows;
using logits::FEWSTEP_ISA::LawShared;
using logits::FEWSTEP_ISA::piece_of;
using logits::FEWSTEP_ISA::target_in;
using logits::FEWSTEP_ISA::tile_of;

// A row's law, while what it was found with is used for other things.
union Held {
  struct {
    int32_t ids[kMaxCandidates];
    float weights[kMaxCandidates];
  } few;
  double pieces[kMaxPieces];
};

struct VerifyShared {
  LawShared law;
  Held held;
  Draws draws;
  uint32_t are_draws[kThreads / 32];  // a bit for each thread's
  Decision decision;
  Factors factors;  // of decision.left
  Path path;
  int64_t token;  // the target's own
  Standing standing;
  double least;     // that lets a draft stand
  int32_t is_last;  // whether all nodes were looked at that stand
};

FEWSTEP_HOST_DEVICE inline void hold(const Block& block, VerifyShared* s) {
  const LawShared& law = s->law;
  block.each([&](int t) {
    for (int i = t; i < law.law.count; i += kThreads) {
      s->held.few.ids[i] = (int32_t)id_of(law.law.row, law.work.list.keys[i]);
      s->held.few.weights[i] = law.work.list.weights[i];
    }
    if (law.law.count >= 0) return;
    for (int i = t; i < pieces_of(law.law.row); i += kThreads) {
      s->held.pieces[i] = law.pieces.mass[i];
    }
  });
}

// A request at a node, as rules see it.
struct Walk {
  const Request& request;
  const VerifyShared& s;
  const Draws& draws;

  FEWSTEP_HOST_DEVICE Walk(const Request& of, const VerifyShared& shared)
      : request(of), s(shared), draws(shared.draws) {}

  FEWSTEP_HOST_DEVICE double probability(int64_t v) const {
    const logits::FEWSTEP_ISA::Law& law = s.law.law;
    if (v < 0 || v >= law.row.V || !is_allowed(law.row, v)) return 0.0;
    if (law.count < 0) return (double)weight_at(law, v) / law.mass;
    const int64_t i = lower_bound(s.held.few.ids, 0, law.count, v);
    const bool is_listed = i < law.count && s.held.few.ids[i] == v;
    return is_listed ? (double)s.held.few.weights[i] / law.mass : 0.0;
  }
  FEWSTEP_HOST_DEVICE float log_probability(int64_t v) const { return (float)log(probability(v)); }
};

// Values of tokens, as sums over a row and draws read them.
struct Values {
  const logits::FEWSTEP_ISA::Weighing& weighing;
  const Draws& draws;
  Left left;
  Factors factors;
  DraftLaw q;
  uint64_t tried;    // bit v % 64 of every token that was
  int64_t at, last;  // of ids: the first that is no less than the last token
  bool wide;         // of a draft without ids: quads are read whole
  int64_t ahead_of;  // the quad that was read ahead, -1: none
  uint32_t now[gpu::kQuad], ahead[gpu::kQuad];

  FEWSTEP_HOST_DEVICE Values(const VerifyShared& s, const DraftLaw& draft)
      : weighing(s.law.law.w),
        draws(s.draws),
        left(s.decision.left),
        factors(s.factors),
        q(needs_draft(left) ? draft : DraftLaw{}),
        tried(0),
        at(0),
        last(0),
        wide(gpu::is_wide(q.q, 0, DType::kF32)),
        ahead_of(-1) {
    for (int i = left.first; i < left.first + left.tried; ++i) {
      tried |= UINT64_C(1) << (draws.token[i] & 63);
    }
  }
  FEWSTEP_HOST_DEVICE float value(int64_t v, float weight, float draft) const {
    if ((tried >> (v & 63) & 1) && is_tried(left, draws, v)) return 0.0f;
    return values_of(left.kind, factors, vec::set(weight), vec::set(draft)).v;
  }
  FEWSTEP_HOST_DEVICE float operator()(int64_t v, float weight) const {
    return value(v, weight, (float)draft_probability(q, v));
  }
  // The same where a thread's tokens ascend: of ids in a range of tokens there are no more than
  // that has tokens.
  FEWSTEP_HOST_DEVICE float next(int64_t v, float weight) {
    if (!q.ids) return (*this)(v, weight);
    const int64_t most = at + (v - last);
    at = lower_bound(q.ids, at, most < q.S ? most : q.S, v);
    last = v;
    return value(v, weight, at < q.S && q.ids[at] == v ? q.q[at] : 0.0f);
  }
  // Of a row's tokens (sum_blocks).
  FEWSTEP_HOST_DEVICE float operator()(int64_t v, float logit, int i, int) {
    const float weight = weights_of(weighing, vec::set(logit), v).v;
    if (q.ids) return next(v, weight);
    if (i == 0) read_quads(v);
    return value(v, weight, vec::float_of_bits({now[i]}).v);
  }
  // The draft's quad at v, and the thread's next one of the block.
  FEWSTEP_HOST_DEVICE void read_quads(int64_t v) {
    constexpr int kStep = kGroup * gpu::kQuad;
    if (ahead_of != v) read_quad(v, ahead);
    FEWSTEP_UNROLL
    for (int i = 0; i < gpu::kQuad; ++i) now[i] = ahead[i];
    ahead_of = v + kStep;
    if (ahead_of % kBlock >= kStep) read_quad(ahead_of, ahead);
  }
  FEWSTEP_HOST_DEVICE void read_quad(int64_t v, uint32_t* w) const {
    const int64_t count = q.S - v;
    if (wide && count >= gpu::kQuad) {
      gpu::load16((const char*)(q.q + v), w);
    } else {
      FEWSTEP_UNROLL
      for (int i = 0; i < gpu::kQuad; ++i) w[i] = i < count ? ((const gpu::Word*)q.q)[v + i] : 0;
    }
  }
};

// The sums of a round where the law's tokens are listed.
FEWSTEP_HOST_DEVICE inline void sum_listed(const Block& block, int32_t round, const Values& values,
                                           VerifyShared* s) {
  const int count = s->law.law.count;
  const int32_t* const ids = s->held.few.ids;
  block.each([&](int t) {
    Values own = values;
    float* const strands = s->law.pieces.sums.strands[t / kGroup];
    const int first = t % kGroup * gpu::kQuad;
    for (int i = first; i < first + gpu::kQuad; ++i) strands[i] = 0.0f;
    const int64_t begin = (tile_of(block, round) * kGroups + t / kGroup) * kBlock;
    int64_t i = lower_bound(ids, 0, count, begin);
    for (; i < count && ids[i] < begin + kBlock; ++i) {
      const int strand = ids[i] % 64;
      if (strand < first || strand >= first + gpu::kQuad) continue;
      strands[strand] += own.next(ids[i], s->held.few.weights[i]);
    }
  });
  sum_strands(block, &s->law.pieces.sums);
}

// Answers Ask::kMass, and leaves the masses of pieces.
FEWSTEP_HOST_DEVICE inline void weigh(const Block& block, const DraftLaw& q, VerifyShared* s) {
  block.each([&](int t) {
    if (t == 0) s->factors = factors_of(s->decision.left, s->law.law.mass);
  });
  const Values values(*s, q);
  sum_pieces(block, &s->law, &s->decision.mass, [&](int32_t round) {
    if (s->law.law.count < 0) {
      sum_blocks(block, s->law.law.row, round, &s->law.pieces.sums, values);
    } else {
      sum_listed(block, round, values, s);
    }
  });
}

// Answers Ask::kMost.
FEWSTEP_HOST_DEVICE inline void find_most(const Block& block, const DraftLaw& q, VerifyShared* s) {
  Block::Per<float> most;
  block.each([&](int t) {
    float own = 0.0f;
    for (int64_t i = t; i < q.S; i += kThreads) own = q.q[i] > own ? q.q[i] : own;
    most[t] = own;
  });
  const float all = block.reduce(most, s->law.most, logits::FEWSTEP_ISA::Greater{});
  block.each([&](int t) {
    if (t == 0) s->decision.mass = (double)all;
  });
}

// Answers Ask::kToken, or with of_left Ask::kTokenLeft.
FEWSTEP_HOST_DEVICE inline int64_t draw_token(const Block& block, bool of_left, const DraftLaw& q,
                                              VerifyShared* s) {
  LawShared* const law = &s->law;
  const logits::FEWSTEP_ISA::Row& row = law->law.row;
  const int count = law->law.count;
  const bool is_list = !of_left && count >= 0;  // without pieces
  block.each([&](int t) {
    if (t != 0) return;
    const double mass = of_left ? s->decision.mass : law->law.mass;
    const double* const masses = of_left ? law->pieces.mass : s->held.pieces;
    law->target = {s->decision.u * mass, -1};
    if (!is_list) law->target = target_in(masses, pieces_of(row), mass, s->decision.u);
  });
  const logits::FEWSTEP_ISA::Target target = block.get(law->target);
  if (!is_list && target.piece < 0) return -1;
  begin_walk(block, law);
  const Values values(*s, q);
  if (count < 0) {
    return find_in_piece(block, target, law, [&](int64_t v, float weight) {
      return of_left ? values(v, weight) : weight;
    });
  }
  const int64_t begin = target.piece * piece_of(row.V), end = begin + piece_of(row.V);
  block.each([&](int t) {
    for (int i = t; i < count; i += kThreads) {
      const int64_t v = s->held.few.ids[i];
      float weight = s->held.few.weights[i];
      if (of_left) weight = v >= begin && v < end ? values(v, weight) : 0.0f;
      law->work.list.weights[i] = weight;
    }
  });
  using logits::FEWSTEP_ISA::Meets;
  find_listed<Meets::kAbove>(block, count, target.sum, &law->work.list, &law->walk);
  const int last = block.get(law->walk.last);
  return last < 0 ? -1 : s->held.few.ids[last];
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
