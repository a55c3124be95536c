// SPDX-License-Identifier: Apache-2.0
#include "logits/cuda/perturb.h"
#include "tree/cpu/given_greatest.h"
#include "tree/cuda/beam.h"
#include "tree/sample_children.h"

// Mapping: a cluster has a row, and where a beam is asked for in a second launch a request.
// Requires: V >= 1, 1 <= K, M <= kMaxDraws, contiguous rows.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

namespace law = logits::FEWSTEP_ISA;

struct SampleChildrenKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  using Block = law::Block;
  struct Shared {
    law::LawShared row;
    law::Target targets[kMaxDraws];
    int32_t drawn[kMaxDraws];
  };

  SampleChildrenProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index, b = request_of(r);
    const float above = p.cum_logp ? p.cum_logp[r * p.cum_logp_stride] : 0.0f;
    const float parent = p.parent_scores ? p.parent_scores[r * p.parent_scores_stride] : 0.0f;
    logits::RowStatus status = logits::kRowFine;
    int count = 0;
    double log_mass = 0.0;
    if (b >= 0 && above > law::kMinusInfinity && parent > law::kMinusInfinity) {
      block.each([&](int t) {
        if (t != 0) return;
        logits::RowSpec spec = row_at(p.rows, r);
        put_filters(p.filters, b, &spec);
        law::put_row(spec, p.rows.pitch, &s.row.law.row);
      });
      status = law::analyse_row(block, &s.row);
      if (status == logits::kRowFine) {
        log_mass = log(block.get(s.row.law.mass));
        count = draw(block, gumbels_at(r, b), &s);
      }
    }
    const bool is_beam = p.law == DrawLaw::kStochasticBeam;
    const double shift = (is_beam ? (double)above : 0.0) - log_mass;
    block.each_alone([&](int t) {
      if (t < p.K) put(s, r, t, t < count, log_mass);
      if (t < p.K && p.perturbed) put_score(s, r, t, t < count, shift, (double)parent);
      if (t == 0 && p.status) p.status[r * p.status_stride] = status;
    });
  }

  // The request that has a row, -1 where none says so.
  FEWSTEP_HOST_DEVICE int64_t request_of(int64_t r) const {
    int64_t low = 0, high = p.B;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (p.indptr[(middle + 1) * p.indptr_stride] <= r) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low < p.B && p.indptr[low * p.indptr_stride] <= r ? low : -1;
  }

  FEWSTEP_HOST_DEVICE law::Gumbels gumbels_at(int64_t r, int64_t b) const {
    const int32_t node =
        p.node ? p.node[r * p.node_stride] : (int32_t)(r - p.indptr[b * p.indptr_stride]);
    const uint32_t position = (uint32_t)p.positions[r * p.positions_stride];
    return {{p.seeds[b * p.seeds_stride], position, p.stream}, (uint32_t)node};
  }

  // Draws tokens, into s->drawn or the list; returns how many.
  FEWSTEP_HOST_DEVICE int draw(const Block& block, const law::Gumbels& from, Shared* s) const {
    if (p.law != DrawLaw::kIid) return law::list_perturbed(block, from, p.K, &s->row);
    block.each([&](int t) {
      if (t >= p.K) return;
      uint32_t words[4];
      draw_words(from.key, from.draw, (uint32_t)t, words);
      s->targets[t] = law::target_at(s->row, open_uniform(words[0], words[1]));
    });
    FEWSTEP_NO_UNROLL
    for (int j = 0; j < p.K; ++j) {
      const law::Drawn drawn = law::draw(block, block.get(s->targets[j]), &s->row);
      block.each([&](int t) {
        if (t == 0) s->drawn[j] = (int32_t)drawn.token;
      });
    }
    return p.K;
  }

  FEWSTEP_HOST_DEVICE void put(const Shared& s, int64_t r, int j, bool given,
                               double log_mass) const {
    const int32_t* tokens = p.law == DrawLaw::kIid ? s.drawn : s.row.work.list.ids;
    const int32_t token = given ? tokens[j] : -1;
    const int32_t id = token >= 0 && p.d2t ? p.d2t[token * p.d2t_stride] : token;
    p.draws[r * p.draws_stride + j] = id < 0 ? -1 : id;
    float logq = law::kMinusInfinity;
    if (token >= 0) {
      const vec::F32 logit = vec::set(law::logit_at(s.row.law.row, token));
      logq = (float)((double)law::shifted(s.row.law.w, logit).v - log_mass);
    }
    p.logq[r * p.logq_stride + j] = logq;
  }

  FEWSTEP_HOST_DEVICE void put_score(const Shared& s, int64_t r, int j, bool given, double shift,
                                     double parent) const {
    const uint64_t* keys = s.row.work.list.keys;
    double score = -__builtin_inf();
    if (given) {
      score = gpu::from_ordered(keys[j]) + shift;
      if (p.law == DrawLaw::kStochasticBeam) {
        score = given_greatest(score, gpu::from_ordered(keys[0]) + shift, parent);
      }
    }
    p.perturbed[r * p.perturbed_stride + j] = (float)score;
  }
};

struct PutDrawn {
  int32_t* beam;
  int64_t stride;

  FEWSTEP_HOST_DEVICE void operator()(int64_t b, int64_t, int j, int64_t place) const {
    beam[b * stride + j] = (int32_t)place;
  }
};

}  // namespace

void sample_children(const SampleChildrenProblem& p) {
  constexpr const char* kFunction = "fewstep_tree_sample_children";
  law::launch_rows(kFunction, SampleChildrenKernel{p}, p.rows.R, p.rows.V, p.cuda_stream);
  if (!p.beam) return;
  const BeamScores scores = {p.perturbed, p.perturbed_stride, p.indptr, p.indptr_stride,
                             p.B,         p.rows.R,           p.K,      p.M};
  launch_beam(kFunction, scores, PutDrawn{p.beam, p.beam_stride}, p.cuda_stream);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
