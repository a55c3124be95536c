// SPDX-License-Identifier: Apache-2.0
#include "kv/commit.h"

#include <stdint.h>
#include <string.h>

#include "core/cpu/parallel.h"
#include "core/cpu/vec.h"

// An item is one part of one layer for one request: its rows move in ascending order, head by head.
// A row is a few hundred bytes far from the next in a cache of [B, G, S, D], and each one costs two
// misses: those of the next head are fetched while this one is copied. Rows of whole lines are
// written past the caches, for a cache is far larger than these and a model runs before its rows
// are read again: 32 layers, 8 requests and 5 rows of 64 took 1.02 ms in place of 1.31 after other
// work, and 0.43 in place of 0.25 called again at once. Requires: sources ascend, no source is
// below its target, every slot is in range.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

constexpr int64_t kGrainBytes = 65536;  // of rows per thread
constexpr int kRows = 64;               // rows whose places are looked up at once
constexpr int64_t kLine = 64;

struct Rows {
  int64_t from[kRows], to[kRows];
  int n;
};

inline void fetch(const char* data, const Rows& rows, int64_t bytes, bool targets) {
  for (int i = 0; i < rows.n; ++i) {
    for (int64_t line = 0; line < bytes; line += kLine) {
      __builtin_prefetch(data + rows.from[i] + line, 0, 3);
      if (targets) __builtin_prefetch(data + rows.to[i] + line, 1, 3);
    }
  }
}

// No target is a later source: sources ascend and are not below their targets.
inline void put_lines(char* to, const char* from, int64_t bytes) {
  constexpr int64_t kStep = vec::kLanes * int64_t(sizeof(float));
  for (int64_t i = 0; i < bytes; i += kStep) {
    vec::stream((float*)(to + i), vec::load((const float*)(from + i)));
  }
}

// Whether all rows begin and end with lines.
bool are_lines(const Cache& c, const Rows& rows, int64_t heads, int64_t bytes) {
  if (vec::kLanes == 1) return false;
  int64_t any = bytes | (int64_t)(uintptr_t)c.data | (heads > 1 ? c.head : 0);
  for (int i = 0; i < rows.n; ++i) any |= rows.to[i];
  return any % kLine == 0;
}

void move_rows(const Cache& c, const Rows& rows, int64_t heads, int64_t bytes) {
  if (c.head == bytes) {  // all heads of a slot in one run
    bytes *= heads;
    heads = 1;
  }
  const bool lines = are_lines(c, rows, heads, bytes);
  for (int64_t g = 0; g < heads; ++g) {
    char* data = c.data + g * c.head;
    if (g + 1 < heads) fetch(data + c.head, rows, bytes, !lines);
    for (int i = 0; i < rows.n; ++i) {
      if (lines) {
        put_lines(data + rows.to[i], data + rows.from[i], bytes);
      } else {
        memcpy(data + rows.to[i], data + rows.from[i], size_t(bytes));
      }
    }
  }
}

void move_item(const MoveProblem& p, int64_t layer, int part, int64_t b) {
  const Cache& c = p.layers[layer].part[part];
  const int64_t base = p.base.data ? at(p.base, b) : 0;
  const int32_t* source = p.source.data + layer * p.source_layer + b * p.source.stride;
  const int64_t count = p.count.data[layer * p.count_layer + b * p.count.stride];
  Rows rows;
  rows.n = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (source[i] == p.first + i) continue;
    rows.from[rows.n] = offset_of(p.pages, c, b, base + source[i]);
    rows.to[rows.n] = offset_of(p.pages, c, b, base + p.first + i);
    if (++rows.n == kRows) {
      move_rows(c, rows, p.G, p.bytes[part]);
      rows.n = 0;
    }
  }
  move_rows(c, rows, p.G, p.bytes[part]);
}

void move_items(void* context, int64_t begin, int64_t end) {
  const MoveProblem& p = *(const MoveProblem*)context;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t rest = item / p.parts;
    move_item(p, rest / p.B, int(item % p.parts), rest % p.B);
  }
  vec::stream_fence();
}

}  // namespace

void commit(const MoveProblem& p) {
  const int64_t bytes = p.M * p.G * p.bytes[0];
  if (bytes > 0) {
    const int64_t grain = bytes < kGrainBytes ? kGrainBytes / bytes : 1;
    parallel_for(p.threads, p.L * p.parts * p.B, grain, &move_items, (void*)&p);
  }
  for (int64_t b = 0; p.length && b < p.B; ++b) {
    p.length[b * p.length_stride] = (int32_t)(at(p.base, b) + p.first + at(p.count, b));
  }
}

}  // namespace fewstep::kv::FEWSTEP_ISA
