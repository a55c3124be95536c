// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_task.h"

// A task's rows against one tile of keys that is packed: what more rows than a stream has gain by.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Keys and dims of values that are packed at a time, where not all are: 32 KiB of them, of 128
// dims.
constexpr int kHeldKeys = 64, kHeldDims = 64;

// A tile that is packed as a whole, beforehand. Blocks of rows come one after the other.
struct Whole {
  static constexpr int kTogether = 1;
  const TileRows& tile;  // its v: packed rows of words
  Scratch& s;

  const float* keys(int first, int words) const { return s.keys + int64_t(first) * words; }
  void find(Slice* slice) const {
    slice->values = tile.v;
    slice->offset = int64_t(slice->first) * 4;
  }
};

// One that is packed bit by bit, some keys and then some dims of all values at a time, for all
// blocks: each bit stays in the first level of cache, of more than 32 KiB, and the next one takes
// its place there.
template <DType kType>
struct Piecewise {
  static constexpr int kTogether = kPackedBlocks;
  const AttentionProblem& p;
  const TileRows& tile;
  Scratch& s;

  const float* keys(int first, int) const {
    const int end = min_of(first + kHeldKeys, tile.count);
    for (int i = first; i < end; i += kPanel) {
      pack_panel<kType>(tile, i, p.D, p.q_type, s.keys + int64_t(i - first) * p.D, s.ahead);
    }
    return s.keys;
  }
  void find(Slice* slice) const {
    pack_values<kType>(tile, slice->first, slice->vectors * kLanes, p.q_type, s.keys, s.packed_v,
                       s.ahead);
    slice->values = s.packed_v;
    slice->offset = 0;
  }
};

// Products of some blocks of a task's rows with a tile.
template <class Cell, class Packed>
void do_packed_blocks(const AttentionProblem& p, const Task& task, int64_t begin, int blocks,
                      const Packed& packed, Scratch& s) {
  Block* const block = s.stream.block;
  const int count = packed.tile.count, words = p.D / Cell::kDepth;
  for (int first = 0; first < count; first += kHeldKeys) {
    const float* keys = packed.keys(first, words);
    const int panels = rounded_up(min_of(kHeldKeys, count - first), kPanel) / kPanel;
    for (int b = 0; b < blocks; ++b) score<Cell>(block[b], words, panels, keys, first, s.ahead);
  }
  for (int b = 0; b < blocks; ++b) {
    if (s.run.masked) find_mask(p, task, block[b], begin, count, s);
    weigh_block<Cell>(block[b], count, s);
  }
  const int vectors = p.D / kLanes, slices = rounded_up(p.D, kHeldDims) / kHeldDims;
  Slice slice{};
  slice.words = (count + Cell::kDepth - 1) / Cell::kDepth;
  for (int i = 0; i < slices; ++i) {
    slice.vectors = (vectors - slice.first / kLanes + slices - i - 1) / (slices - i);
    packed.find(&slice);
    for (int b = 0; b < blocks; ++b) {
      accumulate<Cell>(block[b], slice, s.out + int64_t(block[b].first) * p.D, p.D, s.ahead);
    }
    slice.first += slice.vectors * kLanes;
  }
}

template <class Cell, class Packed>
void do_tile(const AttentionProblem& p, const Task& task, int64_t begin, const Packed& packed,
             Scratch& s) {
  const int blocks = (task.rows + kRegisterRows - 1) / kRegisterRows;
  int first = 0;
  for (int done = 0; done < blocks; done += Packed::kTogether) {
    const int now = min_of(Packed::kTogether, blocks - done);
    for (int b = 0; b < now; ++b) {
      Block& block = s.stream.block[b];
      const int left = blocks - done - b;
      block.side = strand_dims(p) / Cell::kDepth;
      block.first = first;
      block.rows = (task.rows - first + left - 1) / left;
      block.q = s.q + first;
      first += block.rows;
    }
    do_packed_blocks<Cell>(p, task, begin, now, packed, s);
  }
}

template <DType kType>
void do_single(const AttentionProblem& p, const Task& task, TileRows& tile, int64_t begin,
               Scratch& s) {
  if (p.large_first_cache) {
    return do_tile<Single>(p, task, begin, Piecewise<kType>{p, tile, s}, s);
  }
  for (int first = 0; first < tile.count; first += kPanel) {
    pack_panel<kType>(tile, first, p.D, p.q_type, s.keys + int64_t(first) * p.D, s.ahead);
  }
  pack_values<kType>(tile, 0, p.D, p.q_type, s.values, tile.v, s.ahead);
  do_tile<Single>(p, task, begin, Whole{tile, s}, s);
}

void do_any_tile(const AttentionProblem& p, const Task& task, TileRows& tile, int64_t begin,
                 Scratch& s) {
#if defined(__AVX512BF16__)
  if (has_columns(p, task.rows)) return do_columns(p, task, tile, begin, s);
  if (p.kv_type == DType::kBF16) {
    pack_key_pairs(tile, p.D, s.keys, s.ahead);
    pack_value_pairs(&tile, p.D, s.values, s.ahead);
    return do_tile<Pair>(p, task, begin, Whole{tile, s}, s);
  }
#endif
  if (p.kv_type == DType::kF32) do_single<DType::kF32>(p, task, tile, begin, s);
  if (p.kv_type == DType::kF16) do_single<DType::kF16>(p, task, tile, begin, s);
  if (p.kv_type == DType::kBF16) do_single<DType::kBF16>(p, task, tile, begin, s);
  if (p.kv_type == DType::kI8) do_single<DType::kI8>(p, task, tile, begin, s);
  if (p.kv_type == DType::kE4M3) do_single<DType::kE4M3>(p, task, tile, begin, s);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
