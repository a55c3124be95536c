// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tree/cpu/attention_cell.h"

// Tiles of keys and values: where their rows lie, and how they are packed.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Rows of up to kTileKeys consecutive keys of one KV head, and what may be known of those behind.
struct TileRows {
  int count;
  int cached;  // keys from the cache; the others are a separate draft block's, of q's type
  const char* k[2 * kTileKeys];
  const char* v[2 * kTileKeys];
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

constexpr bool is_byte(DType type) { return type == DType::kI8 || type == DType::kE4M3; }
constexpr int bytes_of(DType type) { return is_byte(type) ? 1 : type == DType::kF32 ? 4 : 2; }

// Elements [d, d + kLanes) of key or value j of a tile as floats; q_type is for drafts beside a
// cache of scaled bytes.
template <DType kType>
inline F32 load_tile(const TileRows& rows, const char* const* row, const float* scale, int j, int d,
                     DType q_type) {
  if (!is_byte(kType)) return load_row(kType, row[j], d);
  if (j >= rows.cached) return load_row(q_type, row[j], d);
  const F32 number = kType == DType::kI8 ? vec::load_i8((const int8_t*)row[j] + d)
                                         : vec::load_e4m3((const uint8_t*)row[j] + d);
  return vec::mul(number, vec::set(scale[j]));
}

// Packs keys as panels [D][kPanel] of floats; keys past the last are zero. Flattened, since a
// transpose that is not inlined goes through memory.
template <DType kType, bool kFull>
[[gnu::flatten]] inline void pack_key_floats(const TileRows& rows, int first, int d, DType q_type,
                                             float* to) {
  F32 z[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    z[i] = kFull || first + i < rows.count
               ? load_tile<kType>(rows, rows.k, rows.k_scale, first + i, d, q_type)
               : vec::set(0.0f);
  }
  vec::transpose(z);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) vec::store(to + int64_t(i) * kPanel, z[i]);
}

// The same for twice as many dims of whole panels of bfloat16, which go in place as words of two.
[[gnu::flatten]] inline void pack_key_halves(const char* const* rows, int d, float* to) {
  F32 z[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) z[i] = vec::load((const float*)(rows[i] + 2 * d));
  vec::transpose(z);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    vec::store(to + int64_t(2 * i) * kPanel, vec::lower_bf16(vec::bits(z[i])));
    vec::store(to + int64_t(2 * i + 1) * kPanel, vec::upper_bf16(vec::bits(z[i])));
  }
}

// One panel, of the keys from `begin` on.
template <DType kType>
void pack_panel(const TileRows& rows, int begin, int D, DType q_type, float* panel, Ahead& ahead) {
  for (int first = begin; first < begin + kPanel; first += kLanes) {
    const bool full = first + kLanes <= rows.count;
    float* const column = panel + first - begin;
    int d = 0;
    if (kType == DType::kBF16 && kLanes > 1 && full) {
      for (; d + 2 * kLanes <= D; d += 2 * kLanes) {
        ahead.step(8);
        pack_key_halves(rows.k + first, d, column + int64_t(d) * kPanel);
      }
    }
    for (; d < D; d += kLanes) {
      ahead.step(4);
      float* to = column + int64_t(d) * kPanel;
      if (full) {
        pack_key_floats<kType, true>(rows, first, d, q_type, to);
      } else {
        pack_key_floats<kType, false>(rows, first, d, q_type, to);
      }
    }
  }
}

// Makes `to` point to dims [first, first + dims) of all values as floats: to the cache's own, or to
// a copy in `values`.
template <DType kType>
void pack_values(const TileRows& rows, int first, int dims, DType q_type, float* values,
                 const char** to, Ahead& ahead) {
  for (int j = 0; j < rows.count; ++j) {
    if (kType == DType::kF32) {
      to[j] = rows.v[j] + int64_t(first) * 4;
      continue;
    }
    ahead.step(4);
    float* row = values + int64_t(j) * dims;
    for (int d = 0; d < dims; d += kLanes) {
      vec::store(row + d, load_tile<kType>(rows, rows.v, rows.v_scale, j, first + d, q_type));
    }
    to[j] = (const char*)row;
  }
}

#if defined(__AVX512BF16__)
// The same in pairs: panels [D / 2][kPanel] of pairs of dims,
template <bool kFull>
[[gnu::flatten]] inline void pack_key_words(const char* const* rows, int count, int d, bool half,
                                            float* to) {
  F32 z[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (kFull) {
      z[i] = vec::load((const float*)(rows[i] + 2 * d));
    } else {
      z[i] = i < count ? vec::load_pairs(rows[i] + 2 * d, half) : vec::set(0.0f);
    }
  }
  vec::transpose(z);
#pragma GCC unroll 8
  for (int i = 0; i < kLanes / 2; ++i) vec::store(to + i * kPanel, z[i]);
  if (!kFull && half) return;
#pragma GCC unroll 8
  for (int i = kLanes / 2; i < kLanes; ++i) vec::store(to + i * kPanel, z[i]);
}

void pack_key_pairs(const TileRows& rows, int D, float* keys, Ahead& ahead) {
  for (int first = 0; first < rounded_up(rows.count, kPanel); first += kLanes) {
    float* panel = keys + int64_t(first / kPanel) * (D / 2) * kPanel + first % kPanel;
    const int count = rows.count - first;
    for (int d = 0; d < D; d += 2 * kLanes) {
      ahead.step();
      float* to = panel + int64_t(d / 2) * kPanel;
      const bool half = D - d < 2 * kLanes;
      if (count >= kLanes && !half) {
        pack_key_words<true>(rows.k + first, count, d, half, to);
      } else {
        pack_key_words<false>(rows.k + first, count, d, half, to);
      }
    }
  }
}

// and rows [D] of pairs of keys, the last of which may stand alone.
void pack_value_pairs(TileRows* rows, int D, float* values, Ahead& ahead) {
  for (int j = 0; j < rows->count; j += 2) {
    ahead.step();
    float* row = values + int64_t(j / 2) * D;
    const bool alone = j + 1 == rows->count;
    const char *even = rows->v[j], *odd = rows->v[alone ? j : j + 1];
    rows->v[j / 2] = (const char*)row;
    int d = 0;
    F32 low, high;
    if (!alone) {
      for (; d + 2 * kLanes <= D; d += 2 * kLanes) {
        vec::interleave_rows(vec::load((const float*)(even + 2 * d)),
                             vec::load((const float*)(odd + 2 * d)), &low, &high);
        vec::store(row + d, low);
        vec::store(row + d + kLanes, high);
      }
    }
    for (; d < D; d += 2 * kLanes) {
      const bool half = D - d < 2 * kLanes;
      const F32 second = alone ? vec::set(0.0f) : vec::load_pairs(odd + 2 * d, half);
      vec::interleave_rows(vec::load_pairs(even + 2 * d, half), second, &low, &high);
      vec::store(row + d, low);
      if (!half) vec::store(row + d + kLanes, high);
    }
  }
}
#endif

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
