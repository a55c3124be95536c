// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/cpu/exp.h"
#include "tree/cpu/attention_cell.h"

// What lies between the two products, and behind them: soft cap, visibility, the running softmax,
// and what it is divided by.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr uint32_t kHidden = 0x80000000u;  // what vec::select looks at

inline float minus_infinity() { return -__builtin_inff(); }

// tanh(x): Cephes' polynomial below 0.625, which keeps the relative error, and exp above.
inline F32 tanh_of(F32 x) {
  const F32 size = vec::max(x, vec::sub(vec::set(0.0f), x));
  const F32 e = vec::exp(vec::add(size, size));
  const F32 large = vec::sub(vec::set(1.0f), vec::div(vec::set(2.0f), vec::add(e, vec::set(1.0f))));
  const F32 z = vec::mul(x, x);
  F32 q = vec::fma(vec::set(-5.70498872745e-3f), z, vec::set(2.06390887954e-2f));
  q = vec::fma(q, z, vec::set(-5.37397155531e-2f));
  q = vec::fma(q, z, vec::set(1.33314422036e-1f));
  q = vec::fma(q, z, vec::set(-3.33332819422e-1f));
  const F32 small = vec::fma(vec::mul(q, z), x, x);
  const vec::I32 is_small = vec::bits(vec::sub(size, vec::set(0.625f)));
  return vec::select(is_small, vec::flip_sign(large, vec::bits(x)), small);
}

// Tokens of its block, from `first` on, that row t of request b sees.
inline int64_t seen_from(const AttentionProblem& p, int64_t b, int64_t t, int64_t first) {
  const int64_t tokens = block_of(p, b);
  if (!p.bits) return tokens - tokens_of(p, b) + t + 1 - first;
  const uint32_t* words = p.bits + (first_of(p, b) + t) * p.bits_stride;
  int64_t count = 0;
  for (int64_t i = first; i < tokens;) {
    const int64_t behind = min_of(tokens, i / 32 * 32 + 32);
    const uint32_t mask = 0xffffffffu >> (32 - (behind - i));
    count += __builtin_popcount(words[i / 32] >> (i % 32) & mask);
    i = behind;
  }
  return count;
}

// The depth of row t of request b: how far it lies behind the prefix.
inline int64_t depth_of(const AttentionProblem& p, int64_t b, int64_t t) {
  if (p.depth) return p.depth[(first_of(p, b) + t) * p.depth_stride];
  return seen_from(p, b, t, 0) - 1;
}

// Marks which of keys [begin, begin + count) row t of request b does not see.
inline void find_hidden(const AttentionProblem& p, int64_t b, int64_t t, int64_t begin, int count,
                        uint32_t* hidden) {
  const int64_t prefix = prefix_of(p, b), earlier = block_of(p, b) - tokens_of(p, b);
  const uint32_t* words = p.bits ? p.bits + (first_of(p, b) + t) * p.bits_stride : nullptr;
  const int64_t depth = p.window > 0 ? depth_of(p, b, t) : 0;
  // Keys at or before this position have left the window.
  const int64_t left = p.window > 0 ? prefix + depth - p.window : -1;
  const auto within = [](int64_t i, int64_t end) { return int(i < 0 ? 0 : min_of(i, end)); };
  const int before = within(prefix - begin, count), gone = within(left + 1 - begin, before);
  for (int j = 0; j < gone; ++j) hidden[j] = kHidden;
  for (int j = gone; j < before; ++j) hidden[j] = 0;
  if (p.window == 0) {
    for (int j = before; j < count;) {  // 32 keys, whose bits vectors spread
      const int64_t i = begin + j - prefix;
      const int n = min_of(32 - int(i % 32), count - j);
      const int chain = within(earlier + t + 1 - i, n);
      const uint32_t seen =
          words ? words[i / 32] >> (i % 32) : uint32_t((uint64_t(1) << chain) - 1);
      for (int k = 0; k < n; ++k) hidden[j + k] = ~seen >> k << 31;
      j += n;
    }
    return;
  }
  for (int j = before; j < count; ++j) {
    const int64_t i = begin + j - prefix;
    bool seen = words ? (words[i / 32] >> (i % 32) & 1u) != 0 : i <= earlier + t;
    if (seen) {
      const int64_t own = i < earlier ? depth - seen_from(p, b, t, i + 1)  // an ancestor
                                      : depth_of(p, b, i - earlier);
      seen = prefix + own > left;
    }
    hidden[j] = seen ? 0 : kHidden;
  }
}

// Running softmax of a block's rows (Milakov, Gimelshein 2018, algorithm 3).
struct Running {
  float* largest;           // of the scaled logits, per row
  float (*sums)[kStrands];  // of the weights
  const uint32_t* hidden[kRegisterRows];
  bool masked;
  float scale, softcap;
};

inline void cap_row(float* s, int padded, float scale, float softcap) {
  const F32 inward = vec::set(scale / softcap), outward = vec::set(softcap);
  for (int j = 0; j < padded; j += kLanes) {
    vec::store(s + j, vec::mul(outward, tanh_of(vec::mul(vec::load(s + j), inward))));
  }
}

inline void hide(float* s, const uint32_t* hidden, int padded) {
  for (int j = 0; j < padded; j += kLanes) {
    const vec::I32 mask = vec::bits(vec::load((const float*)hidden + j));
    vec::store(s + j, vec::select(mask, vec::load(s + j), vec::set(minus_infinity())));
  }
}

inline float largest_of(const float* s, int padded) {
  F32 top[2] = {vec::set(minus_infinity()), vec::set(minus_infinity())};
  for (int j = 0; j < padded; j += 2 * kLanes) {
    top[0] = vec::max(top[0], vec::load(s + j));
    top[1] = vec::max(top[1], vec::load(s + j + kLanes));
  }
  return vec::largest_lane(vec::max(top[0], top[1]));
}

// exp(scale * s - base) of logits s, for a Cell of that depth.
template <int kDepth>
struct Weight {
  F32 rate, minus_base;

  Weight(float scale, float base) : rate(vec::set(scale)), minus_base(vec::set(-base)) {}
  F32 of(F32 s) const { return vec::exp_below_88(vec::fma(s, rate, minus_base)); }
};

#if defined(__AVX512BF16__)
// The same as a power of two, in two thirds of the operations: no narrower ISA has pairs, and so
// none is to have these bits. With vec::exp2_below_127, whose bits all have, attention takes 1 to 3
// hundredths more on Zen 4. The polynomial, minimax with 1 at 0, has a relative error of 0.9e-7;
// below 2^-150 a weight is 0.
template <>
struct Weight<2> {
  static constexpr float kLog2E = 0x1.715476p+0f;
  F32 rate, minus_base;

  Weight(float scale, float base) : Weight(scale, vec::set(base)) {}
  Weight(float scale, F32 base)
      : rate(vec::set(scale * kLog2E)), minus_base(vec::mul(base, vec::set(-kLog2E))) {}
  F32 of(F32 s) const {
    const F32 x = vec::max(vec::set(-160.0f), vec::fma(s, rate, minus_base));
    const F32 n = {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    const F32 f = vec::sub(x, n);
    F32 p = vec::fma(vec::set(0x1.5bb994p-10f), f, vec::set(0x1.3cea84p-7f));
    p = vec::fma(p, f, vec::set(0x1.c6b754p-5f));
    p = vec::fma(p, f, vec::set(0x1.ebf9bcp-3f));
    p = vec::fma(p, f, vec::set(0x1.62e42ap-1f));
    return {_mm512_scalef_ps(vec::fma(p, f, vec::set(1.0f)).v, n.v)};
  }
};
#endif

// Turns the logits of `count` keys into weights exp(logit - largest), adds them up, and finds what
// earlier sums are multiplied by.
template <class Cell>
void weigh(Block& block, Running& run, int count) {
  const int padded = rounded_up(count, 2 * kStrands);
  const float scale = run.softcap > 0.0f ? 1.0f : run.scale;
  alignas(64) float change[kStrands] = {};
  float base[kRegisterRows];
  for (int r = 0; r < block.rows; ++r) {
    float* s = block.scores[r];
    if (run.softcap > 0.0f) cap_row(s, padded, run.scale, run.softcap);
    for (int j = count; j < padded; ++j) s[j] = minus_infinity();
    if (run.masked) hide(s, run.hidden[r], padded);
    const float top = largest_of(s, padded) * scale;
    const float before = run.largest[r];
    const float largest = before > top ? before : top;
    base[r] = largest == minus_infinity() ? 0.0f : largest;
    change[r] = before - base[r];
    run.largest[r] = largest;
  }
  for (int i = 0; i < kStrands; i += kLanes) {
    vec::store(block.factor + i, vec::exp_below_88(vec::load(change + i)));
  }
  constexpr int kSums = kStrands / kLanes;
  for (int r = 0; r < block.rows; ++r) {
    float* s = block.scores[r];
    const Weight<Cell::kDepth> weight(scale, base[r]);
    const F32 f = vec::set(block.factor[r]);
    F32 sum[kSums];
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sum[i] = vec::mul(vec::load(run.sums[r] + i * kLanes), f);
    for (int j = 0; j < padded; j += 2 * kStrands) {
      F32 e[2 * kSums];
#pragma GCC unroll 32
      for (int i = 0; i < 2 * kSums; ++i) {
        e[i] = weight.of(vec::load(s + j + i * kLanes));
        sum[i % kSums] = vec::add(sum[i % kSums], e[i]);
        if (Cell::kDepth == 1) vec::store(s + j + i * kLanes, e[i]);
      }
#if defined(__AVX512BF16__)
      if (Cell::kDepth == 2) {
        vec::store((float*)(block.weights[r] + j), vec::narrow_to_pairs(e[0], e[1]));
      }
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) vec::store(run.sums[r] + i * kLanes, sum[i]);
  }
}

// The sum of a row's strands, pairwise.
inline float total_of(const float* strands) {
  float s[kStrands];
  for (int i = 0; i < kStrands; ++i) s[i] = strands[i];
  for (int half = kStrands / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  }
  return s[0];
}

inline void store_out(const AttentionProblem& p, char* to, int d, F32 x) {
  if (p.out_type == DType::kF32) vec::store((float*)to + d, x);
  if (p.out_type == DType::kF16) vec::store_f16((uint16_t*)to + d, x);
  if (p.out_type == DType::kBF16) vec::store_bf16((uint16_t*)to + d, x);
}

// Divides a row by its sum of weights; a sink is one more weight, with a value of zero.
void finish_row(const AttentionProblem& p, int64_t n, int h, const float* values, float largest,
                float sum) {
  float factor = 1.0f;
  if (p.sinks) {
    const float sink = p.sinks[h * p.sinks_stride];
    const float most = largest > sink ? largest : sink;
    const float base = most == minus_infinity() ? 0.0f : most;
    factor = vec::exp_of(largest - base);
    sum = sum * factor + vec::exp_of(sink - base);
    largest = most;
  }
  factor = sum == 0.0f ? 0.0f : factor / sum;
  char* to = p.out.data + n * p.out.row + h * p.out.head;
  for (int d = 0; d < p.D; d += kLanes) {
    store_out(p, to, d, vec::mul(vec::load(values + d), vec::set(factor)));
  }
  if (p.lse) {
    p.lse[n * p.lse_stride + h] =
        sum == 0.0f ? minus_infinity() : float(double(largest) + log(double(sum)));
  }
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
