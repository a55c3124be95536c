// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/host_device.h"
#include "logits/penalise.h"

// What kernels of both kinds make of the tokens that lists name. Included by kernel files only.
//
// A row's entries are gathered in a hash table, so that a logit is rounded once however often it is
// named. A list too long for the table is gone through in parts, by hash.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

// Those tokens whose hash begins with the `bits` bits of `part`.
struct Part {
  uint32_t part;
  int bits;
};

// A bijection of 32-bit words (Knuth's multiplicative hashing): a part that is fine enough always
// fits the table.
FEWSTEP_HOST_DEVICE inline uint32_t hash_of(int32_t id) { return (uint32_t)id * 0x9E3779B1u; }

FEWSTEP_HOST_DEVICE inline bool has(Part p, int32_t id) {
  return id >= 0 && (p.bits == 0 || hash_of(id) >> (32 - p.bits) == p.part);
}

// Where a table of 1 << log_slots slots has an id of a part, unless others are there.
FEWSTEP_HOST_DEVICE inline uint32_t first_slot(Part p, int32_t id, int log_slots) {
  return (hash_of(id) << p.bits) >> (32 - log_slots);
}

// The first part of a row. Texts repeat themselves: a few names per token. Where they do not, the
// parts get finer.
FEWSTEP_HOST_DEVICE inline Part first_part(int64_t names, int room) {
  Part part = {0, 0};
  while (names >> part.bits > 4 * room) ++part.bits;
  return part;
}
FEWSTEP_HOST_DEVICE inline bool is_part(Part p) { return p.part >> p.bits == 0; }
// The one after it; where it did not fit, its first half.
FEWSTEP_HOST_DEVICE inline Part next_part(Part p, bool fitted) {
  if (fitted) return {p.part + 1, p.bits};
  return {p.part * 2, p.bits + 1};
}

struct Penalties {
  float repetition, presence, frequency;
};
FEWSTEP_HOST_DEVICE inline Penalties penalties_at(const PenaliseProblem& p, int64_t r) {
  return {number_at(p.repetition, r), number_at(p.presence, r), number_at(p.frequency, r)};
}

// A logit that is named; count: -1 where the history does not name it.
FEWSTEP_HOST_DEVICE inline float penalised(float x, float bias, int64_t count,
                                           const Penalties& by) {
  x = x + bias;
  if (count >= 0) x = x > 0.0f ? x / by.repetition : x * by.repetition;
  if (count > 0) x = (x - by.frequency * (float)count) - by.presence;
  return x;
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
