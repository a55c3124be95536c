// SPDX-License-Identifier: Apache-2.0
#include "tree/sample_children.h"

#include "core/cpu/parallel.h"
#include "logits/cpu/analyse.h"
#include "logits/cpu/perturb.h"
#include "tree/cpu/beam.h"
#include "tree/cpu/given_greatest.h"

// Requires: V >= 1, indptr and filters checked, 1 <= K, M <= kMaxDraws.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

struct Row {
  logits::FEWSTEP_ISA::Law law;
  double log_mass;
  DrawKey key;
  uint32_t draw;
  int64_t r;
};

// Token `id` as draw j, x its shifted logit; none below 0.
void put(const SampleChildrenProblem& p, const Row& row, int j, int32_t id, float x) {
  const int32_t mapped = id >= 0 && p.d2t ? p.d2t[id * p.d2t_stride] : id;
  p.draws[row.r * p.draws_stride + j] = mapped < 0 ? -1 : mapped;
  p.logq[row.r * p.logq_stride + j] = id < 0 ? -INFINITY : (float)((double)x - row.log_mass);
}

// Draw j by the uniform of block j.
void draw_iid(const SampleChildrenProblem& p, const Row& row) {
  for (int j = 0; j < p.K; ++j) {
    uint32_t words[4];
    draw_words(row.key, row.draw, (uint32_t)j, words);
    const int64_t id = draw(row.law, open_uniform(words[0], words[1]));
    put(p, row, j, (int32_t)id, shifted_at(row.law, id));
  }
}

void draw_without_replacement(const SampleChildrenProblem& p, const Row& row, double above,
                              double parent) {
  double value[kMaxDraws];
  float x[kMaxDraws];
  int32_t id[kMaxDraws];
  Perturbed best = {value, x, id, p.K, 0};
  perturb(row.law, row.key, row.draw, &best);
  const double shift = above - row.log_mass;
  for (int j = 0; j < best.count; ++j) {
    put(p, row, j, id[j], x[j]);
    double score = value[j] + shift;
    if (p.law == DrawLaw::kStochasticBeam) {
      score = given_greatest(score, value[0] + shift, parent);
    }
    p.perturbed[row.r * p.perturbed_stride + j] = (float)score;
  }
}

void draw_row(const SampleChildrenProblem& p, int64_t b, Row* row) {
  const int64_t r = row->r;
  for (int j = 0; j < p.K; ++j) {
    put(p, *row, j, -1, 0.0f);
    if (p.perturbed) p.perturbed[r * p.perturbed_stride + j] = -INFINITY;
  }
  if (p.status) p.status[r * p.status_stride] = logits::kRowFine;
  const float above = p.cum_logp ? p.cum_logp[r * p.cum_logp_stride] : 0.0f;
  const float parent = p.parent_scores ? p.parent_scores[r * p.parent_scores_stride] : 0.0f;
  if (!(above > -INFINITY) || !(parent > -INFINITY)) return;
  logits::RowSpec spec = row_at(p.rows, r);
  put_filters(p.filters, b, &spec);
  const logits::RowStatus status = analyse(spec, &row->law);
  if (p.status) p.status[r * p.status_stride] = status;
  if (status != logits::kRowFine) return;
  row->log_mass = log(row->law.mass);
  row->key = {p.seeds[b * p.seeds_stride], (uint32_t)p.positions[r * p.positions_stride], p.stream};
  const int64_t within = r - p.indptr[b * p.indptr_stride];
  row->draw = (uint32_t)(p.node ? p.node[r * p.node_stride] : within);
  if (p.law == DrawLaw::kIid) {
    draw_iid(p, *row);
  } else {
    const bool is_beam = p.law == DrawLaw::kStochasticBeam;
    draw_without_replacement(p, *row, is_beam ? (double)above : 0.0, (double)parent);
  }
}

void draw_range(void* context, int64_t from, int64_t to) {
  const SampleChildrenProblem& p = *static_cast<const SampleChildrenProblem*>(context);
  Row row;
  int64_t b = 0;
  for (row.r = from; row.r < to; ++row.r) {
    while (p.indptr[(b + 1) * p.indptr_stride] <= row.r) ++b;
    draw_row(p, b, &row);
  }
}

// Of all children of a request's rows the M of greatest perturbed log-probability.
void choose_beam(const SampleChildrenProblem& p, int64_t b) {
  Candidate best[kMaxBuffer];
  const int64_t begin = p.indptr[b * p.indptr_stride];
  const int64_t rows = p.indptr[(b + 1) * p.indptr_stride] - begin;
  const float* scores = p.perturbed + begin * p.perturbed_stride;
  const int count = choose_best(scores, p.perturbed_stride, rows, p.K, p.M, best);
  for (int j = 0; j < p.M; ++j) p.beam[b * p.beam_stride + j] = j < count ? best[j].id : -1;
}

}  // namespace

void sample_children(const SampleChildrenProblem& p) {
  SampleChildrenProblem own = p;
  parallel_for(p.threads, p.rows.R, grain_of(p.rows), draw_range, &own);
  for (int64_t b = 0; p.beam && b < p.B; ++b) choose_beam(p, b);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
