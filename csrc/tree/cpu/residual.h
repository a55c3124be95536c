// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cpu/analyse.h"
#include "tree/verify.h"

// Laws that are left when drafts were rejected, over a whole vocabulary. Included by kernel files
// only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using logits::FEWSTEP_ISA::draw;
using logits::FEWSTEP_ISA::fill_weights;
using logits::FEWSTEP_ISA::kBlock;
using logits::FEWSTEP_ISA::kMaxPieces;
using logits::FEWSTEP_ISA::kStrandVectors;
using logits::FEWSTEP_ISA::probability;
using logits::FEWSTEP_ISA::strands_sum;
using TargetLaw = logits::FEWSTEP_ISA::Law;

// The draft's law at a node: S probabilities of the tokens ids[s], or of the tokens s.
struct DraftLaw {
  const float* q;
  const int32_t* ids;  // ascending, or null
  int64_t S;
};

// The first s with ids[s] >= v.
inline int64_t lower_bound(const DraftLaw& law, int64_t v) {
  int64_t low = 0, high = law.S;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (law.ids[middle] < v) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

inline double draft_probability(const DraftLaw& law, int64_t v) {
  if (!law.ids) return v < law.S ? (double)law.q[v] : 0.0;
  const int64_t s = lower_bound(law, v);
  return s < law.S && law.ids[s] == v ? (double)law.q[s] : 0.0;
}

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
  for (int64_t s = lower_bound(law, begin); s < law.S && law.ids[s] < begin + kBlock; ++s) {
    q[law.ids[s] - begin] = law.q[s];
  }
}

// Tokens that were tried and rejected: those of the first `count` draws.
struct Tried {
  const int32_t* tokens;
  int count;
};
inline bool contains(const Tried& tried, int64_t v) {
  for (int i = 0; i < tried.count; ++i) {
    if (tried.tokens[i] == v) return true;
  }
  return false;
}

inline double block_mass(const float* r) {
  vec::F32 acc[kStrandVectors];
  for (vec::F32& a : acc) a = vec::set(0.0f);
  for (int i = 0; i < kBlock; i += 64) {
    for (int j = 0; j < kStrandVectors; ++j) {
      acc[j] = vec::add(acc[j], vec::load(r + i + j * vec::kLanes));
    }
  }
  return strands_sum(acc);
}

// The sum of a block of values.
template <class Values>
inline double mass_of(const Values& values, int64_t begin) {
  float r[kBlock];
  values.block(begin, r);
  return block_mass(r);
}

// r(v) = max(c p(v) - d q(v), 0) where v was not tried, else 0. A rejected token has p < q, so
// nothing is left of it; what is left of the others after several rejections has this form, with a
// new c and d each time.
struct Excess {
  const TargetLaw* p;
  const DraftLaw* q;  // null where d = 0
  double c, d;
  Tried tried;

  void block(int64_t begin, float* r) const {
    fill_weights(*p, begin, r);
    const vec::F32 zero = vec::set(0.0f), scale = vec::set((float)(c / p->mass));
    if (q) {
      float draft[kBlock];
      fill_draft(*q, begin, draft);
      const vec::F32 minus = vec::set((float)-d);
      for (int i = 0; i < kBlock; i += vec::kLanes) {
        const vec::F32 left = vec::mul(vec::load(r + i), scale);
        vec::store(r + i, vec::max(zero, vec::fma(vec::load(draft + i), minus, left)));
      }
    } else {
      for (int i = 0; i < kBlock; i += vec::kLanes) {
        vec::store(r + i, vec::mul(vec::load(r + i), scale));
      }
    }
    for (int i = 0; i < tried.count; ++i) {
      const int64_t at = tried.tokens[i] - begin;
      if (at >= 0 && at < kBlock) r[at] = 0.0f;
    }
  }
  // The sum of a block: that of `block` bit for bit, without a copy where nothing stands in the
  // way.
  double mass(int64_t begin) const {
    bool is_plain = q && !q->ids && begin + kBlock <= q->S && p->count < 0;
    for (int i = 0; i < tried.count; ++i) {
      is_plain = is_plain && (tried.tokens[i] < begin || tried.tokens[i] >= begin + kBlock);
    }
    if (!is_plain) return mass_of(*this, begin);
    float buffer[kBlock];
    const float* raw = logits::FEWSTEP_ISA::raw_block(p->row, begin, buffer);
    const vec::F32 zero = vec::set(0.0f), scale = vec::set((float)(c / p->mass));
    const vec::F32 minus = vec::set((float)-d);
    vec::F32 acc[kStrandVectors];
    for (vec::F32& a : acc) a = zero;
    for (int i = 0; i < kBlock; i += 64) {
      for (int j = 0; j < kStrandVectors; ++j) {
        const int o = i + j * vec::kLanes;
        const vec::F32 w = logits::FEWSTEP_ISA::weights_of(*p, vec::load(raw + o), begin + o);
        const vec::F32 left = vec::mul(w, scale), draft = vec::load(q->q + begin + o);
        acc[j] = vec::add(acc[j], vec::max(zero, vec::fma(draft, minus, left)));
      }
    }
    return strands_sum(acc);
  }
  double at(int64_t v) const {
    if (contains(tried, v)) return 0.0;
    const double x = c * probability(*p, v) - (q ? d * draft_probability(*q, v) : 0.0);
    return x > 0.0 ? x : 0.0;
  }
};

// min(q(v), p(v) / rho), or with kLeft what it leaves of p: p(v) - g min(q(v), p(v) / rho).
template <bool kLeft>
struct Overlap {
  const TargetLaw* p;
  const DraftLaw* q;
  double rho, g;

  void block(int64_t begin, float* r) const {
    float draft[kBlock];
    fill_weights(*p, begin, r);
    fill_draft(*q, begin, draft);
    const vec::F32 zero = vec::set(0.0f), whole = vec::set((float)(1.0 / p->mass));
    const vec::F32 part = vec::set((float)(1.0 / (p->mass * rho))), minus = vec::set((float)-g);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      const vec::F32 w = vec::load(r + i);
      const vec::F32 least = vec::min(vec::load(draft + i), vec::mul(w, part));
      vec::store(r + i, kLeft ? vec::max(zero, vec::fma(least, minus, vec::mul(w, whole))) : least);
    }
  }
};

// Masses of the runs of tokens that the target's law has, and their sum.
struct Masses {
  double sums[kMaxPieces];
  double total;
  int64_t piece;
  int32_t pieces;
};

template <class Values>
inline double weigh(const Values& values, int64_t V, Masses* out) {
  const int64_t blocks = (V + kBlock - 1) / kBlock;
  out->piece = (blocks + kMaxPieces - 1) / kMaxPieces * kBlock;
  out->pieces = (int32_t)((V + out->piece - 1) / out->piece);
  out->total = 0.0;
  for (int32_t i = 0; i < out->pieces; ++i) {
    double sum = 0.0;
    const int64_t end = (i + 1) * out->piece < V ? (i + 1) * out->piece : V;
    for (int64_t begin = i * out->piece; begin < end; begin += kBlock) {
      if constexpr (requires { values.mass(begin); }) {
        sum += values.mass(begin);
      } else {
        sum += mass_of(values, begin);
      }
    }
    out->sums[i] = sum;
    out->total += sum;
  }
  return out->total;
}

// The token at u of the cumulative values, in the order of ids; -1 where there are none.
template <class Values>
inline int64_t draw_from(const Values& values, int64_t V, const Masses& masses, double u) {
  float r[kBlock];
  double target = u * masses.total;
  int32_t last = -1;
  bool inside = false;
  for (int32_t i = 0; i < masses.pieces && !inside; ++i) {
    if (!(masses.sums[i] > 0.0)) continue;
    last = i;
    inside = target < masses.sums[i];
    if (!inside) target -= masses.sums[i];
  }
  if (last < 0) return -1;
  if (!inside) target = masses.total;  // past all by rounding: the last token with a value
  const int64_t end = (last + 1) * masses.piece < V ? (last + 1) * masses.piece : V;
  int64_t token = -1;
  double sum = 0.0;
  for (int64_t begin = last * masses.piece; begin < end; begin += kBlock) {
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

// The least rho, from above, at which `k` draws from q that are each accepted with min(1, p / (rho
// q)) leave a residual law: 1 - (1 - beta)^k = rho beta with beta the chance of one draw (Sun et
// al. 2023, equation 5). Any larger rho is lossless too, so the upper end of the bisection is
// taken.
inline double k_seq_rho(const TargetLaw& p, const DraftLaw& q, int k, double* g, Masses* scratch) {
  double low = 1.0, high = (double)k;
  *g = 0.0;
  const auto ratio = [&](double rho) {
    const double beta = weigh(Overlap<false>{&p, &q, rho, 0.0}, p.row.V, scratch);
    return beta > 0.0 ? (1.0 - pow(1.0 - (beta < 1.0 ? beta : 1.0), (double)k)) / beta : 0.0;
  };
  for (int i = 0; i < 50 && k > 1 && high - low > 1e-14 * high; ++i) {
    const double middle = 0.5 * (low + high);
    if (ratio(middle) <= middle) {
      high = middle;
    } else {
      low = middle;
    }
  }
  *g = ratio(high);
  return high;
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
