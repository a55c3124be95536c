// SPDX-License-Identifier: Apache-2.0
#include "kv/commit.h"

#include <stdint.h>
#include <string.h>

#include "core/cpu/parallel.h"

// An item is one part of one layer for one request: its rows move in ascending order, head by head.
// A row is a few hundred bytes far from the next in a cache of [B, G, S, D], and each one costs two
// misses: those of the next head are fetched while this one is copied. Requires: sources ascend, no
// source is below its target, every slot is in range.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

constexpr int64_t kGrainBytes = 65536;  // of rows per thread
constexpr int kRows = 64;               // rows whose places are looked up at once
constexpr int64_t kLine = 64;

struct Rows {
  int64_t from[kRows], to[kRows];
  int n;
};

inline void fetch(const char* data, const Rows& rows, int64_t bytes) {
  for (int i = 0; i < rows.n; ++i) {
    for (int64_t at_byte = 0; at_byte < bytes; at_byte += kLine) {
      __builtin_prefetch(data + rows.from[i] + at_byte, 0, 3);
      __builtin_prefetch(data + rows.to[i] + at_byte, 1, 3);
    }
  }
}

void move_rows(const Cache& c, const Rows& rows, int64_t heads, int64_t bytes) {
  if (c.head == bytes) {  // all heads of a slot in one run
    bytes *= heads;
    heads = 1;
  }
  for (int64_t g = 0; g < heads; ++g) {
    char* data = c.data + g * c.head;
    if (g + 1 < heads) fetch(data + c.head, rows, bytes);
    for (int i = 0; i < rows.n; ++i) memcpy(data + rows.to[i], data + rows.from[i], size_t(bytes));
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
}

}  // namespace

void commit(const MoveProblem& p) {
  const int64_t bytes = p.M * p.G * p.bytes[0];
  const int64_t grain = bytes < kGrainBytes ? kGrainBytes / bytes : 1;
  parallel_for(p.threads, p.L * p.parts * p.B, grain, &move_items, (void*)&p);
}

}  // namespace fewstep::kv::FEWSTEP_ISA
