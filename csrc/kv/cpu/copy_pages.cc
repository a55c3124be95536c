// SPDX-License-Identifier: Apache-2.0
#include "kv/copy_pages.h"

#include <stdint.h>
#include <string.h>

#include "core/cpu/parallel.h"

// An item is one part of one layer, whose pages are copied in order. Requires: pages in range, none
// copied onto itself.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

constexpr int64_t kGrainBytes = 65536;  // of pages per thread

// The run of a page that is contiguous, and how often it occurs.
void copy_page(const Cache& c, int64_t from, int64_t to, int64_t T, int64_t G, int64_t bytes) {
  const char* source = c.data + from * c.page;
  char* target = c.data + to * c.page;
  const bool heads = G == 1 || c.head == bytes;
  if (heads && (T == 1 || c.token == G * bytes)) {
    memcpy(target, source, size_t(T * G * bytes));
    return;
  }
  for (int64_t t = 0; t < T; ++t) {
    if (heads) {
      memcpy(target + t * c.token, source + t * c.token, size_t(G * bytes));
      continue;
    }
    for (int64_t g = 0; g < G; ++g) {
      const int64_t row = t * c.token + g * c.head;
      memcpy(target + row, source + row, size_t(bytes));
    }
  }
}

void copy_items(void* context, int64_t begin, int64_t end) {
  const CopyPagesProblem& p = *(const CopyPagesProblem*)context;
  for (int64_t item = begin; item < end; ++item) {
    const int part = int(item % p.parts);
    const Cache& c = p.layers[item / p.parts].part[part];
    for (int64_t n = 0; n < p.N; ++n) {
      const int32_t from = at(p.source, n);
      if (from >= 0) copy_page(c, from, at(p.target, n), p.T, p.G, p.bytes[part]);
    }
  }
}

}  // namespace

void copy_pages(const CopyPagesProblem& p) {
  const int64_t bytes = p.N * p.T * p.G * p.bytes[0];
  const int64_t grain = bytes < kGrainBytes ? kGrainBytes / bytes : 1;
  parallel_for(p.threads, p.L * p.parts, grain, &copy_items, (void*)&p);
}

}  // namespace fewstep::kv::FEWSTEP_ISA
