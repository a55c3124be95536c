// SPDX-License-Identifier: Apache-2.0
#include "logits/penalise.h"

#include <string.h>

#include "core/cpu/parallel.h"
#include "logits/cpu/block.h"
#include "logits/cpu/named.h"

// Requires: ids below V, counts of 0 or more, rows contiguous. The table lies on the stack.
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

struct Table {
  int used;
  Named slots[kSlots];
};

inline void clear(Table* table) {
  table->used = 0;
  for (Named& slot : table->slots) slot.id = -1;
}

// The token's slot; null where the table has no room for it.
inline Named* slot_of(Table* table, Part part, int32_t id) {
  uint32_t at = first_slot(part, id, kLogSlots);
  while (table->slots[at].id >= 0 && table->slots[at].id != id) at = (at + 1) % kSlots;
  Named* slot = table->slots + at;
  if (slot->id == id) return slot;
  if (table->used == kMaxUsed) return nullptr;
  ++table->used;
  *slot = {id, 0.0f, -1};
  return slot;
}

// Fills the table; false where it has no room.
bool gather(const PenaliseProblem& p, int64_t r, Part part, Table* table) {
  clear(table);
  for (int64_t i = list_begin(p.history, r), end = list_end(p.history, r); i < end; ++i) {
    const int32_t id = p.history.ids[i * p.history.ids_stride];
    if (!has(part, id)) continue;
    Named* named = slot_of(table, part, id);
    if (!named) return false;
    if (named->count < 0) named->count = 0;
    named->count += p.counts ? p.counts[i * p.counts_stride] : 1;
  }
  for (int64_t i = list_begin(p.biased, r), end = list_end(p.biased, r); i < end; ++i) {
    const int32_t id = p.biased.ids[i * p.biased.ids_stride];
    if (!has(part, id)) continue;
    Named* named = slot_of(table, part, id);
    if (!named) return false;
    named->bias += p.bias[i * p.bias_stride];
  }
  return true;
}

void apply(const PenaliseProblem& p, int64_t r, const Table& table) {
  const char* from = p.logits + r * p.logits_pitch;
  char* to = p.out + r * p.out_pitch;
  const Penalties by = penalties_at(p, r);
  for (const Named& named : table.slots) {
    if (named.id < 0) continue;
    const float x = logit_at(from, p.dtype, named.id);
    put_logit(to, p.dtype, named.id, penalised(x, named.bias, named.count, by));
  }
}

void penalise_row(const PenaliseProblem& p, int64_t r, Table* table) {
  if (p.out != p.logits) {
    const size_t bytes = (size_t)(p.V * (p.dtype == DType::kF32 ? 4 : 2));
    memcpy(p.out + r * p.out_pitch, p.logits + r * p.logits_pitch, bytes);
  }
  const int64_t names = (list_end(p.history, r) - list_begin(p.history, r)) +
                        (list_end(p.biased, r) - list_begin(p.biased, r));
  if (names == 0) return;
  for (Part part = first_part(names, kMaxUsed); is_part(part);) {
    const bool fitted = gather(p, r, part, table);
    if (fitted) apply(p, r, *table);
    part = next_part(part, fitted);
  }
}

}  // namespace

void penalise(const PenaliseProblem& p) {
  const auto rows = [](void* context, int64_t begin, int64_t end) {
    Table table;
    for (int64_t r = begin; r < end; ++r) {
      penalise_row(*(const PenaliseProblem*)context, r, &table);
    }
  };
  // About 10 us of work for a thread: a copied logit costs a tenth of a named one.
  const int64_t names = p.R > 0 ? p.history.count / p.R + p.biased.count : 0;
  const int64_t work = 512 + names + (p.out != p.logits ? p.V / 10 : 0);
  parallel_for(p.threads, p.R, 1 + 4096 / work, rows, (void*)&p);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
