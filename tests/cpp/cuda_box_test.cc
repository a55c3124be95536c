// SPDX-License-Identifier: Apache-2.0
// Copies of boxes into shared memory, as the CPU plays them.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "core/cuda/box_copy.h"
#include "core/cuda/launch.h"
#include "core/status.h"

using namespace fewstep;

namespace {

constexpr int kRows = 8, kColumns = 80, kHeads = 2, kTokens = 10, kPages = 3;
constexpr int kBytes = kRows * gpu::kSwizzledRow;

enum class Fault { kNone, kEarly, kNever, kTwice, kLeft };

// Element (column, head, token, page) has a number of its own; 0 is none's.
uint16_t number(int column, int head, int token, int page) {
  return uint16_t(1 + column + kColumns * (head + kHeads * (token + kTokens * page)));
}

struct BoxKernel {
  static constexpr int kThreads = 32, kBlocks = 1;
  struct Shared {
    alignas(1024) uint16_t box[2][kRows][gpu::kSwizzledColumns];
    gpu::CopyBarrier barrier;
  };

  gpu::TensorMap map;
  Fault fault;
  int32_t at[4];

  void run(const gpu::Block<kThreads>& block, Shared& s) const {
    block.each([&](int t) {
      if (t == 0) gpu::begin_barrier(&s.barrier);
    });
    for (int round = 0; round < 3; ++round) {
      const int32_t here[4] = {at[0], at[1], at[2] + round, at[3]};
      const bool is_left = fault == Fault::kLeft && round == 2;
      block.each([&](int t) {
        if (t == 1) gpu::copy_box(map, here, (char*)s.box[round % 2], &s.barrier);
        if (t != 0) return;
        gpu::expect_bytes(&s.barrier, fault == Fault::kNever ? kBytes + 16 : kBytes);
        if (fault == Fault::kTwice) gpu::expect_bytes(&s.barrier, kBytes);
      });
      if (is_left) return;
      gpu::wait_for_boxes(&s.barrier, fault == Fault::kEarly ? 0 : round % 2);
      for (int row = 0; row < kRows; ++row) {
        for (int i = 0; i < gpu::kSwizzledColumns; ++i) {
          const int c = here[0] + i, token = here[2] + row, chunk = i / 8 ^ row % 8;
          const bool is_there = c >= 0 && c < kColumns && token >= 0 && token < kTokens &&
                                here[3] >= 0 && here[3] < kPages;
          const uint16_t found = s.box[round % 2][row][chunk * 8 + i % 8];
          REQUIRE(found == (is_there ? number(c, here[1], token, here[3]) : 0));
        }
      }
    }
  }
};

std::string message_of(Fault fault, const int32_t (&at)[4]) {
  std::vector<uint16_t> memory;
  for (int page = 0; page < kPages; ++page) {
    for (int token = 0; token < kTokens; ++token) {
      for (int head = 0; head < kHeads; ++head) {
        for (int c = 0; c < kColumns; ++c) memory.push_back(number(c, head, token, page));
      }
    }
  }
  constexpr int64_t kHead = 2 * kColumns, kToken = kHead * kHeads, kPage = kToken * kTokens;
  const gpu::BoxedTensor tensor = {(const char*)memory.data(),
                                   {kColumns, kHeads, kTokens, kPages},
                                   {kHead, kToken, kPage},
                                   kRows};
  BoxKernel kernel{{}, fault, {at[0], at[1], at[2], at[3]}};
  REQUIRE(gpu::map_tensor(tensor, true, &kernel.map));
  try {
    gpu::launch("f", kernel, 3, nullptr);  // of which the last copies at once
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("boxes are swizzled, and zero outside of their tensor") {
  for (int column : {0, 16, 64, -8}) {
    for (int token : {0, 1, 5, -3}) {
      for (int page : {0, 2, 3, -1}) {
        CHECK(message_of(Fault::kNone, {column, token % 2 == 0 ? 0 : 1, token, page}) == "");
      }
    }
  }
}

TEST_CASE("waits that a GPU would leave too early or never are errors") {
  const int32_t at[4] = {0, 0, 0, 0};
  CHECK(message_of(Fault::kEarly, at) == "a CUDA kernel's wait for boxes ends before they come");
  CHECK(message_of(Fault::kNever, at) == "a CUDA kernel's wait for boxes never ends");
  CHECK(message_of(Fault::kTwice, at) == "a CUDA kernel expects boxes twice");
  CHECK(message_of(Fault::kLeft, at) == "a CUDA kernel ends before its copies");
}
