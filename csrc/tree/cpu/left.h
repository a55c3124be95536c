// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/cpu/exp.h"
#include "core/cpu/lanes.h"
#include "core/host_device.h"
#include "tree/verify.h"

// What rejected drafts leave of a target's law, token by token, on CPUs a vector of tokens at a
// time, on CUDA one by one, with the same bits. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int kMaxDraws = FEWSTEP_MAX_DRAWS;  // of a node that are looked at

// The draws of a node: nodes and their tokens, in order.
struct Draws {
  int32_t node[kMaxDraws], token[kMaxDraws];
  int64_t place[kMaxDraws];  // in the list of draws, where there is one
  int count;
};

enum class Kind : int32_t {
  kExcess,        // max(c p - d q, 0), 0 where the token was tried
  kOverlap,       // min(q, p / rho)
  kOverlapLeft,   // p - g min(q, p / rho)
  kAdjusted,      // a: p exp(-strength (p - q)) / mass where q >= least, p / mass elsewhere
  kAdjustedLeft,  // max(p - q, p - a, 0)
};

// Values of tokens, from p and q. A rejected token has p < q, so nothing is left of it; what is
// left of the others after several rejections is an excess, with a new c and d each time.
struct Left {
  Kind kind;
  int32_t first, tried;  // draws that were tried
  double c, d;
  double rho, g;
  double mass;
  float strength, least;
};

FEWSTEP_HOST_DEVICE inline Left excess(double c, double d, int32_t first = 0, int32_t tried = 0) {
  return {Kind::kExcess, first, tried, c, d, 1.0, 0.0, 1.0, 0.0f, 0.0f};
}
FEWSTEP_HOST_DEVICE inline Left overlap(Kind kind, double rho, double g = 0.0) {
  return {kind, 0, 0, 1.0, 1.0, rho, g, 1.0, 0.0f, 0.0f};
}
FEWSTEP_HOST_DEVICE inline Left adjusted(const VerifyParams& params, float largest_draft) {
  const float least = params.share * largest_draft;
  return {Kind::kAdjusted, 0, 0, 1.0, 1.0, 1.0, 0.0, 1.0, params.strength, least};
}

FEWSTEP_HOST_DEVICE inline bool needs_draft(const Left& left) {
  return left.kind != Kind::kExcess || left.d != 0.0;
}

FEWSTEP_HOST_DEVICE inline bool is_tried(const Left& left, const Draws& draws, int64_t v) {
  for (int i = left.first; i < left.first + left.tried; ++i) {
    if (draws.token[i] == v) return true;
  }
  return false;
}

// What tokens' weights, whose sum is `mass`, and probabilities are multiplied by.
struct Factors {
  float whole, part, minus, rate, least;
};
FEWSTEP_HOST_DEVICE inline Factors factors_of(const Left& left, double mass) {
  if (left.kind == Kind::kExcess) {
    return {(float)(left.c / mass), 0.0f, (float)-left.d, 0.0f, 0.0f};
  }
  const float whole = (float)(1.0 / mass);
  if (left.kind == Kind::kOverlap || left.kind == Kind::kOverlapLeft) {
    return {whole, (float)(1.0 / (mass * left.rho)), (float)-left.g, 0.0f, 0.0f};
  }
  return {whole, (float)(1.0 / left.mass), 0.0f, left.strength, left.least};
}

// The values of tokens that were not tried. w: their weights, q: the draft's probabilities.
FEWSTEP_HOST_DEVICE inline vec::F32 values_of(Kind kind, const Factors& f, vec::F32 w, vec::F32 q) {
  const vec::F32 zero = vec::set(0.0f), minus = vec::set(f.minus), part = vec::set(f.part);
  const vec::F32 p = vec::mul(w, vec::set(f.whole));
  if (kind == Kind::kExcess) return vec::max(zero, vec::fma(q, minus, p));
  if (kind == Kind::kOverlap || kind == Kind::kOverlapLeft) {
    const vec::F32 least = vec::min(q, vec::mul(w, part));
    return kind == Kind::kOverlap ? least : vec::max(zero, vec::fma(least, minus, p));
  }
  const vec::F32 bound = vec::set(f.least);
  const vec::F32 factor = vec::exp(vec::mul(vec::set(f.rate), vec::sub(q, p)));
  const uint32_t is_moved = vec::greater_bits(q, bound) | vec::equal_bits(q, bound);
  const vec::F32 moved = vec::select_bits(is_moved, vec::set(1.0f), factor);
  const vec::F32 a = vec::mul(vec::mul(p, moved), part);
  if (kind == Kind::kAdjusted) return a;
  return vec::max(zero, vec::sub(p, vec::min(a, q)));
}

// The same of one token, which is one that is asked for before any sum: an excess or kAdjusted.
FEWSTEP_HOST_DEVICE inline double value_at(const Left& left, double p, double q) {
  if (left.kind == Kind::kExcess) {
    const double x = left.c * p - left.d * q;
    return x > 0.0 ? x : 0.0;
  }
  const double moved = (float)q >= left.least ? ::exp((double)left.strength * (q - p)) : 1.0;
  return p * moved / left.mass;
}

// x^k, with the same bits everywhere.
FEWSTEP_HOST_DEVICE inline double power(double x, int k) {
  double product = 1.0;
  for (; k > 0; k >>= 1, x *= x) {
    if (k & 1) product *= x;
  }
  return product;
}

// The least rho, from above, at which k draws from q that are each accepted with min(1, p / (rho
// q)) leave a residual law: 1 - (1 - beta)^k = rho beta with beta the chance of one draw (Sun et
// al. 2023, equation 5). Any larger rho is lossless too, so the upper end of the bisection is
// taken. beta is the mass of an overlap.
struct RhoSearch {
  double low, high;
  int32_t k, steps;
};
FEWSTEP_HOST_DEVICE inline RhoSearch start_rho(int32_t k) { return {1.0, (double)k, k, 0}; }
FEWSTEP_HOST_DEVICE inline bool is_open(const RhoSearch& s) {
  return s.steps < 50 && s.k > 1 && s.high - s.low > 1e-14 * s.high;
}
// At which beta is asked for next.
FEWSTEP_HOST_DEVICE inline double next_rho(const RhoSearch& s) {
  return is_open(s) ? 0.5 * (s.low + s.high) : s.high;
}
FEWSTEP_HOST_DEVICE inline double ratio_of(int32_t k, double beta) {
  return beta > 0.0 ? (1.0 - power(1.0 - (beta < 1.0 ? beta : 1.0), k)) / beta : 0.0;
}
FEWSTEP_HOST_DEVICE inline void put_beta(double beta, RhoSearch* s) {
  const double middle = next_rho(*s);
  if (ratio_of(s->k, beta) <= middle) {
    s->high = middle;
  } else {
    s->low = middle;
  }
  ++s->steps;
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
