// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/processor.h"
#include "linear/cpu/tile.h"

// Sums of rows of prepared activations (prepare.h) times panels of packed weights: what every op on
// packed weights shares. Included by kernel files only.
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

inline int tile_rows(Kind kind) {
  if (kind == Kind::kInt4) return Int4Format::kRows;
  if (kind == Kind::kInt8) return Int8Format::kRows;
  return kind == Kind::kBF16 ? BF16Format::kRows : F32Format::kRows;
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

// Where block n of a panel ends.
inline int64_t block_end(const Weights& w, int64_t n) {
  if ((n + 1) * kBlock >= w.inputs) return panel_bytes(w.kind, w.inputs, w.group);
  return input_offset(w.kind, (n + 1) * kBlock, w.group);
}

// Up to so many rows the weights' way from memory is what takes the time, and AMD's hardware
// fetches them best alone. With more the products take longer, and a block is fetched while the one
// before it is worked on. Measured at 4096 x 4096 and 4096 x 16384, bfloat16: 1 row 30 GB/s in
// place of 23, 8 rows 220 Gflop/s in place of 160. float32 gains from two rows on: 4 rows of a
// Llama of 26 MB take 0.74 ms in place of 1.01.
constexpr int kLightF32 = 1;
inline int64_t light_rows(Kind kind) {
  if (kind == Kind::kF32) return kLightF32;
  return kind == Kind::kInt8 ? 2 : kLightRows;
}

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
  const bool streams = end - begin == 1 && !wants_streams_prefetched() &&
                       tiles.begin(end) - tiles.begin(begin) <= light_rows(kind);
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

// Sets the sums of one tile of few rows; false where there are more, and for integers, which gain
// nothing by it.
inline bool light_sums(const Weights& weights, const char* panel, const Activations& x,
                       const Tiles& tiles, float* sums) {
  const Kind kind = weights.kind;
  if (kind == Kind::kInt4 || kind == Kind::kInt8 || tiles.count != 1 || x.rows > light_rows(kind))
    return false;
  Block b = {};
  b.inputs = padded_inputs(kind, weights.inputs, weights.group);
  b.sums = sums;
  const char* w = panel;
  const int rows = (int)x.rows;
  const bool asks = wants_streams_prefetched();
  if (kind == Kind::kF32) tile_panel_of<F32Format, kLightF32>(rows, w, x.words, b, asks);
  if (kind == Kind::kF16) tile_panel_of<F16Format>(rows, w, x.words, b, asks);
  if (kind != Kind::kBF16) return true;
#if defined(__AVX512BF16__)
  if (x.form == Form::kBF16) {
    tile_panel_of<BF16PairFormat>(rows, w, x.words, b, asks);
    return true;
  }
#endif
  tile_panel_of<BF16Format>(rows, w, x.words, b, asks);
  return true;
}

// Sets sums[row - first row][output] to the products of tiles [begin, end), at most held_tiles of
// them, with a whole panel.
inline void panel_sums(const Weights& weights, int64_t panel, const Activations& x,
                       const Tiles& tiles, int64_t begin, int64_t end, float* sums) {
  const int64_t bytes = panel_bytes(weights.kind, weights.inputs, weights.group);
  const int64_t rows = tiles.begin(end) - tiles.begin(begin);
  const char* data = weights.data + panel * bytes;
  if (light_sums(weights, data, x, tiles, sums)) return scale_sums(weights, data, rows, sums);
  memset(sums, 0, (size_t)(rows * kPanel) * sizeof(float));
  for (int64_t n = 0; n * kBlock < weights.inputs; ++n) {
    add_block(weights, data, n, x, tiles, begin, end, data + block_end(weights, n), sums);
  }
  scale_sums(weights, data, rows, sums);
}

}  // namespace
}  // namespace fewstep::linear
