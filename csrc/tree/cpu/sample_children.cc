// SPDX-License-Identifier: Apache-2.0
#include "tree/sample_children.h"

#include "core/cpu/parallel.h"
#include "tree/cpu/gumbel.h"
#include "tree/cpu/row_law.h"

// Requires: indptr and temperature checked, 1 <= K, M <= kMaxDraws.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int64_t kLogitsOfARange = 16384;

struct Row {
  RowLogits logits;
  Law law;
  DrawKey key;
  uint32_t draw;
  int64_t r;
};

void put(const SampleChildrenProblem& p, const Row& row, int j, int32_t id, float x) {
  const int32_t mapped = id >= 0 && p.d2t ? p.d2t[id * p.d2t_stride] : id;
  p.draws[row.r * p.draws_stride + j] = mapped < 0 ? -1 : mapped;
  p.logq[row.r * p.logq_stride + j] = id < 0 ? -INFINITY : (float)((double)x - row.law.log_total());
}

// The token in which the cumulative weight passes `target`, given that it does within the chunk.
int find_in_chunk(const float* w, double before, double target) {
  int last = 0;
  for (int i = 0; i < kLawChunk; ++i) {
    if (!(w[i] > 0.0f)) continue;
    before += (double)w[i];
    last = i;
    if (before > target) break;
  }
  return last;  // rounding may leave the sum below: then it is the chunk's last token
}

// Draw j is the token in which the cumulative weight passes uniform j of the whole: of block j.
void draw_iid(const SampleChildrenProblem& p, const Row& row) {
  alignas(64) float x[kLawChunk], w[kLawChunk];
  double total = 0.0;
  for (int64_t begin = 0; begin < p.V; begin += kLawChunk) {
    load_chunk(row.logits, begin, x);
    total += chunk_weights(x, row.law.top, nullptr);
  }
  double target[kMaxDraws];
  int open = p.K;
  for (int j = 0; j < p.K; ++j) {
    uint32_t words[4];
    draw_words(row.key, row.draw, (uint32_t)j, words);
    target[j] = open_uniform(words[0], words[1]) * total;
  }
  double before = 0.0;
  for (int64_t begin = 0; begin < p.V && open > 0; begin += kLawChunk) {
    load_chunk(row.logits, begin, x);
    const double after = before + chunk_weights(x, row.law.top, w);
    for (int j = 0; j < p.K; ++j) {
      // A target that rounds to the total belongs to the last token that has a weight.
      const bool here = target[j] < after || (target[j] >= total && after >= total);
      if (!(target[j] >= 0.0) || !here) continue;
      const int i = find_in_chunk(w, before, target[j]);
      put(p, row, j, (int32_t)(begin + i), x[i]);
      target[j] = -1.0;
      --open;
    }
    before = after;
  }
}

void draw_without_replacement(const SampleChildrenProblem& p, const Row& row, double above,
                              double parent) {
  double value[kMaxDraws];
  float x[kMaxDraws];
  int32_t id[kMaxDraws];
  Perturbed best = {value, x, id, p.K, 0};
  perturb_row(row.logits, row.key, row.draw, &best);
  const double shift = above - row.law.log_total();
  for (int j = 0; j < best.count; ++j) {
    put(p, row, j, id[j], x[j]);
    double score = value[j] + shift;
    if (p.law == DrawLaw::kStochasticBeam) {
      score = given_greatest(score, value[0] + shift, parent);
    }
    p.perturbed[row.r * p.perturbed_stride + j] = (float)score;
  }
}

void draw_row(const SampleChildrenProblem& p, int64_t r, int64_t b, int64_t within) {
  Row row;
  row.r = r;
  row.law = {-INFINITY, NAN};
  for (int j = 0; j < p.K; ++j) {
    put(p, row, j, -1, 0.0f);
    if (p.perturbed) p.perturbed[r * p.perturbed_stride + j] = -INFINITY;
  }
  if (p.status) p.status[r * p.status_stride] = 0;
  const float above = p.cum_logp ? p.cum_logp[r * p.cum_logp_stride] : 0.0f;
  const float parent = p.parent_scores ? p.parent_scores[r * p.parent_scores_stride] : 0.0f;
  if (!(above > -INFINITY) || !(parent > -INFINITY)) return;
  const float scale = p.temperature ? 1.0f / p.temperature[b * p.temperature_stride] : 1.0f;
  row.logits = {p.logits + r * p.logits_pitch, p.dtype, p.V, scale};
  row.law = law_of(row.logits, nullptr);
  if (!row.law.valid()) {
    if (p.status) p.status[r * p.status_stride] = 1;
    return;
  }
  row.key = {p.seeds[b * p.seeds_stride], (uint32_t)p.positions[r * p.positions_stride], p.stream};
  row.draw = (uint32_t)(p.node ? p.node[r * p.node_stride] : within);
  if (p.law == DrawLaw::kIid) {
    draw_iid(p, row);
  } else {
    const bool beam = p.law == DrawLaw::kStochasticBeam;
    draw_without_replacement(p, row, beam ? (double)above : 0.0, (double)parent);
  }
}

void draw_range(void* context, int64_t from, int64_t to) {
  const SampleChildrenProblem& p = *static_cast<const SampleChildrenProblem*>(context);
  int64_t b = 0;
  for (int64_t r = from; r < to; ++r) {
    while (p.indptr[(b + 1) * p.indptr_stride] <= r) ++b;
    draw_row(p, r, b, r - p.indptr[b * p.indptr_stride]);
  }
}

// Of all children of a request's rows the M of greatest perturbed log-probability.
void choose_beam(const SampleChildrenProblem& p, int64_t b) {
  float values[kMaxDraws];
  int32_t found[kMaxDraws];
  Best best = {values, found, p.M, 0};
  const int64_t begin = p.indptr[b * p.indptr_stride];
  const int64_t rows = p.indptr[(b + 1) * p.indptr_stride] - begin;
  for (int64_t r = 0; r < rows; ++r) {
    const float* scores = p.perturbed + (begin + r) * p.perturbed_stride;
    for (int j = 0; j < p.K; ++j) best.offer(scores[j], (int32_t)(r * p.K + j));
  }
  for (int j = 0; j < p.M; ++j) p.beam[b * p.beam_stride + j] = j < best.count ? found[j] : -1;
}

}  // namespace

void sample_children(const SampleChildrenProblem& p) {
  SampleChildrenProblem own = p;
  parallel_for(p.threads, p.R, 1 + kLogitsOfARange / (p.V + 1), draw_range, &own);
  for (int64_t b = 0; p.beam && b < p.B; ++b) choose_beam(p, b);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
