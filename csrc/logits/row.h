// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/draws.h"
#include "core/dtype.h"
#include "core/host_device.h"

namespace fewstep::logits {

// Why a row of logits has no law. The numbers are those of fewstep_logits_status.
enum RowStatus : int32_t { kRowFine = 0, kRowNaN = 1, kRowInfinite = 2, kRowEmpty = 3 };

// Logits of one position and what is to become of them: divided by the temperature, then top-k,
// top-p of what is left, min-p, typical, eta, in this order (that of transformers 5).
struct RowSpec {
  const void* logits;       // [V]
  const uint32_t* bitmask;  // [ceil(V / 32)], bit v % 32 of word v / 32: allowed; or null
  int64_t V;
  DType dtype;
  float temperature;  // 0: the best token alone
  int32_t top_k;      // 0: off
  float top_p;        // 1: off
  float min_p;        // 0: off
  float typical;      // 1: off
  float eta;          // 0: off
};

// Per-row parameters as an op gets them: an array [rows], or one number for all rows.
template <class T>
struct PerRow {
  const T* values;  // null: `value` holds for every row
  int64_t stride;
  T value;
};
template <class T>
FEWSTEP_HOST_DEVICE static inline T number_at(const PerRow<T>& numbers, int64_t row) {
  return numbers.values ? numbers.values[row * numbers.stride] : numbers.value;
}

// Filters of rows; off unless they are set.
struct Filters {
  PerRow<float> temperature{nullptr, 0, 1.0f};
  PerRow<float> top_p{nullptr, 0, 1.0f};
  PerRow<float> min_p{nullptr, 0, 0.0f};
  PerRow<float> typical{nullptr, 0, 1.0f};
  PerRow<float> eta{nullptr, 0, 0.0f};
  PerRow<int32_t> top_k{nullptr, 0, 0};
};

FEWSTEP_HOST_DEVICE static inline void put_filters(const Filters& f, int64_t row, RowSpec* spec) {
  spec->temperature = number_at(f.temperature, row);
  spec->top_k = number_at(f.top_k, row);
  spec->top_p = number_at(f.top_p, row);
  spec->min_p = number_at(f.min_p, row);
  spec->typical = number_at(f.typical, row);
  spec->eta = number_at(f.eta, row);
}

// Rows of logits as an op gets them, and what is to become of them.
struct Rows {
  int64_t R, V;
  const char* logits;  // [R, V] dtype
  int64_t pitch;       // bytes between rows
  DType dtype;
  const uint32_t* bitmask;  // [R, ceil(V / 32)] or null
  int64_t bitmask_stride;   // words between rows
  Filters filters;
};
FEWSTEP_HOST_DEVICE static inline RowSpec row_at(const Rows& rows, int64_t r) {
  RowSpec spec{};
  spec.logits = rows.logits + r * rows.pitch;
  spec.bitmask = rows.bitmask ? rows.bitmask + r * rows.bitmask_stride : nullptr;
  spec.V = rows.V;
  spec.dtype = rows.dtype;
  put_filters(rows.filters, r, &spec);
  return spec;
}
// Rows for a thread that are about 10 us of work.
static inline int64_t grain_of(const Rows& rows) {
  return rows.V >= 32768 ? 1 : 32768 / (rows.V + 1) + 1;
}

// Where the random numbers of rows come from.
struct RowDraws {
  const uint64_t* seeds;  // [R]
  int64_t seeds_stride;
  const int32_t* positions;  // [R]
  int64_t positions_stride;
  uint32_t stream, draw;
};
FEWSTEP_HOST_DEVICE static inline DrawKey key_at(const RowDraws& draws, int64_t r) {
  return {draws.seeds[r * draws.seeds_stride],
          (uint32_t)draws.positions[r * draws.positions_stride], draws.stream};
}

// Up to this many candidates a top-k needs no pass of its own.
constexpr int kMaxCandidates = 1024;

}  // namespace fewstep::logits
