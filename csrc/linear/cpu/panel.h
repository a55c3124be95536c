// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/dot.h"
#include "linear/layout.h"

// Sums of rows of prepared activations times panels of packed weights: the kernel that every op on
// packed weights shares. Included by kernel files only.
//
// A tile is up to kRows<F> rows times 32 outputs, whose sums stay in registers through a block of
// inputs. Activations lie interleaved, word k of all rows of a tile side by side, so that one
// address serves them. Each sum is one chain in the order of the inputs: neither a tile's height
// nor the ISA changes a bit of it.
namespace fewstep::linear {
namespace {

// How activations are prepared for a kind of weights.
enum class Form {
  kFloat,     // words are floats
  kBF16,      // pairs of bfloat16: with weights of bfloat16
  kQuantized  // 16-bit integers: pairs with int8, h and l of four inputs with int4 (kMaxActivation)
};

// Prepared activations: the words of row r of a tile that begins at row t and has R rows are
// words[t * row_words + k * R + r - t].
struct Activations {
  Form form;
  int64_t rows, row_words, row_scales, row_sums;
  const uint32_t* words;
  const float* scales;  // [rows, blocks]
  const int32_t* sums;  // [rows, groups]
};

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

constexpr int kVectors = 2;  // of a row of a tile
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
  static constexpr int kRows = F32Format::kRows;
  static constexpr int kBytes = 128, kInputs = 2, kWords = 2;
  template <int R>
  static inline void step(const char* w, const uint32_t* x, int part, Acc (&acc)[R][kVectors]) {
    vec::I32 pair[kVectors];
    vec::F32 weight[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      pair[v] = vec::load_i32(w + 4 * output_of(part, v));
      weight[v] = vec::float_of_bits(vec::bit_and(pair[v], vec::set_i32((int32_t)0xffff0000)));
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vec::F32 value = vec::set(((const float*)x)[R + r]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) acc[r][v] = vec::fma(value, weight[v], acc[r][v]);
    }
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      weight[v] = vec::float_of_bits(vec::shift_left<16>(pair[v]));
    }
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
  static constexpr int kRows = F32Format::kRows;
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

inline Form form_of(Kind kind, bool x_is_bf16) {
  if (kind == Kind::kInt8 || kind == Kind::kInt4) return Form::kQuantized;
#if defined(__AVX512BF16__)
  if (kind == Kind::kBF16 && x_is_bf16) return Form::kBF16;
#endif
  (void)x_is_bf16;
  return Form::kFloat;
}

// Words of a row in which input i, the first of a step, is word words_before(i).
inline int64_t words_before(Form form, int64_t i) { return form == Form::kFloat ? i : i / 2; }

constexpr int kMaxRows = 12;  // of any tile
inline int tile_rows(Kind kind) {
  return kind == Kind::kInt4 ? Int4Format::kRows : F32Format::kRows;
}

// Rows in tiles of nearly the same height.
struct Tiles {
  int64_t count, height, taller;  // the first `taller` tiles have height + 1 rows
  int64_t begin(int64_t t) const { return t * height + (t < taller ? t : taller); }
};
inline Tiles tiles_of(int64_t rows, Kind kind) {
  const int64_t count = ceil_div(rows, tile_rows(kind));
  if (count == 0) return {0, 0, 0};
  return {count, rows / count, rows % count};
}

// Tiles whose sums are kept at a time, and their rows at most.
constexpr int kHeldRows = 72;
inline int64_t held_tiles(Kind kind) { return kHeldRows / tile_rows(kind); }

struct Weights {
  Kind kind;
  int group;
  int64_t inputs;    // I
  const char* data;  // panels
};

// Up to so many rows the weights' way from memory is what takes the time, and hardware fetches them
// best alone. With more the products take longer, and a block is fetched while the one before it is
// worked on. Measured at 4096 x 4096 and 4096 x 16384, bfloat16: 1 row 30 GB/s in place of 23, 8
// rows 220 Gflop/s in place of 160.
inline int64_t light_rows(Kind kind) { return kind == Kind::kInt8 ? 2 : 4; }

// Adds to sums[row - first row][output] the products of tiles [begin, end) with block n of a panel.
// `ahead` are the weights that follow; fetched in step with the work.
inline void add_block(const Weights& weights, const char* panel, int64_t n, const Activations& x,
                      const Tiles& tiles, int64_t begin, int64_t end, const char* ahead,
                      float* sums) {
  const Kind kind = weights.kind;
  const int64_t first = n * kBlock;
  const int64_t all = padded_inputs(kind, weights.inputs, weights.group);
  Block b;
  b.inputs = all - first < kBlock ? all - first : kBlock;
  b.group = weights.group;
  b.scale_stride = x.row_scales;
  b.sum_stride = x.row_sums;
  const char* w = panel + input_offset(kind, first, weights.group);
  const int64_t bytes = input_offset(kind, first + b.inputs, weights.group) -
                        input_offset(kind, first, weights.group);
  const int64_t steps = b.inputs / step_inputs(kind);
  b.advance = ceil_div(bytes, steps * (end - begin));
  const bool streams =
      end - begin == 1 && tiles.begin(end) - tiles.begin(begin) <= light_rows(kind);
  const int64_t skip = words_before(x.form, first);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = tiles.begin(t);
    const int rows = (int)(tiles.begin(t + 1) - row);
    const uint32_t* words = x.words + row * x.row_words + skip * rows;
    b.scales = x.scales + row * x.row_scales + n;
    b.group_sums = x.sums + row * x.row_sums + first / (weights.group > 0 ? weights.group : 1);
    b.ahead = streams ? w : ahead + (t - begin) * b.advance * steps;
    b.sums = sums + (row - tiles.begin(begin)) * kPanel;
    if (kind == Kind::kF32) tile_of<F32Format>(rows, w, words, b);
    if (kind == Kind::kF16) tile_of<F16Format>(rows, w, words, b);
    if (kind == Kind::kInt8) tile_of<Int8Format>(rows, w, words, b);
    if (kind == Kind::kInt4) tile_of_int4(rows, w, words, b);
    if (kind != Kind::kBF16) continue;
#if defined(__AVX512BF16__)
    if (x.form == Form::kBF16) {
      tile_of<BF16PairFormat>(rows, w, words, b);
      continue;
    }
#endif
    tile_of<BF16Format>(rows, w, words, b);
  }
}

// The scales of a panel's outputs, where they are not in its groups, come last.
inline void scale_sums(const Weights& weights, const char* panel, int64_t rows, float* sums) {
  if (weights.kind != Kind::kInt8) return;
  for (int o = 0; o < kPanel; o += vec::kLanes) {
    const vec::F32 scale = vec::load((const float*)panel + o);
    for (int64_t r = 0; r < rows; ++r) {
      float* sum = sums + r * kPanel + o;
      vec::store(sum, vec::mul(vec::load(sum), scale));
    }
  }
}

}  // namespace
}  // namespace fewstep::linear
