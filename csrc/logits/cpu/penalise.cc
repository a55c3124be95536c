// SPDX-License-Identifier: Apache-2.0
#include "logits/penalise.h"

#include <string.h>

#include "core/cpu/parallel.h"
#include "logits/cpu/block.h"

// Requires: ids below V, counts of 0 or more, rows contiguous.
//
// A row's entries are gathered in a hash table on the stack, so that a logit is rounded once
// however often it is named. A list too long for the table is gone through in parts, by hash.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

constexpr int kLogSlots = 12;
constexpr int kSlots = 1 << kLogSlots;
constexpr int kMaxUsed = kSlots / 4 * 3;  // more would make it slow

// What the lists say of a token.
struct Named {
  int32_t id;  // -1: the slot is free
  float bias;
  int64_t count;  // -1: the history does not name it
};

// Those tokens whose hash begins with the `bits` bits of `part`.
struct Part {
  uint32_t part;
  int bits;
  int used;
  Named slots[kSlots];
};

// A bijection of 32-bit words (Knuth's multiplicative hashing): a part that is fine enough always
// fits the table.
inline uint32_t hash_of(int32_t id) { return (uint32_t)id * 0x9E3779B1u; }

inline bool has(const Part& p, int32_t id) {
  return id >= 0 && (p.bits == 0 || hash_of(id) >> (32 - p.bits) == p.part);
}

inline void clear(Part* p) {
  p->used = 0;
  for (Named& slot : p->slots) slot.id = -1;
}

// The token's slot; null where the table has no room for it.
inline Named* slot_of(Part* p, int32_t id) {
  uint32_t at = (hash_of(id) << p->bits) >> (32 - kLogSlots);
  while (p->slots[at].id >= 0 && p->slots[at].id != id) at = (at + 1) % kSlots;
  Named* slot = p->slots + at;
  if (slot->id == id) return slot;
  if (p->used == kMaxUsed) return nullptr;
  ++p->used;
  *slot = {id, 0.0f, -1};
  return slot;
}

// Fills the table; false where it has no room.
bool gather(const PenaliseProblem& p, int64_t r, Part* part) {
  clear(part);
  for (int64_t i = list_begin(p.history, r), end = list_end(p.history, r); i < end; ++i) {
    const int32_t id = p.history.ids[i * p.history.ids_stride];
    if (!has(*part, id)) continue;
    Named* named = slot_of(part, id);
    if (!named) return false;
    if (named->count < 0) named->count = 0;
    named->count += p.counts ? p.counts[i * p.counts_stride] : 1;
  }
  for (int64_t i = list_begin(p.biased, r), end = list_end(p.biased, r); i < end; ++i) {
    const int32_t id = p.biased.ids[i * p.biased.ids_stride];
    if (!has(*part, id)) continue;
    Named* named = slot_of(part, id);
    if (!named) return false;
    named->bias += p.bias[i * p.bias_stride];
  }
  return true;
}

void apply(const PenaliseProblem& p, int64_t r, const Part& part) {
  const char* from = p.logits + r * p.logits_pitch;
  char* to = p.out + r * p.out_pitch;
  const float repetition = number_at(p.repetition, r);
  const float presence = number_at(p.presence, r), frequency = number_at(p.frequency, r);
  for (const Named& named : part.slots) {
    if (named.id < 0) continue;
    float x = logit_at(from, p.dtype, named.id) + named.bias;
    if (named.count >= 0) x = x > 0.0f ? x / repetition : x * repetition;
    if (named.count > 0) x = (x - frequency * (float)named.count) - presence;
    put_logit(to, p.dtype, named.id, x);
  }
}

void penalise_row(const PenaliseProblem& p, int64_t r, Part* part) {
  if (p.out != p.logits) {
    const size_t bytes = (size_t)(p.V * (p.dtype == DType::kF32 ? 4 : 2));
    memcpy(p.out + r * p.out_pitch, p.logits + r * p.logits_pitch, bytes);
  }
  const int64_t names = (list_end(p.history, r) - list_begin(p.history, r)) +
                        (list_end(p.biased, r) - list_begin(p.biased, r));
  if (names == 0) return;
  part->part = 0;
  part->bits = 0;
  // Texts repeat themselves: a few names per token. Where they do not, the parts get finer.
  while (names >> part->bits > 4 * kMaxUsed) ++part->bits;
  while (part->part >> part->bits == 0) {
    if (gather(p, r, part)) {
      apply(p, r, *part);
      ++part->part;
    } else {  // the rest in parts of half the size
      part->part *= 2;
      ++part->bits;
    }
  }
}

}  // namespace

void penalise(const PenaliseProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Part part;
    for (int64_t r = begin; r < end; ++r) {
      penalise_row(*(const PenaliseProblem*)context, r, &part);
    }
  };
  // About 10 us of work for a thread: a copied logit costs a tenth of a named one.
  const int64_t names = p.R > 0 ? p.history.count / p.R + p.biased.count : 0;
  const int64_t work = 512 + names + (p.out != p.logits ? p.V / 10 : 0);
  parallel_for(p.threads, p.R, 1 + 4096 / work, rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
