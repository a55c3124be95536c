// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "core/cuda/box_copy.h"
#include "core/status.h"

namespace fewstep::gpu {
namespace {

struct Copy {
  void* to;
  const char* from;
  int64_t group;
};

struct Box {
  BoxedTensor tensor;
  int32_t at[4];
  char* to;
  CopyBarrier* barrier;

  void copy() const {
    for (int32_t row = 0; row < tensor.rows; ++row) {
      for (int32_t i = 0; i < kSwizzledColumns; ++i) {
        const uintptr_t plain = (uintptr_t)to + (uintptr_t)(row * kSwizzledRow + 2 * i);
        const int64_t index[4] = {at[0] + i, at[1], int64_t{at[2]} + row, at[3]};
        memcpy((void*)swizzled_address(plain), element(index), 2);
      }
    }
    barrier->done += tensor.rows * kSwizzledRow;
  }

  const void* element(const int64_t (&index)[4]) const {
    static constexpr uint16_t kZero = 0;
    const char* p = tensor.data + 2 * index[0];
    for (int d = 0; d < 4; ++d) {
      if (index[d] < 0 || index[d] >= tensor.extents[d]) return &kZero;
      if (d > 0) p += index[d] * tensor.strides[d - 1];
    }
    return p;
  }
};

// Copies that wait, in a ring. Where there are more, the oldest are done: a GPU may do them at
// once.
struct Copies {
  static constexpr int64_t kMost = 8192;
  Copy ring[kMost];
  int64_t first, last, groups;
  bool are_late;
  std::vector<Box> boxes;

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
  c.boxes.clear();
  c.are_late = block / 2 % 2 == 0;
}

void end_block() {
  if (copies().first == copies().last && copies().boxes.empty()) return;
  throw Error(FEWSTEP_INTERNAL, "a CUDA kernel ends before its copies");
}

void copy_later(void* to, const char* from) {
  Copies& c = copies();
  if (c.last - c.first == Copies::kMost) c.do_first();
  c.ring[c.last++ % Copies::kMost] = {to, from, c.groups};
  if (!c.are_late) c.do_first();
}

void copy_box_later(const BoxedTensor& tensor, const int32_t (&at)[4], char* to, CopyBarrier* by) {
  if ((uintptr_t)to % kSwizzledAtom != 0) throw_misaligned(kSwizzledAtom, to);
  const Box box = {tensor, {at[0], at[1], at[2], at[3]}, to, by};
  if (copies().are_late) {
    copies().boxes.push_back(box);
  } else {
    box.copy();
  }
}

void expect_later(CopyBarrier* barrier, int64_t bytes) {
  if (barrier->expected >= 0) throw Error(FEWSTEP_INTERNAL, "a CUDA kernel expects boxes twice");
  barrier->expected = bytes;
}

void do_boxes(CopyBarrier* barrier, int32_t parity) {
  std::vector<Box>& boxes = copies().boxes;
  const auto others = std::stable_partition(boxes.begin(), boxes.end(),
                                            [&](const Box& box) { return box.barrier != barrier; });
  for (auto box = others; box != boxes.end(); ++box) box->copy();
  boxes.erase(others, boxes.end());
  if (parity != barrier->parity) {
    throw Error(FEWSTEP_INTERNAL, "a CUDA kernel's wait for boxes ends before they come");
  }
  if (barrier->done != barrier->expected) {
    throw Error(FEWSTEP_INTERNAL, "a CUDA kernel's wait for boxes never ends");
  }
  *barrier = {-1, 0, 1 - parity};
}

void end_group_of_copies() { ++copies().groups; }

void do_copies_but_groups(int pending) {
  Copies& c = copies();
  while (c.first < c.last && c.ring[c.first % Copies::kMost].group + pending < c.groups) {
    c.do_first();
  }
}

}  // namespace fewstep::gpu
