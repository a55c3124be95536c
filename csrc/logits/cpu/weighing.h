// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/cpu/exp.h"
#include "core/cpu/lanes.h"
#include "core/host_device.h"
#include "logits/row.h"

// What a token of a filtered row weighs, on CPUs a vector at a time, on CUDA one by one, with the
// same bits. Included by kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

constexpr int kBlock = 1024;  // tokens; 4 KB of floats stay in the first cache
constexpr int kMaxPieces = 1024;
constexpr float kMinusInfinity = -__builtin_inff();

// Sums of a block: element i belongs to strand i % 64, strands are added up in ascending order of
// i, then 64 to 16 as (a + b) + (c + d), then 16, here, as a binary tree in float64. The same on
// every ISA.
FEWSTEP_HOST_DEVICE inline double parts_sum(const float* parts) {
  double tree[8];
  FEWSTEP_UNROLL
  for (int i = 0; i < 8; ++i) tree[i] = (double)parts[i] + (double)parts[i + 8];
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; ++i) tree[i] += tree[i + 4];
  return (tree[0] + tree[2]) + (tree[1] + tree[3]);
}

// Tokens of a piece: at most kMaxPieces of them cover a row.
FEWSTEP_HOST_DEVICE inline int64_t piece_of(int64_t V) {
  const int64_t blocks = (V + kBlock - 1) / kBlock;
  return (blocks + kMaxPieces - 1) / kMaxPieces * kBlock;
}

// What a draw asks for: the token at which the sum of a piece's weights, or of a list's, exceeds
// it.
struct Target {
  double sum;
  int32_t piece;
};

// That of a draw at u in (0, 1) of pieces whose masses add up to `mass`, in the order of ids; no
// piece where none has any.
FEWSTEP_HOST_DEVICE inline Target target_in(const double* masses, int pieces, double mass,
                                            double u) {
  Target target = {u * mass, -1};
  for (int p = 0; p < pieces; ++p) {
    if (!(masses[p] > 0.0)) continue;
    target.piece = p;
    if (target.sum < masses[p]) return target;
    target.sum -= masses[p];
  }
  target.sum = mass;  // by rounding past all pieces: the last token with a weight
  return target;
}

// Tokens with key above `value` are kept, and of those with that very key the ones before `end`.
struct Threshold {
  float value = kMinusInfinity;
  int64_t end = 0;
};

struct Weighing {
  float max, scale;  // shifted logit x = (l - max) * scale <= 0, scale = 1 / temperature
  float rate;        // scale / ln 2: weights are 2^((l - max) * rate)
  float center;
  Threshold least;    // on x
  Threshold nearest;  // on -|x - center|: typical sampling
  bool has_least, has_nearest;
};

// One that keeps every token.
FEWSTEP_HOST_DEVICE inline Weighing weigh_all(float max, float scale) {
  return {max, scale, scale * 0x1.715476p+0f, 0.0f, {}, {}, false, false};
}

// Kept lanes of a vector of keys whose first lane is token `at`.
FEWSTEP_HOST_DEVICE inline uint32_t kept_lanes(const Threshold& t, vec::F32 key, int64_t at) {
  const vec::F32 value = vec::set(t.value);
  const uint32_t ties = vec::equal_bits(key, value) & vec::first_lanes(t.end - at);
  return vec::greater_bits(key, value) | ties;
}

FEWSTEP_HOST_DEVICE inline vec::F32 shifted(const Weighing& w, vec::F32 raw) {
  return vec::mul(vec::sub(raw, vec::set(w.max)), vec::set(w.scale));
}
// The logarithm to the base 2 of a logit's weight, and that weight, where it is kept.
FEWSTEP_HOST_DEVICE inline vec::F32 exponent(const Weighing& w, vec::F32 raw) {
  return vec::mul(vec::sub(raw, vec::set(w.max)), vec::set(w.rate));
}
FEWSTEP_HOST_DEVICE inline vec::F32 weights(const Weighing& w, vec::F32 raw) {
  return vec::exp2_below_127(exponent(w, raw));
}
FEWSTEP_HOST_DEVICE inline vec::F32 nearness(const Weighing& w, vec::F32 x) {
  const vec::F32 d = vec::sub(x, vec::set(w.center));
  return vec::min(d, vec::sub(vec::set(w.center), x));
}

// Lanes of shifted logits from token `at` on that are kept.
FEWSTEP_HOST_DEVICE inline uint32_t kept_lanes(const Weighing& w, vec::F32 x, int64_t at) {
  uint32_t lanes = vec::kAllLanes;
  if (w.has_least) lanes &= kept_lanes(w.least, x, at);
  if (w.has_nearest) lanes &= kept_lanes(w.nearest, nearness(w, x), at);
  return lanes;
}

// Weights of kLanes tokens from `at` on; all kept tokens where the law lists none.
FEWSTEP_HOST_DEVICE inline vec::F32 weights_of(const Weighing& w, vec::F32 raw, int64_t at) {
  const vec::F32 weight = weights(w, raw);
  if (!w.has_least && !w.has_nearest) return weight;
  return vec::select_bits(kept_lanes(w, shifted(w, raw), at), vec::set(0.0f), weight);
}

// Lanes of kLanes tokens from `at` on that have a weight: what the law keeps and exp2_below_127
// leaves anything of.
FEWSTEP_HOST_DEVICE inline uint32_t lanes_with_weight(const Weighing& w, vec::F32 raw, int64_t at) {
  return kept_lanes(w, shifted(w, raw), at) &
         vec::greater_bits(exponent(w, raw), vec::set(-126.5f));
}

// Weights times shifted logits, 0 where the weight is 0: their sum is -entropy times the mass.
FEWSTEP_HOST_DEVICE inline vec::F32 weighed_logits(const Weighing& w, vec::F32 raw, int64_t at) {
  const vec::F32 weight = weights_of(w, raw, at), zero = vec::set(0.0f);
  return vec::select_bits(vec::greater_bits(weight, zero), zero, vec::mul(weight, shifted(w, raw)));
}

// What weights are worth, in a vector of them, once the largest logit was `before` and is `after`.
FEWSTEP_HOST_DEVICE inline vec::F32 decays(const Weighing& w, float before, float after) {
  return vec::exp2_below_127(vec::set((before - after) * w.rate));
}

// The tighter of two thresholds on the same key.
FEWSTEP_HOST_DEVICE inline void tighten(Weighing* w, Threshold t) {
  if (w->has_least &&
      (w->least.value > t.value || (w->least.value == t.value && w->least.end <= t.end))) {
    return;
  }
  w->least = t;
  w->has_least = true;
}

// The least x that p >= share of the largest p allows.
FEWSTEP_HOST_DEVICE inline float log_share(double share) { return (float)log(share); }

// The same of eta sampling; mass: of the weights, mean: of x under the law.
FEWSTEP_HOST_DEVICE inline float eta_least(double eta, double mass, double mean) {
  const double cut = ::sqrt(eta) * ::exp(-(log(mass) - mean));
  return log_share((cut < eta ? cut : eta) * mass);
}

// Of a list in descending order of some key, with weights w, how many reach a share of the mass.
FEWSTEP_HOST_DEVICE inline int cut_at_mass(const float* w, int count, double share) {
  double total = 0.0, sum = 0.0;
  for (int i = 0; i < count; ++i) total += (double)w[i];
  int kept = 0;
  while (kept < count && (kept == 0 || sum < share * total)) sum += (double)w[kept++];
  return kept;
}

// Of shifted logits in descending order, how many are no less than `least`, but for the first.
FEWSTEP_HOST_DEVICE inline int cut_below(const float* x, int count, float least) {
  while (count > 1 && x[count - 1] < least) --count;
  return count;
}

// The mass of listed weights, and the mean of their shifted logits.
FEWSTEP_HOST_DEVICE inline void moments(const float* w, const float* x, int count, double* mass,
                                        double* mean) {
  *mass = 0.0;
  double sum = 0.0;
  for (int i = 0; i < count; ++i) {
    *mass += (double)w[i];
    if (w[i] > 0.0f) sum += (double)w[i] * (double)x[i];
  }
  *mean = sum / *mass;
}

FEWSTEP_HOST_DEVICE inline RowStatus status_of(float max, bool is_nan) {
  if (is_nan) return kRowNaN;
  if (max == -kMinusInfinity) return kRowInfinite;
  return max == kMinusInfinity ? kRowEmpty : kRowFine;
}

FEWSTEP_HOST_DEVICE inline bool has_filters(const RowSpec& row) {
  return (row.top_k > 0 && row.top_k < row.V) || row.top_p < 1.0f || row.min_p > 0.0f ||
         row.typical < 1.0f || row.eta > 0.0f;
}

// Whether the filters begin with so few tokens that they are listed.
FEWSTEP_HOST_DEVICE inline bool lists_few(const RowSpec& row) {
  return row.top_k > 0 && row.top_k <= kMaxCandidates && row.top_k < row.V;
}

// Below the normal numbers 1 / temperature could be infinite: there the best token is alone.
constexpr float kLeastTemperature = 0x1p-126f;

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
