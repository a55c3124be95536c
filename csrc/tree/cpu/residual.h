// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cpu/analyse.h"
#include "tree/cpu/draft_law.h"
#include "tree/cpu/left.h"

// Laws that are left when drafts were rejected, over a whole vocabulary. Included by kernel files
// only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::FEWSTEP_ISA::fill_weights;
using logits::FEWSTEP_ISA::kBlock;
using logits::FEWSTEP_ISA::kMaxPieces;
using logits::FEWSTEP_ISA::kStrandVectors;
using logits::FEWSTEP_ISA::probability;
using logits::FEWSTEP_ISA::strands_sum;
using TargetLaw = logits::FEWSTEP_ISA::Law;

// Tokens [begin, begin + kBlock), zeros outside of the law.
inline void fill_draft(const DraftLaw& law, int64_t begin, float* q) {
  if (!law.ids) {
    const int64_t left = law.S - begin;
    const int n = left >= kBlock ? kBlock : left > 0 ? (int)left : 0;
    for (int i = 0; i < n; ++i) q[i] = law.q[begin + i];
    for (int i = n; i < kBlock; ++i) q[i] = 0.0f;
    return;
  }
  for (int i = 0; i < kBlock; ++i) q[i] = 0.0f;
  int64_t s = lower_bound(law.ids, 0, law.S, begin);
  for (; s < law.S && law.ids[s] < begin + kBlock; ++s) q[law.ids[s] - begin] = law.q[s];
}

// What is left of p, whose draft is q.
struct Residual {
  const TargetLaw& p;
  const DraftLaw& q;
  const Draws& draws;
  const Left& left;
};

template <Kind kKind>
struct Values {
  Residual of;
  Factors f;

  explicit Values(const Residual& residual)
      : of(residual), f(factors_of(residual.left, residual.p.mass)) {}

  void block(int64_t begin, float* r) const {
    fill_weights(of.p, begin, r);
    const vec::F32 zero = vec::set(0.0f);
    if (needs_draft(of.left)) {
      float draft[kBlock];
      fill_draft(of.q, begin, draft);
      for (int i = 0; i < kBlock; i += vec::kLanes) {
        vec::store(r + i, values_of(kKind, f, vec::load(r + i), vec::load(draft + i)));
      }
    } else {
      for (int i = 0; i < kBlock; i += vec::kLanes) {
        vec::store(r + i, values_of(kKind, f, vec::load(r + i), zero));
      }
    }
    for (int i = of.left.first; i < of.left.first + of.left.tried; ++i) {
      const int64_t at = of.draws.token[i] - begin;
      if (at >= 0 && at < kBlock) r[at] = 0.0f;
    }
  }
  // Whether a block's values are those of its rows, one by one, with nothing in the way.
  bool is_plain(int64_t begin) const {
    if (!needs_draft(of.left) || of.q.ids || begin + kBlock > of.q.S || of.p.count >= 0)
      return false;
    for (int i = of.left.first; i < of.left.first + of.left.tried; ++i) {
      if (of.draws.token[i] >= begin && of.draws.token[i] < begin + kBlock) return false;
    }
    return true;
  }
  // The sum of a block: without a copy where it is plain, with the same bits.
  double mass(int64_t begin) const {
    float buffer[kBlock];
    vec::F32 acc[kStrandVectors];
    for (vec::F32& a : acc) a = vec::set(0.0f);
    if (!is_plain(begin)) {
      block(begin, buffer);
      for (int i = 0; i < kBlock; i += 64) {
        for (int j = 0; j < kStrandVectors; ++j) {
          acc[j] = vec::add(acc[j], vec::load(buffer + i + j * vec::kLanes));
        }
      }
      return strands_sum(acc);
    }
    const float* raw = logits::FEWSTEP_ISA::raw_block(of.p.row, begin, buffer);
    for (int i = 0; i < kBlock; i += 64) {
      for (int j = 0; j < kStrandVectors; ++j) {
        const int o = i + j * vec::kLanes;
        const vec::F32 w = logits::FEWSTEP_ISA::weights_of(of.p, vec::load(raw + o), begin + o);
        acc[j] = vec::add(acc[j], values_of(kKind, f, w, vec::load(of.q.q + begin + o)));
      }
    }
    return strands_sum(acc);
  }
};

// Calls f with the values of what is left.
template <class F>
inline auto with_values(const Residual& residual, const F& f) {
  switch (residual.left.kind) {
    case Kind::kExcess:
      return f(Values<Kind::kExcess>(residual));
    case Kind::kOverlap:
      return f(Values<Kind::kOverlap>(residual));
    case Kind::kOverlapLeft:
      return f(Values<Kind::kOverlapLeft>(residual));
    case Kind::kAdjusted:
      return f(Values<Kind::kAdjusted>(residual));
    default:
      return f(Values<Kind::kAdjustedLeft>(residual));
  }
}

// Masses of the runs of tokens that the target's law has, and their sum.
struct Masses {
  double sums[kMaxPieces];
  double total;
  int64_t piece;
  int32_t pieces;
};

inline double weigh(const Residual& residual, Masses* out) {
  const int64_t V = residual.p.row.V;
  out->piece = logits::FEWSTEP_ISA::piece_of(V);
  out->pieces = (int32_t)((V + out->piece - 1) / out->piece);
  out->total = 0.0;
  with_values(residual, [&](const auto& values) {
    for (int32_t i = 0; i < out->pieces; ++i) {
      double sum = 0.0;
      const int64_t end = (i + 1) * out->piece < V ? (i + 1) * out->piece : V;
      for (int64_t begin = i * out->piece; begin < end; begin += kBlock) sum += values.mass(begin);
      out->sums[i] = sum;
      out->total += sum;
    }
  });
  return out->total;
}

// The first token of [begin, end) up to which values add up to more than the target; where rounding
// leaves none, the last with a value, -1 where none has.
template <class V>
inline int64_t find_value(const V& values, int64_t begin, int64_t end, double target) {
  float r[kBlock];
  int64_t token = -1;
  double sum = 0.0;
  for (; begin < end; begin += kBlock) {
    values.block(begin, r);
    for (int i = 0; i < kBlock; ++i) {
      if (!(r[i] > 0.0f)) continue;
      token = begin + i;
      sum += (double)r[i];
      if (sum > target) return token;
    }
  }
  return token;
}

// The token at u of the cumulative values, in the order of ids; -1 where there are none.
inline int64_t draw_left(const Residual& residual, const Masses& masses, double u) {
  const logits::FEWSTEP_ISA::Target target =
      logits::FEWSTEP_ISA::target_in(masses.sums, masses.pieces, masses.total, u);
  if (target.piece < 0) return -1;
  const int64_t V = residual.p.row.V, begin = target.piece * masses.piece;
  const int64_t end = begin + masses.piece < V ? begin + masses.piece : V;
  return with_values(
      residual, [&](const auto& values) { return find_value(values, begin, end, target.sum); });
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
