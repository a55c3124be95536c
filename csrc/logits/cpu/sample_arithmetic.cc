// SPDX-License-Identifier: Apache-2.0
#include "logits/sample_arithmetic.h"

#include "core/cpu/parallel.h"
#include "logits/cpu/analyse.h"
#include "logits/cpu/codes.h"

// Requires: V >= 1, contiguous rows, valid filters. A row is one thread's.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct Scratch {
  Law law;
  uint64_t sums[kMaxPieces];
};

inline uint64_t block_units(const Law& law, int64_t begin, float unit) {
  float w[kBlock];
  fill_weights(law, begin, w);
  uint64_t sum = 0;
  for (int i = 0; i < kBlock; ++i) sum += units(w[i], unit);
  return sum;
}

inline int64_t end_of_piece(const Law& law, int32_t p) {
  const int64_t end = (p + 1) * law.piece;
  return end < law.row.V ? end : law.row.V;
}

// The sum of all weights, of a law that lists none by pieces.
uint64_t sum_units(Scratch* s, float unit) {
  const Law& law = s->law;
  uint64_t sum = 0;
  for (int i = 0; i < law.count; ++i) sum += units(law.few.weights[i], unit);
  if (law.count >= 0) return sum;
  for (int32_t p = 0; p < law.pieces; ++p) {
    s->sums[p] = 0;
    for (int64_t begin = p * law.piece; begin < end_of_piece(law, p); begin += kBlock) {
      s->sums[p] += block_units(law, begin, unit);
    }
    sum += s->sums[p];
  }
  return sum;
}

// Finds where `left`, below the sum of the weights, lies.
Place find_in(const float* w, const int32_t* ids, int64_t begin, int n, float unit,
              uint64_t* left) {
  for (int i = 0; i < n; ++i) {
    const uint64_t width = units(w[i], unit);
    if (*left < width) return {ids ? ids[i] : begin + i, *left, width};
    *left -= width;
  }
  return {-1, 0, 0};
}

Place find_place(const Scratch& s, float unit, uint64_t left) {
  const Law& law = s.law;
  if (law.count >= 0) return find_in(law.few.weights, law.few.ids, 0, law.count, unit, &left);
  int32_t p = 0;
  for (; left >= s.sums[p]; ++p) left -= s.sums[p];
  Place place = {-1, 0, 0};
  float w[kBlock];
  for (int64_t begin = p * law.piece; place.token < 0; begin += kBlock) {
    fill_weights(law, begin, w);
    place = find_in(w, nullptr, begin, kBlock, unit, &left);
  }
  return place;
}

void sample_arithmetic_row(const SampleArithmeticProblem& p, int64_t r, Scratch* s) {
  const RowStatus status = analyse(row_at(p.rows, r), &s->law);
  uint64_t code = p.codes[r * p.codes_stride];
  Place place = {-1, 0, 0};
  if (status == kRowFine) {
    const float unit = unit_of(p.rows.V);
    const Code at = place_of(code, sum_units(s, unit));
    place = find_place(*s, unit, at.whole);
    code = code_within(place, at.fraction);
  }
  p.out[r * p.out_stride] = (int32_t)place.token;
  p.next_codes[r * p.next_codes_stride] = code;
  if (p.status) p.status[r * p.status_stride] = status;
  if (p.logprobs) {
    p.logprobs[r * p.logprobs_stride] =
        status == kRowFine ? (float)log(probability(s->law, place.token)) : __builtin_nanf("");
  }
}

}  // namespace

void sample_arithmetic(const SampleArithmeticProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t r = begin; r < end; ++r) {
      sample_arithmetic_row(*(const SampleArithmeticProblem*)context, r, &scratch);
    }
  };
  parallel_for(p.threads, p.rows.R, grain_of(p.rows), rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
