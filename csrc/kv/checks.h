// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/check.h"
#include "fewstep/kv.h"
#include "kv/cache.h"

// Checks that the family's ops share.
namespace fewstep::kv {

constexpr DTypeSet kCacheTypes = kFloating | kScaledBytes;
constexpr const char* kNoScale = "must be left out but for int8 and float8_e4m3fn caches";
constexpr int64_t kMaxLayers = 256;

// A cache tensor [P, T, G, D] (or scales [P, T, G]) as a kernel takes it.
Cache cache_of(const StridedView& v);

inline Ints ints_of(const View& v) { return {v.as<const int32_t>(), v.stride}; }

// Throws when two of a layer's caches share memory, or one with itself. nulls are passed over.
struct NamedTensor {
  const char* name;
  const fewstep_tensor* tensor;
};
void check_apart(const ArgCheck& check, int layer, const NamedTensor (&caches)[4]);

// A slot of a request: below `capacity`, on a page in [0, P) where the host can read the table.
struct SlotCheck {
  const ArgCheck& check;
  Pages pages;
  int64_t P, columns;  // columns of the page table; 1 without one
  int64_t capacity() const { return columns * pages.T; }
  Room room() const { return {P, capacity()}; }
  // Slots [begin, end) of request b, which `name` asks for.
  void range(const char* name, int64_t b, int64_t begin, int64_t end) const;
  void page_of(int64_t b, int64_t slot) const;
};
// After the caches' shapes are bound; page_table is [B, C], or has no data where none is given.
SlotCheck slot_check(const ArgCheck& check, const View& page_table);

// A number of entries in use, and those entries: each more than the one before, the i-th first + i
// or more, so that row i moves to a lower slot and rows that move in order overwrite none unread.
void check_count(const ArgCheck& check, ArgName name, int64_t count, int64_t most);
void check_ascending(const ArgCheck& check, const char* name, int row, const int32_t* values,
                     int64_t count, int64_t first);

// indptr [B + 1]: from 0 to N and never less.
void check_indptr(const ArgCheck& check, const Ints& indptr, int64_t B, int64_t N);

}  // namespace fewstep::kv
