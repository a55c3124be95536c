// SPDX-License-Identifier: Apache-2.0
// What CUDA kernels make of messages and page tables that nobody could check before: they lie on
// the device. Here their code runs on the CPU, past the checks of the C functions.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#define FEWSTEP_ISA cuda_on_host
#include "kv/cuda/export_tokens.cu"
#include "kv/cuda/import_tokens.cu"

namespace kv = fewstep::kv;

namespace {

constexpr int32_t kFar = std::numeric_limits<int32_t>::max();

// One layer on 3 pages of 2 slots, for one head of one float; a request has two pages, and three of
// its tokens are exported from slot 1 on.
struct Transfer {
  std::vector<float> keys = std::vector<float>(6), values = std::vector<float>(6);
  std::vector<int32_t> table{2, 0};
  std::vector<uint64_t> message = std::vector<uint64_t>((64 + 24) / 8);
  std::vector<int64_t> status{-5, -5};
  kv::Layer layer{};

  Transfer() {
    std::iota(keys.begin(), keys.end(), 1.0f);
    std::iota(values.begin(), values.end(), 101.0f);
  }

  kv::TransferProblem problem() {
    layer.part[0] = {reinterpret_cast<char*>(keys.data()), 8, 4, 4};
    layer.part[1] = {reinterpret_cast<char*>(values.data()), 8, 4, 4};
    kv::TransferProblem p{};
    p.L = p.G = 1;
    p.parts = 2;
    p.bytes[0] = p.bytes[1] = 4;
    p.layers = &layer;
    p.pages = {{table.data(), 2}, 2};
    p.room = {3, 4};
    p.begin = 1;
    p.tokens = 3;
    p.header.version = kv::kVersion;
    p.header.tokens = 3;
    p.header.payload_bytes = 24;
    p.header.checksum = kv::mix(0, reinterpret_cast<const char*>(&p.header), kv::kSummedHeader);
    p.message = reinterpret_cast<char*>(message.data());
    p.status = status.data();
    p.function = "f";
    return p;
  }
  void export_tokens() { kv::cuda_on_host::export_tokens(problem()); }
  void import_tokens() { kv::cuda_on_host::import_tokens(problem()); }

  std::vector<float> payload() const {
    std::vector<float> out(6);
    std::memcpy(out.data(), message.data() + 8, 24);
    return out;
  }
};

}  // namespace

TEST_CASE("a message is imported whole, or no cache is written") {
  Transfer from;
  from.export_tokens();
  CHECK(from.payload() == std::vector<float>{6, 1, 2, 106, 101, 102});
  Transfer whole;
  whole.keys.assign(6, 0.0f);
  whole.message = from.message;
  whole.import_tokens();
  CHECK(whole.status[0] == 0);
  CHECK(whole.keys == std::vector<float>{1, 2, 0, 0, 0, 6});
  for (size_t byte = 0; byte < 88; ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      Transfer damaged;
      damaged.keys.assign(6, 0.0f);
      damaged.message = from.message;
      reinterpret_cast<uint8_t*>(damaged.message.data())[byte] ^= uint8_t(1 << bit);
      damaged.import_tokens();
      CHECK(damaged.status[0] == int64_t(byte < 56 ? byte + 1 : 57));
      CHECK(damaged.keys == std::vector<float>(6, 0.0f));
      CHECK(damaged.values[0] == 101.0f);
    }
  }
}

TEST_CASE("slots without a page are zeros in a message, and passed over by one") {
  Transfer right;
  right.export_tokens();
  for (const int32_t far : {3, kFar, -1, -kFar}) {
    Transfer from;
    from.table[1] = far;
    from.export_tokens();
    CHECK(from.payload() == std::vector<float>{6, 0, 0, 106, 0, 0});
    Transfer to;
    to.keys.assign(6, 0.0f);
    to.message = right.message;
    to.table[1] = far;
    to.import_tokens();
    CHECK(to.status[0] == 0);
    CHECK(to.keys == std::vector<float>{0, 0, 0, 0, 0, 6});
  }
}
