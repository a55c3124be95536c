// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "core/check.h"
#include "fewstep/kv.h"
#include "kv/checks.h"
#include "kv/layers.h"
#include "kv/message.h"

// Checks of messages on the host.
namespace fewstep::kv {

static_assert(std::endian::native == std::endian::little, "headers are copied as they lie");

// Of the layers and the shapes that are bound; its checksum is that of the header alone.
Header header_of(const ArgCheck& check, const Layers& layers, int64_t first_layer, int64_t tokens);

// Checks what does not depend on a cache; `bytes` is the message's size, `oldest` the least version
// that is read. The error names `name`.
Header read_header(const ArgCheck& check, const char* name, const void* data, uint64_t bytes,
                   uint32_t oldest);

// Of a message's header but for its last field, and its payload.
uint64_t checksum_of(const void* message, const Header& header);

// Bytes of tokens in all layers.
int64_t payload_of(const Header& h);

// Contiguous; CUDA's kernels take 8 bytes at once.
void check_message(const ArgCheck& check, const char* name, const View& message);

// The problem of a request's slots [begin, end), which are checked: on pages of the cache.
TransferProblem transfer_of(const ArgCheck& check, const Layers& layers, const View& page_table,
                            int64_t row, int64_t begin, int64_t end);

}  // namespace fewstep::kv
