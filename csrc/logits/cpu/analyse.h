// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cpu/select.h"

// From a row and its filters to its law.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

// The largest shifted logit that is kept.
inline float largest_kept(const Law& law) {
  float buffer[kBlock], w[kBlock], x[vec::kLanes], best = kMinusInfinity;
  for (int64_t begin = 0; begin < law.row.V; begin += kBlock) {
    const float* raw = raw_block(law.row, begin, buffer);
    fill_weights(law, begin, w);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      vec::store(x, shifted(law, vec::load(raw + i)));
      for (int j = 0; j < vec::kLanes; ++j) {
        if (w[i + j] > 0.0f && x[j] > best) best = x[j];
      }
    }
  }
  return best;
}

// Filters of a law without a list, one after the other on what the former left.
inline void filter_all(Law* law) {
  const RowSpec& row = law->row;
  if (row.top_k > 0 && row.top_k < row.V) {
    tighten(law, select_top<Key::kValue, Goal::kCount>(*law, (double)row.top_k));
  }
  if (row.top_p < 1.0f) {
    tighten(law, select_top<Key::kValue, Goal::kMass>(*law, (double)row.top_p));
  }
  if (row.min_p > 0.0f) tighten(law, {log_share((double)row.min_p), row.V});
  if (row.typical < 1.0f) {
    const double mass = row_sum(*law);
    law->center = (float)(row_sum<true>(*law) / mass);  // x of a token with -log p = entropy
    law->nearest = select_top<Key::kNearness, Goal::kMass>(*law, (double)row.typical);
    law->has_nearest = true;
  }
  if (row.eta > 0.0f) {
    const double mass = row_sum(*law), mean = row_sum<true>(*law) / mass;
    // The most likely of the tokens that are left stays, whatever its probability.
    const float best = law->has_nearest ? largest_kept(*law) : 0.0f;
    const float t = eta_least((double)row.eta, mass, mean);
    tighten(law, {t < best ? t : best, row.V});
  }
}

// The same of a short list of candidates, sorted by rank, whose weights are w [n]. Returns how many
// are left, in the order of `c`.
inline int filter_few(const Law& law, Candidate* c, int n) {
  const RowSpec& row = law.row;
  // From here on a candidate's value is its shifted logit.
  float w[kMaxCandidates + vec::kLanes], x[kMaxCandidates + vec::kLanes];
  const auto weigh = [&](int count) {
    for (int i = 0; i < count; ++i) x[i] = c[i].value;
    for (int i = 0; i < count; i += vec::kLanes) {
      for (int j = count; j < i + vec::kLanes; ++j) x[j] = kMinusInfinity;
      vec::store(w + i, vec::exp_below_88(vec::load(x + i)));
    }
  };
  weigh(n);
  if (row.top_p < 1.0f) n = cut_at_mass(w, n, (double)row.top_p);
  if (row.min_p > 0.0f) n = cut_below(x, n, log_share((double)row.min_p));
  if (row.typical < 1.0f) {
    double mass, mean;
    moments(w, x, n, &mass, &mean);
    const float center = (float)mean;
    sort(c, n, [center](Candidate a, Candidate b) {
      const float da = fabsf(a.value - center), db = fabsf(b.value - center);
      return da < db || (da == db && a.id < b.id);
    });
    weigh(n);
    n = cut_at_mass(w, n, (double)row.typical);
    sort(c, n, ByRank());
    weigh(n);
  }
  if (row.eta > 0.0f) {
    double mass, mean;
    moments(w, x, n, &mass, &mean);
    n = cut_below(x, n, eta_least((double)row.eta, mass, mean));
  }
  return n;
}

// Lists candidates: their shifted logits become weights, in the order of ids.
inline void list_few(Law* law, Candidate* c, int n) {
  sort(c, n, ById());
  law->count = n;
  law->mass = 0.0;
  for (int i = 0; i < n; i += vec::kLanes) {
    float x[vec::kLanes], w[vec::kLanes];
    for (int j = 0; j < vec::kLanes; ++j) x[j] = i + j < n ? c[i + j].value : kMinusInfinity;
    vec::store(w, vec::exp_below_88(vec::load(x)));
    for (int j = 0; j < vec::kLanes && i + j < n; ++j) {
      law->few.ids[i + j] = c[i + j].id;
      law->few.weights[i + j] = w[j];
      law->mass += (double)w[j];
    }
  }
}

// The best token of a row, ties to the lowest id; -1 with the status where there is none. One pass,
// and another over the block in which the largest logit came first.
inline int64_t best_token(const RowSpec& row, RowStatus* status) {
  float buffer[kBlock], max = kMinusInfinity;
  vec::I32 magnitude = vec::set_i32(0);
  int64_t block = 0;
  for (int64_t begin = 0; begin < row.V; begin += kBlock) {
    const float before = max;
    max = largest_of(raw_block(row, begin, buffer), max, &magnitude);
    if (max > before) block = begin;
  }
  *status = status_of(max, has_nan(magnitude));
  if (*status != kRowFine) return -1;
  const float* raw = raw_block(row, block, buffer);
  for (int i = 0; i < kBlock; i += vec::kLanes) {
    const uint32_t equal = vec::equal_bits(vec::load(raw + i), vec::set(max));
    if (equal) return block + i + __builtin_ctz(equal);
  }
  return -1;  // cannot be: the block holds it
}

// What the weights of a law are worth once its largest logit was `before` and is `after`.
inline double decay(const Law& law, float before, float after) {
  float lanes[vec::kLanes];
  vec::store(lanes, decays(law, before, after));
  return (double)lanes[0];
}

// A law of all tokens in one pass: each block is weighed against the largest logit so far. Where
// that turns out to lie in the block itself, the block is weighed anew and what came before is
// scaled down. On the way the best logits are kept where they are asked for.
inline RowStatus analyse_all(const RowSpec& row, Law* law, Keeper* keeper = nullptr) {
  float buffer[kBlock], max_of[kMaxPieces], max = kMinusInfinity;
  vec::I32 magnitude = vec::set_i32(0);
  set_pieces(law);
  for (int32_t p = 0; p < law->pieces; ++p) {
    double sum = 0.0;
    const int64_t end = (p + 1) * law->piece < row.V ? (p + 1) * law->piece : row.V;
    for (int64_t begin = p * law->piece; begin < end; begin += kBlock) {
      const float* raw = raw_block(row, begin, buffer);
      if (max == kMinusInfinity) max = largest_of(raw, max, &magnitude);
      if (max == kMinusInfinity) continue;
      law->max = max;
      double mass = weights_sum(*law, raw, &max);
      if (max > law->max) {
        sum *= decay(*law, law->max, max);
        law->max = max;
        mass = weights_sum(*law, raw, &max);
      }
      sum += mass;
      if (keeper) offer_block(raw, begin, keeper);
    }
    law->sums[p] = sum;
    max_of[p] = max;
  }
  law->mass = 0.0;
  for (int32_t p = 0; p < law->pieces; ++p) {
    if (max_of[p] < max) law->sums[p] *= decay(*law, max_of[p], max);
    // Scaled down so far, weights may all be 0 where they are drawn from.
    if (law->sums[p] < (double)law->piece * 0x1p-125) law->sums[p] = 0.0;
    law->mass += law->sums[p];
  }
  // A NaN, and what an infinite logit makes of the weights, is in the sums.
  const bool is_fine = law->mass > 0.0 && !has_nan(magnitude);
  return is_fine ? kRowFine : scan_row(row, 0, nullptr).status;
}

inline RowStatus analyse_best(const RowSpec& row, Law* law) {
  RowStatus status;
  Candidate best = {0.0f, (int32_t)best_token(row, &status)};
  if (status != kRowFine) return status;
  begin_law(row, logit_at(row, best.id), 1.0f, law);
  list_few(law, &best, 1);
  return kRowFine;
}

inline RowStatus analyse(const RowSpec& row, Law* law) {
  Candidate best[kMaxBuffer];
  if (row.temperature < kLeastTemperature) return analyse_best(row, law);
  const bool is_few = lists_few(row);
  if (!has_filters(row)) {
    begin_law(row, 0.0f, 1.0f / row.temperature, law);
    return analyse_all(row, law);
  }
  const Scan scan = scan_row(row, is_few ? row.top_k : 0, best);
  if (scan.status != kRowFine) return scan.status;
  begin_law(row, scan.max, 1.0f / row.temperature, law);
  if (is_few) {
    sort(best, scan.count, ByRank());
    for (int i = 0; i < scan.count; i += vec::kLanes) {
      float x[vec::kLanes];
      for (int j = 0; j < vec::kLanes; ++j) x[j] = i + j < scan.count ? best[i + j].value : 0.0f;
      vec::store(x, shifted(*law, vec::load(x)));
      for (int j = 0; j < vec::kLanes && i + j < scan.count; ++j) best[i + j].value = x[j];
    }
    list_few(law, best, filter_few(*law, best, scan.count));
  } else {
    filter_all(law);
    sum_pieces(law);
  }
  return kRowFine;
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
