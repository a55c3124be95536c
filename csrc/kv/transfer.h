// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "core/check.h"
#include "fewstep/kv.h"
#include "kv/checks.h"
#include "kv/layers.h"

// What exported tokens look like; see fewstep/kv.h.
namespace fewstep::kv {

static_assert(std::endian::native == std::endian::little, "headers are copied as they lie");

constexpr int64_t kHeaderBytes = 64;
constexpr uint32_t kVersion = 1;
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

// Of the layers and the shapes that are bound; without the checksum.
Header header_of(const ArgCheck& check, const Layers& layers, int64_t first_layer, int64_t tokens);

// Checks what does not depend on a cache; `bytes` is the message's size. The error names `name`.
Header read_header(const ArgCheck& check, const char* name, const void* data, uint64_t bytes);

// Of a message's header but for its last field, and its payload.
uint64_t checksum_of(const void* message, int64_t payload_bytes);

// Bytes of tokens in all layers.
int64_t payload_of(const Header& h);

// The slots of one request, checked: [begin, end) on pages of the cache.
SlotCheck check_row(const ArgCheck& check, const View& page_table, int64_t row, int64_t begin,
                    int64_t end);

// Copies between caches and a payload, in its order.
void to_payload(const ArgCheck& check, const Layers& layers, const Pages& pages, int64_t row,
                int64_t begin, int64_t end, char* payload);
void from_payload(const ArgCheck& check, const Layers& layers, const Pages& pages, int64_t row,
                  int64_t begin, int64_t end, const char* payload);

}  // namespace fewstep::kv
