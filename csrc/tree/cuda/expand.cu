// SPDX-License-Identifier: Apache-2.0
#include "logits/cuda/law.h"
#include "tree/cuda/beam.h"
#include "tree/expand.h"

// Mapping: a cluster has a row, and where a beam is asked for in a second launch a request.
// Requires: V >= 1, 1 <= K, M <= kMaxChildren, contiguous rows.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

namespace law = logits::FEWSTEP_ISA;

struct ExpandKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Block = law::Block;
  using Shared = law::LawShared;

  ExpandProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index;
    const float above = p.cum_logp[r * p.cum_logp_stride];
    logits::RowStatus status = logits::kRowFine;
    double total = 0.0;
    int count = 0;
    if (above > law::kMinusInfinity) {
      block.each([&](int t) {
        if (t == 0) law::put_row(p.rows, r, &s.law.row);
      });
      law::begin_law(block, 0.0f, 1.0f, &s);
      Block::Per<uint64_t> best;
      status = law::analyse_all(block, &s, &best);
      if (status == logits::kRowFine) {
        const float max = block.get(s.law.w.max);
        total = (double)max + log(block.get(s.law.mass));
        count = list_children(block, max, best, &s);
      }
    }
    block.each_alone([&](int t) {
      if (t < p.K) put(s, r, t, t < count, (double)above, total);
      if (t == 0 && p.status) p.status[r * p.status_stride] = status;
    });
  }

  // Lists the K best tokens in descending order; returns how many there are.
  FEWSTEP_HOST_DEVICE int list_children(const Block& block, float max,
                                        const Block::Per<uint64_t>& best, Shared* s) const {
    const law::Measure measure = {s->law.row, s->law.w, law::Key::kLogit, law::Goal::kCount};
    law::start_best(block, measure, max, p.K, best, &s->work.list, &s->search);
    law::search(block, measure, &s->work, &s->search);
    return law::list_best(block, measure, p.K, &s->work.list, &s->search);
  }

  FEWSTEP_HOST_DEVICE void put(const Shared& s, int64_t r, int j, bool given, double above,
                               double total) const {
    const int64_t token = given ? law::id_of(s.law.row, s.work.list.keys[j]) : -1;
    const int32_t id = token >= 0 && p.d2t ? p.d2t[token * p.d2t_stride] : (int32_t)token;
    p.ids[r * p.ids_stride + j] = id < 0 ? -1 : id;
    p.logp[r * p.logp_stride + j] =
        id < 0 ? law::kMinusInfinity
               : (float)(above + ((double)law::logit_at(s.law.row, token) - total));
  }
};

struct PutExpanded {
  ExpandProblem p;

  FEWSTEP_HOST_DEVICE void operator()(int64_t b, int64_t begin, int j, int64_t place) const {
    const int64_t row = place < 0 ? -1 : place / p.K;
    int32_t id = -1;
    float logp = law::kMinusInfinity;
    if (row >= 0) {
      id = p.ids[(begin + row) * p.ids_stride + place % p.K];
      logp = p.logp[(begin + row) * p.logp_stride + place % p.K];
    }
    p.beam_ids[b * p.beam_ids_stride + j] = id;
    p.beam_logp[b * p.beam_logp_stride + j] = logp;
    p.beam_parent[b * p.beam_parent_stride + j] = (int32_t)row;
  }
};

}  // namespace

void expand(const ExpandProblem& p) {
  constexpr const char* kFunction = "fewstep_tree_expand";
  law::launch_rows(kFunction, ExpandKernel{p}, p.rows.R, p.rows.V, p.cuda_stream);
  if (!p.beam_ids) return;
  const BeamScores scores = {p.logp, p.logp_stride, p.indptr, p.indptr_stride,
                             p.B,    p.rows.R,      p.K,      p.M};
  launch_beam(kFunction, scores, PutExpanded{p}, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
