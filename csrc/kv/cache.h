// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/host_device.h"

// Where rows of keys and values lie. Included by kernels and by what calls them.
namespace fewstep::kv {

// Head g of slot t of page p is at data + p * page + t * token + g * head, in bytes.
struct Cache {
  char* data;
  int64_t page, token, head;
};

// A vector, or the rows of a matrix, of int32.
struct Ints {
  const int32_t* data;
  int64_t stride;  // elements between entries, or between rows
};

// Where the slots of a request are.
struct Pages {
  Ints table;  // [B, pages]; data is null where request b has page b
  int64_t T;   // slots of a page
};

// How many pages a cache has, and slots a request: what kernels on CUDA compare with, whose indices
// the host cannot read.
struct Room {
  int64_t pages, slots;
};

namespace {  // kernels include it: nothing here may be shared between instruction sets

FEWSTEP_HOST_DEVICE inline int32_t at(const Ints& v, int64_t i) { return v.data[i * v.stride]; }

// Offset of slot s of request b from the start of a cache.
inline int64_t offset_of(const Pages& pages, const Cache& c, int64_t b, int64_t s) {
  if (!pages.table.data) return b * c.page + s * c.token;
  const int64_t index = s / pages.T;
  const int64_t page = pages.table.data[b * pages.table.stride + index];
  return page * c.page + (s - index * pages.T) * c.token;
}

// The same, or -1 where the cache has no such slot.
FEWSTEP_HOST_DEVICE inline int64_t offset_within(const Room& room, const Pages& pages,
                                                 const Cache& c, int64_t b, int64_t s) {
  if (s < 0 || s >= room.slots) return -1;
  if (!pages.table.data) return b * c.page + s * c.token;
  const int64_t index = s / pages.T;
  const int64_t page = pages.table.data[b * pages.table.stride + index];
  if (page < 0 || page >= room.pages) return -1;
  return page * c.page + (s - index * pages.T) * c.token;
}

}  // namespace
}  // namespace fewstep::kv
