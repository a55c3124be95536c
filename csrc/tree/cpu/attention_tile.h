// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_cell.h"

// Tiles of keys and values: where their rows lie, and how they are packed.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Rows of up to kTileKeys consecutive keys of one KV head.
struct TileRows {
  int count;
  int cached;  // keys from the cache; the others are a separate draft block's, of q's type
  const char* k[kTileKeys];
  const char* v[kTileKeys];
  float k_scale[kTileKeys], v_scale[kTileKeys];
};

// Finds keys [begin, begin + rows->count) of request b, KV head g.
inline void find_rows(const AttentionProblem& p, int64_t b, int g, int64_t begin, TileRows* rows) {
  // Of a separate draft block only the prefix is in the cache.
  const int64_t cached = p.draft == Draft::kSeparate ? prefix_of(p, b) : keys_of(p, b);
  const int32_t* table = p.page_table ? p.page_table + b * p.table_stride : nullptr;
  int64_t index = table ? begin / p.page_tokens : b;
  int64_t token = table ? begin % p.page_tokens : begin;
  int i = 0;
  while (i < rows->count && begin + i < cached) {
    const int64_t page = table ? table[index] : b;
    int64_t here = min_of(int64_t(rows->count - i), cached - begin - i);
    if (table) here = min_of(here, p.page_tokens - token);
    const char* k = p.k.data + page * p.k.page + token * p.k.token + g * p.k.head;
    const char* v = p.v.data + page * p.v.page + token * p.v.token + g * p.v.head;
    if (p.k_scale.data) {
      const Scales& ks = p.k_scale;
      const Scales& vs = p.v_scale;
      for (int64_t j = 0; j < here; ++j) {
        rows->k_scale[i + j] = ks.data[page * ks.page + (token + j) * ks.token + g * ks.head];
        rows->v_scale[i + j] = vs.data[page * vs.page + (token + j) * vs.token + g * vs.head];
      }
    }
    for (int64_t j = 0; j < here; ++j) {
      rows->k[i + j] = k + j * p.k.token;
      rows->v[i + j] = v + j * p.v.token;
    }
    i += int(here);
    token = 0;
    ++index;
  }
  rows->cached = i;
  for (; i < rows->count; ++i) {
    const int64_t n = first_of(p, b) + begin + i - cached;
    rows->k[i] = p.draft_k.data + n * p.draft_k.token + g * p.draft_k.head;
    rows->v[i] = p.draft_v.data + n * p.draft_v.token + g * p.draft_v.head;
  }
}

constexpr int bytes_of(DType type) { return type == DType::kF32 ? 4 : type == DType::kI8 ? 1 : 2; }

// Elements [d, d + kLanes) of a row as floats.
inline F32 load_row(DType type, const char* row, int d) {
  if (type == DType::kF32) return vec::load((const float*)row + d);
  if (type == DType::kF16) return vec::load_f16((const uint16_t*)row + d);
  return vec::load_bf16((const uint16_t*)row + d);
}
// The same of key or value j of a tile; q_type is for drafts beside an int8 cache.
template <DType kType>
inline F32 load_tile(const TileRows& rows, const char* const* row, const float* scale, int j, int d,
                     DType q_type) {
  if (kType != DType::kI8) return load_row(kType, row[j], d);
  if (j >= rows.cached) return load_row(q_type, row[j], d);
  return vec::mul(vec::load_i8((const int8_t*)row[j] + d), vec::set(scale[j]));
}

// Asks for the same rows of the tile that comes next, which hide behind this one's work.
inline void prefetch_row(const char* row, int bytes) {
  for (int i = 0; i < bytes; i += 64) vec::prefetch(row + i);
}

// Packs keys as panels [D][kPanel] of floats; keys past the last are zero.
template <DType kType>
void pack_keys(const TileRows& rows, const TileRows& next, int D, DType q_type, float* keys) {
  const int bytes = D * bytes_of(kType);
  for (int first = 0; first < rounded_up(rows.count, kPanel); first += kLanes) {
    float* panel = keys + int64_t(first / kPanel) * D * kPanel + first % kPanel;
    for (int i = first; i < min_of(first + kLanes, next.count); ++i) {
      prefetch_row(next.k[i], bytes);
    }
    for (int d = 0; d < D; d += kLanes) {
      F32 z[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const int j = first + i;
        z[i] = j < rows.count ? load_tile<kType>(rows, rows.k, rows.k_scale, j, d, q_type)
                              : vec::set(0.0f);
      }
      vec::transpose(z);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) vec::store(panel + int64_t(d + i) * kPanel, z[i]);
    }
  }
}

// Makes rows->v point to floats: to the cache's own, or to a copy in `values`.
template <DType kType>
void pack_values(TileRows* rows, const TileRows& next, int D, DType q_type, float* values) {
  const int bytes = D * bytes_of(kType);
  for (int j = 0; j < rows->count; ++j) {
    if (j < next.count) prefetch_row(next.v[j], bytes);
    if (kType == DType::kF32) continue;
    float* row = values + int64_t(j) * D;
    for (int d = 0; d < D; d += kLanes) {
      vec::store(row + d, load_tile<kType>(*rows, rows->v, rows->v_scale, j, d, q_type));
    }
    rows->v[j] = (const char*)row;
  }
}

#if defined(__AVX512BF16__)
// The same in pairs: panels [D / 2][kPanel] of pairs of dims,
void pack_key_pairs(const TileRows& rows, const TileRows& next, int D, float* keys) {
  for (int first = 0; first < rounded_up(rows.count, kPanel); first += kLanes) {
    float* panel = keys + int64_t(first / kPanel) * (D / 2) * kPanel + first % kPanel;
    for (int i = first; i < min_of(first + kLanes, next.count); ++i) {
      prefetch_row(next.k[i], 2 * D);
    }
    for (int d = 0; d < D; d += 2 * kLanes) {
      const bool half = D - d < 2 * kLanes;
      F32 z[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const int j = first + i;
        z[i] = j < rows.count ? vec::load_pairs(rows.k[j] + 2 * d, half) : vec::set(0.0f);
      }
      vec::transpose(z);
      float* to = panel + int64_t(d / 2) * kPanel;
#pragma GCC unroll 8
      for (int i = 0; i < kLanes / 2; ++i) vec::store(to + i * kPanel, z[i]);
      if (half) continue;
#pragma GCC unroll 8
      for (int i = kLanes / 2; i < kLanes; ++i) vec::store(to + i * kPanel, z[i]);
    }
  }
}

// and rows [D] of pairs of keys, the last of which may stand alone.
void pack_value_pairs(TileRows* rows, const TileRows& next, int D, float* values) {
  for (int j = 0; j < rows->count; j += 2) {
    if (j < next.count) prefetch_row(next.v[j], 2 * D);
    if (j + 1 < next.count) prefetch_row(next.v[j + 1], 2 * D);
    float* row = values + int64_t(j / 2) * D;
    const bool alone = j + 1 == rows->count;
    for (int d = 0; d < D; d += 2 * kLanes) {
      const bool half = D - d < 2 * kLanes;
      const F32 even = vec::load_pairs(rows->v[j] + 2 * d, half);
      const F32 odd = alone ? vec::set(0.0f) : vec::load_pairs(rows->v[j + 1] + 2 * d, half);
      F32 low, high;
      vec::interleave_rows(even, odd, &low, &high);
      vec::store(row + d, low);
      if (!half) vec::store(row + d + kLanes, high);
    }
    rows->v[j / 2] = (const char*)row;
  }
}
#endif

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
