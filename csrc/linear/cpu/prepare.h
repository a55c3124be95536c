// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <math.h>

#include "core/cpu/parallel.h"
#include "linear/activations.h"
#include "linear/cpu/convert.h"
#include "linear/cpu/panel.h"

// Activations as panel.h wants them, normalised on the way where asked. Included by kernel files
// only.
namespace fewstep::linear {
namespace {

// 1 / sqrt(mean(x^2) + eps): element i is summed in lane i % 16, the lanes as a tree.
inline float inverse_rms(const Rows& x, int64_t row, int64_t I, float eps) {
  float lanes[kRun] = {};
  const char* p = x.data + row * x.stride_bytes;
  for (int64_t i = 0; i < I; i += kBlock) {
    float part[kBlock];
    const int64_t n = I - i < kBlock ? I - i : kBlock;
    widen(x.type, p + i * bytes_of(x.type), n, part);
    for (int64_t k = n; k % kRun; ++k) part[k] = 0.0f;
    for (int64_t k = 0; k < n; k += kRun) {
      for (int v = 0; v < kRun; v += vec::kLanes) {
        const vec::F32 value = vec::load(part + k + v);
        vec::store(lanes + v, vec::fma(value, value, vec::load(lanes + v)));
      }
    }
  }
  for (int half = kRun / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) lanes[k] += lanes[k + half];
  }
  return 1.0f / sqrtf(lanes[0] / (float)I + eps);
}

// x and the weight may be normed: (x * inverse) * weight.
inline void norm_run(float inverse, const Rows& norm, int64_t i, int64_t n, float* x) {
  float weight[kBlock];
  widen(norm.type, norm.data + i * bytes_of(norm.type), n, weight);
  for (int64_t k = n; k % kRun; ++k) weight[k] = 0.0f;
  const vec::F32 factor = vec::set(inverse);
  for (int64_t k = 0; k < n; k += vec::kLanes) {
    vec::store(x + k, vec::mul(vec::mul(vec::load(x + k), factor), vec::load(weight + k)));
  }
}

// Quantises a block, n a multiple of 16; returns its scale. A block that is not finite has a scale
// that is not.
inline float quantize(const float* x, int64_t n, int32_t* q) {
  const vec::F32 zero = vec::set(0.0f);
  vec::F32 largest = zero, poison = zero;  // 0, or NaN where an element is not finite
  const vec::I32 magnitude = vec::set_i32(INT32_MAX);
  float lanes[vec::kLanes], poisons[vec::kLanes], most = 0.0f;
  for (int64_t k = 0; k < n; k += vec::kLanes) {
    const vec::F32 value = vec::float_of_bits(vec::bit_and(vec::bits(vec::load(x + k)), magnitude));
    largest = vec::max(value, largest);
    poison = vec::fma(value, zero, poison);
  }
  vec::store(lanes, largest);
  vec::store(poisons, poison);
  for (int v = 0; v < vec::kLanes; ++v) most = lanes[v] > most ? lanes[v] : most;
  for (int v = 0; v < vec::kLanes; ++v) most += poisons[v];
  const float inverse = most > 1e-30f ? (float)kMaxActivation / most : 0.0f;
  const vec::F32 factor = vec::set(inverse), magic = vec::set(0x1.8p23f);
  for (int64_t k = 0; k < n; k += vec::kLanes) {
    // The sum's rounding is that to an integer; where x is not finite the scale tells.
    const vec::F32 shifted = vec::fma(vec::load(x + k), factor, magic);
    vec::store((float*)q + k, vec::float_of_bits(vec::sub(vec::bits(shifted), vec::bits(magic))));
  }
  if (!(most > 1e-30f)) {
    for (int64_t k = 0; k < n; ++k) q[k] = 0;
    return most == most ? 0.0f : most;
  }
  return most / (float)kMaxActivation;
}

struct Prepare {
  const ActivationsProblem* p;
  Activations x;
  Tiles tiles;
  uint32_t* words;
  float* scales;
  int32_t* sums;
};

// Words that a tile's row has of one block, at most.
constexpr int kMostRows = 12;  // of a tile
constexpr int64_t kPitch = kBlock + kRun;

// Writes word k of R rows, which lie kPitch apart, side by side. A vector that is stored reaches
// into the words of the next one, which follows; the last ones are stored aside first.
[[gnu::flatten]] inline void interleave(const uint32_t* rows, int64_t R, int64_t words,
                                        uint32_t* to) {
  if (R == 1) {
    memcpy(to, rows, (size_t)words * sizeof(uint32_t));
    return;
  }
  if (R < 4 || vec::kLanes == 1) {
    for (int64_t k = 0; k < words; ++k) {
      for (int64_t r = 0; r < R; ++r) to[k * R + r] = rows[r * kPitch + k];
    }
    return;
  }
  for (int64_t k = 0; k < words; k += vec::kLanes) {
    vec::F32 z[vec::kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < vec::kLanes; ++i) {
      z[i] = vec::load((const float*)rows + (i < R ? i : 0) * kPitch + k);
    }
    vec::transpose(z);
    uint32_t last[(vec::kLanes + 1) * vec::kLanes];
    const bool is_last = k + 2 * vec::kLanes > words;
    uint32_t* const at = is_last ? last : to + k * R;
#pragma GCC unroll 16
    for (int i = 0; i < vec::kLanes; ++i) vec::store((float*)at + i * R, z[i]);
    if (!is_last) continue;
    const int64_t n = words - k < vec::kLanes ? words - k : vec::kLanes;
    memcpy(to + k * R, last, (size_t)(n * R) * sizeof(uint32_t));
  }
}

// Block n of row `row`, as words; returns how many.
inline int64_t prepare_block(const Prepare& c, int64_t row, int64_t n, float inverse,
                             uint32_t* to) {
  const ActivationsProblem& p = *c.p;
  const int64_t first = n * kBlock;
  const int64_t all = padded_inputs(p.kind, p.I, p.group);
  const int64_t given = p.I - first < kBlock ? p.I - first : kBlock;
  const int64_t inputs = all - first < kBlock ? all - first : kBlock;
  const int64_t whole = ceil_div(inputs, kRun) * kRun;
  const char* from = p.x.data + row * p.x.stride_bytes + first * bytes_of(p.x.type);
  if (c.x.form == Form::kBF16 && !p.norm.data) {
    memset((char*)to + given * 2, 0, (size_t)(whole - given) * 2);
    memcpy(to, from, (size_t)given * 2);
    return inputs / 2;
  }
  float part[kBlock + kRun];
  widen(p.x.type, from, given, part);
  if (p.norm.data) norm_run(inverse, p.norm, first, given, part);
  for (int64_t k = given; k < whole; ++k) part[k] = 0.0f;
  if (c.x.form == Form::kBF16) {
    narrow(DType::kBF16, part, whole, (char*)to);
    return inputs / 2;
  }
  const DType type = dtype_of(p.kind);
  if (p.norm.data && type != DType::kF32 && p.x.type == type) {
    // As it is where the products are those of the type.
    uint16_t rounded[kBlock];
    narrow(type, part, given, (char*)rounded);
    widen(type, (const char*)rounded, given, part);
  }
  if (c.x.form == Form::kFloat) {
    memcpy(to, part, (size_t)inputs * sizeof(float));
    return inputs;
  }
  int32_t q[kBlock + kRun];
  c.scales[row * c.x.row_scales + n] = quantize(part, whole, q);
  if (p.kind == Kind::kInt8) {
    for (int64_t k = 0; k < inputs / 2; ++k) {
      to[k] = (uint32_t)(q[2 * k] & 0xffff) | (uint32_t)q[2 * k + 1] << 16;
    }
    return inputs / 2;
  }
  for (int64_t k = 0; k < inputs / 4; ++k) {
    uint32_t high = 0, low = 0;
    for (int i = 0; i < 4; ++i) {
      const int32_t l = (int8_t)(q[4 * k + i] & 0xff), h = (q[4 * k + i] - l) / 256;
      low |= (uint32_t)(l & 0xff) << (8 * i);
      high |= (uint32_t)(h & 0xff) << (8 * i);
    }
    to[2 * k] = high;
    to[2 * k + 1] = low;
  }
  for (int64_t k = 0; k < inputs; k += p.group) {
    int32_t sum = 0;
    for (int i = 0; i < p.group; ++i) sum += q[k + i];
    c.sums[row * c.x.row_sums + (first + k) / p.group] = 8 * sum;
  }
  return inputs / 2;
}

inline void prepare_tiles(void* context, int64_t begin, int64_t end) {
  const Prepare& c = *static_cast<const Prepare*>(context);
  alignas(64) uint32_t rows[kMostRows * kPitch];
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = c.tiles.begin(t), R = c.tiles.begin(t + 1) - row;
    float inverse[kMostRows];
    for (int64_t r = 0; r < R; ++r) {
      inverse[r] = c.p->norm.data ? inverse_rms(c.p->x, row + r, c.p->I, c.p->norm_eps) : 1.0f;
    }
    uint32_t* to = c.words + row * c.x.row_words;
    for (int64_t n = 0; n * kBlock < c.p->I; ++n) {
      int64_t words = 0;
      for (int64_t r = 0; r < R; ++r) {
        words = prepare_block(c, row + r, n, inverse[r], rows + r * kPitch);
      }
      interleave(rows, R, words, to);
      to += words * R;
    }
  }
}

// Fills the problem's workspace.
inline Activations prepare(const ActivationsProblem& p, const Tiles& tiles, int32_t threads) {
  const Form form = form_of(p.kind, p.x.type == DType::kBF16);
  const PreparedSize size = prepared_size(p.kind, p.I, p.group);
  const int64_t words = ceil_div(p.M * size.words, 16) * 16;
  const int64_t scales = ceil_div(p.M * size.scales, 16) * 16;
  char* memory = p.workspace + (64 - (uintptr_t)p.workspace % 64) % 64;
  Prepare c{&p, {}, tiles, (uint32_t*)memory, (float*)memory + words, (int32_t*)memory + words};
  c.sums += scales;
  const int64_t row_words = form == Form::kBF16 ? size.words / 2 : size.words;
  c.x = {form, p.M, row_words, size.scales, size.sums, c.words, c.scales, c.sums};
  // A row of 4096 takes 1 to 4 us, a hundredth of its products: few rows are not worth a second
  // meeting of the threads, one of which the scheduler may have taken away.
  const int64_t grain = 1 + (1 << 19) / (p.I * (tiles.height + 1));
  parallel_for(threads, tiles.count, grain, &prepare_tiles, &c);
  return c.x;
}

}  // namespace
}  // namespace fewstep::linear
