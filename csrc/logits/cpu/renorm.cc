// SPDX-License-Identifier: Apache-2.0
#include "logits/renorm.h"

#include "core/cpu/parallel.h"
#include "logits/cpu/analyse.h"

// Requires: V >= 1, 1 <= K <= kMaxCandidates where ids are asked for, contiguous rows, valid
// filters. A row is one thread's.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

void put_dense(const Law& law, float* out) {
  float w[kBlock];
  const double scale = 1.0 / law.mass;
  for (int64_t begin = 0; begin < law.row.V; begin += kBlock) {
    fill_weights(law, begin, w);
    const int64_t left = law.row.V - begin;
    const int n = left < kBlock ? (int)left : kBlock;
    for (int i = 0; i < n; ++i) out[begin + i] = (float)((double)w[i] * scale);
  }
}

// Offers the tokens that have a weight; returns how many have.
int32_t offer_weights(const Law& law, Keeper* keeper) {
  int32_t count = 0;
  for (int i = 0; i < law.count; ++i) {
    count += law.few.weights[i] > 0.0f ? 1 : 0;
    keeper->offer(law.few.weights[i], law.few.ids[i]);
  }
  if (law.count >= 0) return count;
  float w[kBlock];
  for (int64_t begin = 0; begin < law.row.V; begin += kBlock) {
    fill_weights(law, begin, w);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      count += __builtin_popcount(vec::greater_bits(vec::load(w + i), vec::set(0.0f)));
    }
    offer_block(w, begin, keeper);
  }
  return count;
}

void put_list(const RenormProblem& p, int64_t r, const Law& law, Candidate* best) {
  Keeper keeper{best, p.K, 0.0f};
  p.count[r * p.count_stride] = offer_weights(law, &keeper);
  keeper.cut();
  sort(best, keeper.count, ByRank());
  const double scale = 1.0 / law.mass;
  for (int i = 0; i < p.K; ++i) {
    const bool has = i < keeper.count;
    p.ids[r * p.ids_stride + i] = has ? best[i].id : -1;
    p.probabilities[r * p.probabilities_stride + i] =
        has ? (float)((double)best[i].value * scale) : 0.0f;
  }
}

void put_lawless(const RenormProblem& p, int64_t r) {
  const float nan = __builtin_nanf("");
  for (int64_t v = 0; p.out && v < p.rows.V; ++v) p.out[r * p.out_stride + v] = nan;
  if (p.count) p.count[r * p.count_stride] = 0;
  for (int i = 0; i < p.K; ++i) {
    p.ids[r * p.ids_stride + i] = -1;
    p.probabilities[r * p.probabilities_stride + i] = nan;
  }
}

void renorm_row(const RenormProblem& p, int64_t r, Law* law, Candidate* best) {
  const RowStatus status = analyse(row_at(p.rows, r), law);
  if (p.status) p.status[r * p.status_stride] = status;
  if (status != kRowFine) {
    put_lawless(p, r);
    return;
  }
  if (p.out) put_dense(*law, p.out + r * p.out_stride);
  if (p.ids) put_list(p, r, *law, best);
}

}  // namespace

void renorm(const RenormProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Law law;
    Candidate best[kMaxBuffer];
    for (int64_t r = begin; r < end; ++r) renorm_row(*(const RenormProblem*)context, r, &law, best);
  };
  parallel_for(p.threads, p.rows.R, grain_of(p.rows), rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
