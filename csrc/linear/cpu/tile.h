// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/dot.h"
#include "linear/layout.h"

// Tiles: up to kRows rows of prepared activations times a block of inputs of a panel of 32 outputs.
// Their sums stay in registers. Activations lie interleaved, word k of all rows of a tile side by
// side, so that one address serves them. Each sum is one chain in the order of the inputs: neither
// a tile's height nor the ISA changes a bit of it. Included by kernel files only.
namespace fewstep::linear {
namespace {

// What a tile's steps read beside the weights and the words. The block's sums are added to
// sums[r * kPanel + output].
struct Block {
  int64_t inputs;  // with those that fill up the last step
  int group;
  const float* scales;  // of the block and the tile's first row
  int64_t scale_stride;
  const int32_t* group_sums;  // of the block's first group and the tile's first row
  int64_t sum_stride;
  const char* ahead;  // weights to bring to the cache while this block is worked on
  int64_t advance;    // bytes of it in a step
  float* sums;
};

constexpr int kLightRows = 4;  // of tile_panel at most
constexpr int kVectors = 2;    // of a row of a tile
constexpr int kParts = kPanel / (kVectors * vec::kLanes);

// Vector v of part `part` of a panel begins at this output.
inline int output_of(int part, int v) { return v * (kPanel / 2) + part * vec::kLanes; }

inline void clear(vec::F32* x) { *x = vec::set(0.0f); }
inline void clear(vec::I32* x) { *x = vec::set_i32(0); }
template <class V, int R>
inline void clear_all(V (&x)[R][kVectors]) {
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) clear(&x[r][v]);
  }
}

inline void prefetch(const char* p) { __builtin_prefetch(p, 0, 2); }
constexpr int64_t kAhead = 8 << 10;  // bytes, of one stream of weights

// Formats of weights. `step` multiplies one step of one part of a panel with a word or two of each
// row, at x.
struct F32Format {
  using Acc = vec::F32;
  static constexpr int kRows = vec::kLanes == 16 ? 12 : vec::kLanes == 8 ? 6 : 4;
  static constexpr int kBytes = 128, kInputs = 1, kWords = 1;
  template <int R>
  static inline void step(const char* w, const uint32_t* x, int part, Acc (&acc)[R][kVectors]) {
    vec::F32 weight[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) weight[v] = vec::load((const float*)w + output_of(part, v));
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::F32 value = vec::set(((const float*)x)[r]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vec::fma(value, weight[v], acc[r][v]);
    }
  }
};

struct F16Format {
  using Acc = vec::F32;
  static constexpr int kRows = F32Format::kRows;
  static constexpr int kBytes = 64, kInputs = 1, kWords = 1;
  template <int R>
  static inline void step(const char* w, const uint32_t* x, int part, Acc (&acc)[R][kVectors]) {
    vec::F32 weight[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      weight[v] = vec::load_f16((const uint16_t*)w + output_of(part, v));
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::F32 value = vec::set(((const float*)x)[r]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vec::fma(value, weight[v], acc[r][v]);
    }
  }
};

// bfloat16 weights, float activations: the odd input of a pair first, as dot_bf16 has it.
struct BF16Format {
  using Acc = vec::F32;
  static constexpr int kRows = vec::kLanes == 8 ? 5 : F32Format::kRows;  // 6 run out of registers
  static constexpr int kBytes = 128, kInputs = 2, kWords = 2;
  template <int R>
  static inline void step(const char* w, const uint32_t* x, int part, Acc (&acc)[R][kVectors]) {
    vec::I32 pair[kVectors];
    vec::F32 weight[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      pair[v] = vec::load_i32(w + 4 * output_of(part, v));
      weight[v] = vec::upper_bf16(pair[v]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::F32 value = vec::set(((const float*)x)[R + r]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vec::fma(value, weight[v], acc[r][v]);
    }
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) weight[v] = vec::lower_bf16(pair[v]);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::F32 value = vec::set(((const float*)x)[r]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vec::fma(value, weight[v], acc[r][v]);
    }
  }
};

#if defined(__AVX512BF16__)
struct BF16PairFormat {
  using Acc = vec::F32;
  static constexpr int kRows = F32Format::kRows;
  static constexpr int kBytes = 128, kInputs = 2, kWords = 1;
  template <int R>
  static inline void step(const char* w, const uint32_t* x, int part, Acc (&acc)[R][kVectors]) {
    vec::I32 weight[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) weight[v] = vec::load_i32(w + 4 * output_of(part, v));
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::I32 value = vec::set_i32((int32_t)x[r]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vec::dot_bf16(value, weight[v], acc[r][v]);
    }
  }
};
#endif

struct Int8Format {
  using Acc = vec::I32;
#if defined(__AVX512F__) && !defined(__AVX512VNNI__)
  static constexpr int kRows = 8;  // with more, GCC 12 moves sums through memory
#else
  static constexpr int kRows = F32Format::kRows;
#endif
  static constexpr int kBytes = 64, kInputs = 2, kWords = 1;
  template <int R>
  static inline void step(const char* w, const uint32_t* x, int part, Acc (&acc)[R][kVectors]) {
    vec::I32 weight[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) weight[v] = vec::widen_i8(w + 2 * output_of(part, v));
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::I32 value = vec::set_i32((int32_t)x[r]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vec::dot_i16(value, weight[v], acc[r][v]);
    }
  }
};

inline vec::F32 finished(vec::F32 acc, vec::F32 sum, const float*) { return vec::add(sum, acc); }
inline vec::F32 finished(vec::I32 acc, vec::F32 sum, const float* scale) {
  return vec::fma(vec::to_float(acc), vec::set(*scale), sum);
}

// A block of R rows times one part of a panel.
template <class F, int R>
[[gnu::noinline]] void tile(const char* w, const uint32_t* x, const Block& b, int part) {
  typename F::Acc acc[R][kVectors];
  clear_all(acc);
  const char* ahead = b.ahead;
  for (int64_t i = 0; i < b.inputs; i += F::kInputs) {
    prefetch(ahead);
    if (F::kBytes > 64) prefetch(ahead + 64);
    ahead += b.advance;
    F::template step<R>(w, x, part, acc);
    w += F::kBytes;
    x += F::kWords * R;
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      float* sum = b.sums + r * kPanel + output_of(part, v);
      vec::store(sum, finished(acc[r][v], vec::load(sum), b.scales + r * b.scale_stride));
    }
  }
}

// R rows times one part of a whole panel, block after block with nothing in between: for so few
// rows that the weights' way from memory is what takes the time. F is a format of floats; kAsks:
// wants_streams_prefetched().
template <class F, int R, bool kAsks>
[[gnu::noinline]] void tile_panel(const char* w, const uint32_t* x, const Block& b, int part) {
  vec::F32 total[R][kVectors];
  clear_all(total);
  for (int64_t left = b.inputs; left > 0; left -= kBlock) {
    vec::F32 acc[R][kVectors];
    clear_all(acc);
    const int64_t inputs = left < kBlock ? left : kBlock;
    for (int64_t i = 0; i < inputs; i += F::kInputs) {
      if (kAsks) prefetch(w + kAhead);
      if (kAsks && F::kBytes > 64) prefetch(w + kAhead + 64);
      F::template step<R>(w, x, part, acc);
      w += F::kBytes;
      x += F::kWords * R;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) {
        total[r][v] = vec::add(total[r][v], acc[r][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      vec::store(b.sums + r * kPanel + output_of(part, v), total[r][v]);
    }
  }
}
template <class F, int R = kLightRows>
inline void tile_panel_of(int rows, const char* w, const uint32_t* x, const Block& b, bool asks) {
  if constexpr (R > 1) {
    if (rows < R) return tile_panel_of<F, R - 1>(rows, w, x, b, asks);
  }
  for (int part = 0; part < kParts; ++part) {
    asks ? tile_panel<F, R, true>(w, x, b, part) : tile_panel<F, R, false>(w, x, b, part);
  }
}

// int4 sums up h and l apart. With 8 times the activations' sum taken off the sum of l, weights
// may be unsigned.
struct Int4Format {
  static constexpr int kRows = vec::kLanes == 8 ? 2 : 4;
  static constexpr int kBytes = 64, kInputs = 4, kWords = 2;
};
template <int R>
[[gnu::noinline]] void tile_int4(const char* w, const uint32_t* x, const Block& b, int part) {
  vec::F32 total[R][kVectors];
  clear_all(total);
  const vec::I32 mask = vec::set_i32(0x0f0f0f0f);
  const char* ahead = b.ahead;
  int64_t group = 0;
  for (int64_t i = 0; i < b.inputs; i += b.group, ++group) {
    const uint16_t* scales = (const uint16_t*)w;
    w += 2 * kPanel;
    vec::I32 high[R][kVectors], low[R][kVectors];
    clear_all(high);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::I32 offset = vec::set_i32(-b.group_sums[r * b.sum_stride + group]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) low[r][v] = offset;
    }
    for (int k = 0; k < b.group; k += 4) {
      prefetch(ahead);
      ahead += b.advance;
      const vec::I32 both = vec::load_i32(w + 4 * output_of(part, 0));
      const vec::I32 weight[kVectors] = {vec::bit_and(both, mask),
                                         vec::bit_and(vec::shift_right<4>(both), mask)};
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const vec::I32 h = vec::set_i32((int32_t)x[r]), l = vec::set_i32((int32_t)x[R + r]);
#pragma GCC unroll 12
        for (int v = 0; v < kVectors; ++v) {
          high[r][v] = vec::dot_u4_i8(weight[v], h, high[r][v]);
          low[r][v] = vec::dot_u4_i8(weight[v], l, low[r][v]);
        }
      }
      w += 64;
      x += 2 * R;
    }
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      const vec::F32 scale = vec::load_bf16(scales + output_of(part, v));
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const vec::I32 sum = vec::add(vec::shift_left<8>(high[r][v]), low[r][v]);
        total[r][v] = vec::fma(vec::to_float(sum), scale, total[r][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const vec::F32 scale = vec::set(b.scales[r * b.scale_stride]);
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      float* sum = b.sums + r * kPanel + output_of(part, v);
      vec::store(sum, vec::fma(total[r][v], scale, vec::load(sum)));
    }
  }
}

// The tile of the given number of rows, at most R, over all parts of a panel.
template <class F, int R = F::kRows>
inline void tile_of(int rows, const char* w, const uint32_t* x, const Block& b) {
  if constexpr (R > 1) {
    if (rows < R) return tile_of<F, R - 1>(rows, w, x, b);
  }
  for (int part = 0; part < kParts; ++part) tile<F, R>(w, x, b, part);
}
template <int R = Int4Format::kRows>
inline void tile_of_int4(int rows, const char* w, const uint32_t* x, const Block& b) {
  if constexpr (R > 1) {
    if (rows < R) return tile_of_int4<R - 1>(rows, w, x, b);
  }
  for (int part = 0; part < kParts; ++part) tile_int4<R>(w, x, b, part);
}

}  // namespace
}  // namespace fewstep::linear
