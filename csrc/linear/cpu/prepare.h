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

// Block n of row `row`, whose words begin at `to` and lie R apart.
inline void prepare_block(const Prepare& c, int64_t row, int64_t n, float inverse, uint32_t* to,
                          int64_t R) {
  const ActivationsProblem& p = *c.p;
  const int64_t first = n * kBlock;
  const int64_t all = padded_inputs(p.kind, p.I, p.group);
  const int64_t given = p.I - first < kBlock ? p.I - first : kBlock;
  const int64_t inputs = all - first < kBlock ? all - first : kBlock;
  float part[kBlock + kRun];
  widen(p.x.type, p.x.data + row * p.x.stride_bytes + first * bytes_of(p.x.type), given, part);
  if (p.norm.data) norm_run(inverse, p.norm, first, given, part);
  if (p.norm.data && p.x.type == DType::kBF16 && p.kind == Kind::kBF16) {
    // As it is where the products are those of bfloat16.
    uint16_t rounded[kBlock];
    narrow(DType::kBF16, part, given, (char*)rounded);
    widen(DType::kBF16, (const char*)rounded, given, part);
  }
  const int64_t whole = ceil_div(inputs, kRun) * kRun;
  for (int64_t k = given; k < whole; ++k) part[k] = 0.0f;
  if (c.x.form == Form::kFloat) {
    for (int64_t k = 0; k < inputs; ++k) memcpy(to + k * R, part + k, 4);
    return;
  }
  if (c.x.form == Form::kBF16) {
    uint32_t pairs[kBlock / 2 + kRun];
    narrow(DType::kBF16, part, whole, (char*)pairs);
    for (int64_t k = 0; k < inputs / 2; ++k) to[k * R] = pairs[k];
    return;
  }
  int32_t q[kBlock + kRun];
  c.scales[row * c.x.row_scales + n] = quantize(part, whole, q);
  if (p.kind == Kind::kInt8) {
    for (int64_t k = 0; k < inputs / 2; ++k) {
      to[k * R] = (uint32_t)(q[2 * k] & 0xffff) | (uint32_t)q[2 * k + 1] << 16;
    }
    return;
  }
  for (int64_t k = 0; k < inputs / 4; ++k) {
    uint32_t high = 0, low = 0;
    for (int i = 0; i < 4; ++i) {
      const int32_t l = (int8_t)(q[4 * k + i] & 0xff), h = (q[4 * k + i] - l) / 256;
      low |= (uint32_t)(l & 0xff) << (8 * i);
      high |= (uint32_t)(h & 0xff) << (8 * i);
    }
    to[2 * k * R] = high;
    to[(2 * k + 1) * R] = low;
  }
  for (int64_t k = 0; k < inputs; k += p.group) {
    int32_t sum = 0;
    for (int i = 0; i < p.group; ++i) sum += q[k + i];
    c.sums[row * c.x.row_sums + (first + k) / p.group] = 8 * sum;
  }
}

inline void prepare_tiles(void* context, int64_t begin, int64_t end) {
  const Prepare& c = *static_cast<const Prepare*>(context);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = c.tiles.begin(t), R = c.tiles.begin(t + 1) - row;
    for (int64_t r = 0; r < R; ++r) {
      const float inverse =
          c.p->norm.data ? inverse_rms(c.p->x, row + r, c.p->I, c.p->norm_eps) : 1.0f;
      uint32_t* words = c.words + row * c.x.row_words + r;
      for (int64_t n = 0; n * kBlock < c.p->I; ++n) {
        prepare_block(c, row + r, n, inverse, words + words_before(c.x.form, n * kBlock) * R, R);
      }
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
