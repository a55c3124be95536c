// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>
#include <string.h>

#include "core/kernel_set.h"
#include "kv/commit.h"

// What exported tokens look like; see fewstep/kv.h.
namespace fewstep::kv {

constexpr int64_t kHeaderBytes = 64;
constexpr uint32_t kVersion = 2;
constexpr char kMagic[8] = "FSTEPKV";

struct Header {
  char magic[8];
  uint32_t version, header_bytes;
  uint8_t dtype_code, dtype_bits;
  uint16_t lanes;
  uint32_t layers, first_layer, heads, head_dim, scales;
  uint64_t tokens, payload_bytes, checksum;
};
static_assert(sizeof(Header) == kHeaderBytes);
constexpr int64_t kSummedHeader = kHeaderBytes - int64_t(sizeof(uint64_t));  // without the checksum

// Tokens of a request between caches and a message, with rows in the payload's order.
struct TransferProblem {
  int64_t L, G;
  int32_t parts;     // 2, or 4 with scales
  int64_t bytes[4];  // of one head's row, by part
  const Layer* layers;
  Pages pages;
  Room room;
  int64_t row, begin, tokens;
  Header header;    // of the message; its checksum is that of the header alone
  char* message;    // written by an export, read by an import
  int64_t* status;  // [2]: of an import on CUDA, see fewstep/kv.h
  const char* function;
  int32_t threads;
  void* cuda_stream;
};
using TransferFn = void(const TransferProblem&);
FEWSTEP_DECLARE_KERNELS(TransferFn, export_tokens)
FEWSTEP_DECLARE_KERNELS(TransferFn, import_tokens)

namespace {  // kernels include it: nothing here may be shared between instruction sets

constexpr uint64_t kPrime = 0x9e3779b97f4a7c15u;
constexpr int64_t kChunk = 1024;  // bytes of a payload that are mixed by themselves
constexpr int kMixLanes = 4;
constexpr int64_t kMixed = kMixLanes * int64_t(sizeof(uint64_t));  // bytes at once

FEWSTEP_HOST_DEVICE inline uint64_t turned_product(uint64_t x, int bits) {
  return (x << bits | x >> (64 - bits)) * kPrime;
}

// Four lanes of 64-bit words, each step a bijection of its lane, so that any change of one word
// changes the mix; zeros stand for what is missing of the last 32 bytes.
FEWSTEP_HOST_DEVICE inline uint64_t first_of_lane(uint64_t seed, int lane) {
  return seed + (uint64_t)lane * kPrime;
}
FEWSTEP_HOST_DEVICE inline uint64_t next_of_lane(uint64_t lane, uint64_t word) {
  return turned_product(lane ^ word, 29);
}
FEWSTEP_HOST_DEVICE inline uint64_t join_lanes(const uint64_t* lane, int64_t bytes) {
  uint64_t sum = (uint64_t)bytes;
  FEWSTEP_UNROLL
  for (int j = 0; j < kMixLanes; ++j) sum = turned_product(sum ^ lane[j], 31);
  return sum;
}

inline uint64_t mix(uint64_t seed, const char* data, int64_t bytes) {
  uint64_t lane[kMixLanes], word[kMixLanes];
  for (int j = 0; j < kMixLanes; ++j) lane[j] = first_of_lane(seed, j);
  for (int64_t i = 0; i < bytes; i += kMixed) {
    if (bytes - i < kMixed) memset(word, 0, sizeof word);
    memcpy(word, data + i, size_t(bytes - i < kMixed ? bytes - i : kMixed));
    for (int j = 0; j < kMixLanes; ++j) lane[j] = next_of_lane(lane[j], word[j]);
  }
  return join_lanes(lane, bytes);
}

// Of a message's payload: chunks are mixed from where they begin on and added up, so in any order.
inline uint64_t payload_sum(const char* payload, int64_t bytes) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < bytes; i += kChunk) {
    sum += mix((uint64_t)i, payload + i, bytes - i < kChunk ? bytes - i : kChunk);
  }
  return sum;
}

}  // namespace
}  // namespace fewstep::kv
