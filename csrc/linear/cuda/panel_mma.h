// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/mma.h"
#include "linear/cuda/panel.h"

// Panels of 16-bit weights times activations of their type, and of quantised ones times bytes, on
// tensor cores: A is 16 outputs and B is 8 rows of x.
//
// A product may have its inputs in any order, and its outputs too, where both sides agree. So a
// thread's fragments are what it reads of memory at once: of a unit of 32 inputs, 16 bytes of each
// row of x (8 inputs), and of these inputs the weights of 4 outputs. Weights go from memory to
// registers, several units ahead of the products, and through shared memory never.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

constexpr int kUnit = 32;  // inputs

// kAhead: units that a warp asks for at a time, an even number. 2 to 8 KiB are under way with few
// rows.
template <int kKind, int kTiles, int kAhead = kTiles == 1 ? 4 : 2>
struct MmaPanel {
  static constexpr Kind kWeights = (Kind)kKind;
  static constexpr bool kIsInt4 = kWeights == Kind::kInt4;
  static constexpr bool kIsScaled = kIsInt4 || kWeights == Kind::kInt8;
  static constexpr int kRows = 8 * kTiles;
  static constexpr int kStepBytes = kWeights == Kind::kBF16 ? 128 : 64;
  static constexpr int kStepInputs = kIsInt4 ? 4 : kWeights == Kind::kF16 ? 1 : 2;
  static constexpr int kUnitBytes = kUnit / kStepInputs * kStepBytes;
  static constexpr int kOwnInputs = 8, kSteps = kOwnInputs / kStepInputs;
  static constexpr int kWords = kStepBytes / 8 / 4;  // of a thread, in a step
  // Floats are summed in eight strands, one a warp, whose parts are added once: a warp has every
  // eighth unit. Of integers it has every eighth block.
  static constexpr int kBlockUnits = kBlock / kUnit;
  static constexpr int kStride = kIsScaled ? 1 : kWarps;  // units from one to the warp's next
  template <class T>
  using Per = gpu::PerThread<T, kThreads>;

  struct Words {
    uint32_t w[4];
  };
  struct Stage {  // a unit as a thread reads it
    uint32_t w[kSteps][kWords];
    uint32_t scales[2];  // of int4's outputs
    Words x[kTiles];
  };
  struct Ring {
    Stage stages[kAhead];
  };
  struct Cursor {  // where a thread reads next
    const char* weights;
    const char* x;
    int input;
  };
  struct Products {
    union Tile {
      float x[4];
      uint32_t i[4];
    } tiles[2][kTiles];
  };
  struct Totals {  // of int4: its groups, scaled
    float x[2][kTiles][4];
  };

  const Weights& weights;
  const Operand& x;
  const Task& task;
  int inputs;  // with those that fill up the last step or group

  // Output of row g + 8 h of the product with index m.
  FEWSTEP_HOST_DEVICE static int output(int g, int m, int h) {
    return kIsInt4 ? 2 * g + m + 16 * h : 4 * g + 2 * m + h;
  }

  // Sets the sums of panel `which`.
  FEWSTEP_HOST_DEVICE static void multiply(const Block& block, const Weights& weights,
                                           const Operand& x, const Task& task, int which,
                                           Sums<kRows>& s) {
    const int inputs = (int)padded_inputs(kWeights, weights.I, weights.group);
    MmaPanel{weights, x, task, inputs}.run(block, which, s);
  }

  FEWSTEP_HOST_DEVICE void run(const Block& block, int which, Sums<kRows>& s) const {
    const int strand = (inputs + kUnit * kWarps - 1) / (kUnit * kWarps);
    const int units = kIsScaled ? kBlockUnits : strand;
    const int blocks = kIsScaled ? (int)ceil_div(weights.I, kBlock) : kWarps;
    Per<Cursor> cursor;
    Per<Ring> ring;
    block.each_alone([&](int t) {
      cursor[t] = start(t);
      FEWSTEP_UNROLL
      for (int a = 0; a < kAhead; ++a) load(cursor[t], a, t, ring[t].stages[a]);
    });
    FEWSTEP_NO_UNROLL
    for (int n = 0; n < blocks; n += kWarps) {
      Per<Products> products;
      Per<Totals> totals;
      block.each_alone([&](int t) {
        products[t] = Products{};
        totals[t] = Totals{};
      });
      FEWSTEP_NO_UNROLL
      for (int u = 0; u < units; u += kAhead) {
        const bool is_last = u + kAhead >= units;
        block.each_alone([&](int t) { advance(is_last, cursor[t]); });
        FEWSTEP_UNROLL
        for (int a = 0; a < kAhead; ++a) {
          add_unit(block, a, ring, products);
          block.each_alone([&](int t) {
            Stage& stage = ring[t].stages[a];
            const bool ends = kIsInt4 && (a % 2 == 1 || weights.group == kUnit);
            if (ends) end_group(stage, products[t], totals[t]);
            load(cursor[t], a, t, stage);
          });
        }
      }
      block.each([&](int t) { put(t, products[t], totals[t], s); });
      const int count = blocks - n < kWarps ? blocks - n : kWarps;
      add_parts<kIsScaled>(block, x, task, n, count, which, s);
    }
    if constexpr (kWeights == Kind::kInt8) {
      block.each_alone([&](int t) {
        const float scale = vec::float_of_bits({load4(task.panel + t % 32 * 4)}).v;
        for_own<kRows>(task, t, [&](int row, int o) { s.x[which][row][o] *= scale; });
      });
    }
  }

  // Where a thread's weights begin in a unit.
  FEWSTEP_HOST_DEVICE static int own_bytes(int t) {
    return t % 32 / 4 * (kStepBytes / 8) + t % 4 * kSteps * kStepBytes;
  }

  FEWSTEP_HOST_DEVICE Cursor start(int t) const {
    const int g = t % 32 / 4, unit = t / 32 * (kIsScaled ? kBlockUnits : 1);
    const int input = unit * kUnit + t % 4 * kOwnInputs;
    const char* from =
        task.panel + input_offset(kWeights, unit * kUnit, weights.group) + own_bytes(t);
    return {from, x.data + (task.row + g) * x.pitch + 2 * input, input};
  }

  // Moves on by what is asked for at a time, at a block's end to the warp's next one.
  FEWSTEP_HOST_DEVICE void advance(bool is_last, Cursor& c) const {
    int skip = kAhead * kStride * kUnit;
    if (kIsScaled && is_last) skip += (kWarps - 1) * kBlock;
    c.weights += (int64_t)(skip / kStepInputs * kStepBytes);
    if constexpr (kIsInt4) c.weights += (int64_t)(weights.group == 32 ? 2 * skip : skip);
    c.x += 2 * skip;
    c.input += skip;
  }

  // Unit number `a` from the cursor on; what there is not is zero.
  FEWSTEP_HOST_DEVICE void load(const Cursor& c, int a, int t, Stage& stage) const {
    const int left = inputs - c.input - a * kStride * kUnit, g = t % 32 / 4;
    const char* from = c.weights + a * kStride * kUnitBytes;
    if constexpr (kIsInt4) {  // the cursor is at a group's first unit
      const bool is_second = a % 2 == 1 && weights.group != kUnit;
      from += (weights.group == kUnit ? a : a / 2) * 2 * kPanel;
      const char* record = from - (is_second ? kUnitBytes : 0) - own_bytes(t);
      FEWSTEP_UNROLL
      for (int h = 0; h < 2; ++h) stage.scales[h] = left > 0 ? load4(record + 4 * g + 32 * h) : 0;
      from += 2 * kPanel;
    }
    FEWSTEP_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      uint32_t* words = stage.w[k];
      FEWSTEP_UNROLL
      for (int w = 0; w < kWords; ++w) words[w] = 0;
      if (left <= k * kStepInputs) continue;
      if constexpr (kWords == 4) {
        gpu::load16(from + k * kStepBytes, words);
      } else {
        gpu::load8(from + k * kStepBytes, words);
      }
    }
    FEWSTEP_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      stage.x[j] = Words{};
      if (left <= 0 || 8 * j + g >= task.rows) continue;
      const int64_t skip = 8 * j * x.pitch + a * kStride * kUnit * 2;
      gpu::load16(c.x + skip, stage.x[j].w);
    }
  }

  // The weights of one output with the thread's inputs number 2 k and 2 k + 1, or 4 k to 4 k + 3 of
  // bytes.
  FEWSTEP_HOST_DEVICE static uint32_t weights_of(const Stage& stage, int m, int h, int k) {
    if constexpr (kWeights == Kind::kBF16) return stage.w[k][2 * m + h];
    if constexpr (kIsInt4) {
      // A half byte's number less 8, as a signed byte.
      const uint32_t halves = stage.w[k][m] >> 4 * h & 0x0f0f0f0fu;
      return ((halves | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
    } else {  // halves of two steps
      const uint32_t a = stage.w[2 * k % kSteps][m % kWords];
      const uint32_t b = stage.w[(2 * k + 1) % kSteps][m % kWords];
      return h == 0 ? (a & 0xffffu) | b << 16 : a >> 16 | (b & 0xffff0000u);
    }
  }

  FEWSTEP_HOST_DEVICE void add_unit(const Block& block, int a, Per<Ring>& ring,
                                    Per<Products>& products) const {
    Per<Words> left;
    FEWSTEP_UNROLL
    for (int m = 0; m < 2; ++m) {
      FEWSTEP_UNROLL
      for (int e = 0; e < (kIsScaled ? 1 : 2); ++e) {
        block.each_alone([&](int t) {
          FEWSTEP_UNROLL
          for (int j = 0; j < 4; ++j) {
            left[t].w[j] = weights_of(ring[t].stages[a], m, j % 2, 2 * e + j / 2);
          }
        });
        FEWSTEP_UNROLL
        for (int j = 0; j < kTiles; ++j) {
          if (8 * j < task.rows) add_tile(block, a, m, e, j, left, ring, products);
        }
      }
    }
  }

  FEWSTEP_HOST_DEVICE static void add_tile(const Block& block, int a, int m, int e, int j,
                                           Per<Words>& left, Per<Ring>& ring,
                                           Per<Products>& products) {
    const auto own = [&](int t) { return left[t].w; };
    if constexpr (kIsScaled) {
      Per<Words> high;
      block.each_alone([&](int t) { high[t] = Words{}; });
      gpu::multiply_bytes(
          block, [&](int t) { return high[t].w; }, own,
          [&](int t) { return ring[t].stages[a].x[j].w; });
      gpu::multiply_bytes(
          block, [&](int t) { return products[t].tiles[m][j].i; }, own,
          [&](int t) { return ring[t].stages[a].x[j].w + 2; });
      block.each_alone([&](int t) {
        FEWSTEP_UNROLL
        for (int c = 0; c < 4; ++c) products[t].tiles[m][j].i[c] += high[t].w[c] << 8;
      });
    } else {
      gpu::multiply<kWeights == Kind::kBF16>(
          block, [&](int t) { return products[t].tiles[m][j].x; }, own,
          [&](int t) { return ring[t].stages[a].x[j].w + 2 * e; });
    }
  }

  FEWSTEP_HOST_DEVICE static void end_group(const Stage& stage, Products& products,
                                            Totals& totals) {
    FEWSTEP_UNROLL
    for (int m = 0; m < 2; ++m) {
      FEWSTEP_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        FEWSTEP_UNROLL
        for (int c = 0; c < 4; ++c) {
          const uint32_t half = m == 0 ? stage.scales[c / 2] << 16 : stage.scales[c / 2];
          const float scale = vec::float_of_bits({half & 0xffff0000u}).v;
          uint32_t& sum = products.tiles[m][j].i[c];
          totals.x[m][j][c] = fmaf((float)(int32_t)sum, scale, totals.x[m][j][c]);
          sum = 0;
        }
      }
    }
  }

  FEWSTEP_HOST_DEVICE static void put(int t, const Products& products, const Totals& totals,
                                      Sums<kRows>& s) {
    const int g = t % 32 / 4, i = t % 4;
    FEWSTEP_UNROLL
    for (int m = 0; m < 2; ++m) {
      FEWSTEP_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        FEWSTEP_UNROLL
        for (int c = 0; c < 4; ++c) {
          const auto& tile = products.tiles[m][j];
          float value = tile.x[c];
          if constexpr (kIsScaled) value = (float)(int32_t)tile.i[c];
          if constexpr (kIsInt4) value = totals.x[m][j][c];
          s.parts[t / 32][8 * j + 2 * i + c % 2][output(g, m, c / 2)] = value;
        }
      }
    }
  }
};

}  // namespace
}  // namespace fewstep::linear::FEWSTEP_ISA
