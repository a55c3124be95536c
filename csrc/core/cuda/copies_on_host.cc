// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/async_copy.h"
#include "core/status.h"

namespace fewstep::gpu {
namespace {

struct Copy {
  void* to;
  const char* from;
  int64_t group;
};

// Copies that wait, in a ring. Where there are more, the oldest are done: a GPU may do them at
// once.
struct Copies {
  static constexpr int64_t kMost = 8192;
  Copy ring[kMost];
  int64_t first, last, groups;
  bool are_late;

  void do_first() {
    const Copy& copy = ring[first++ % kMost];
    if (copy.from) {
      memcpy(copy.to, copy.from, 16);
    } else {
      memset(copy.to, 0, 16);
    }
  }
};

Copies& copies() {
  static thread_local Copies of_this_thread;
  return of_this_thread;
}

}  // namespace

void begin_block(int64_t block) {
  Copies& c = copies();
  c.first = c.last;
  c.are_late = block / 2 % 2 == 0;
}

void end_block() {
  if (copies().first == copies().last) return;
  throw Error(FEWSTEP_INTERNAL, "a CUDA kernel ends before its copies");
}

void copy_later(void* to, const char* from) {
  Copies& c = copies();
  if (c.last - c.first == Copies::kMost) c.do_first();
  c.ring[c.last++ % Copies::kMost] = {to, from, c.groups};
  if (!c.are_late) c.do_first();
}

void end_group_of_copies() { ++copies().groups; }

void do_copies_but_groups(int pending) {
  Copies& c = copies();
  while (c.first < c.last && c.ring[c.first % Copies::kMost].group + pending < c.groups) {
    c.do_first();
  }
}

}  // namespace fewstep::gpu
