// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/piece.h"
#include "logits/cpu/named.h"
#include "logits/cuda/row.h"
#include "logits/penalise.h"

// Mapping: a cluster copies a row, whose lists its first block has, a thread every 512th entry.
// Requires: contiguous rows. An id that is no token's is passed over, a count below 0 is none, and
// an indptr is cut to its list: nobody looked at them before.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

constexpr int kLogSlots = 11;
constexpr int kSlots = 1 << kLogSlots;
// Each thread may take a slot more before it sees that there are too many, and one stays free.
constexpr int kMaxUsed = kSlots / 2;
constexpr uint32_t kFree = ~0u;
constexpr uint32_t kInHistory = 0x80000000u;

// What the lists say of the tokens of a part.
struct Table {
  uint32_t ids[kSlots];
  uint32_t low[kSlots];     // the lower half of the sum of a token's counts
  uint32_t high[kSlots];    // the upper one, with kInHistory
  uint32_t biases[kSlots];  // how many it has
  uint32_t first[kSlots];   // the entry with the first of them
};

struct Entries {
  int64_t begin, end;
};

struct PenaliseKernel {
  static constexpr int kThreads = 512, kBlocks = 2;
  struct Shared {
    Table table;
    uint32_t used;
  };

  PenaliseProblem p;
  int piece;  // bytes that are copied at once

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index;
    if (p.out != p.logits) {
      gpu::with_piece(piece, *this, block);
      block.cluster.barrier();  // all is copied before some is written over
    }
    if (block.cluster.rank() > 0) return;
    const Entries history = entries_of(p.history, r), biased = entries_of(p.biased, r);
    const int64_t names = (history.end - history.begin) + (biased.end - biased.begin);
    if (names == 0) return;
    for (Part part = first_part(names, kMaxUsed); is_part(part);) {
      gather(block, part, history, biased, &s);
      const bool fitted = block.get(s.used) <= kMaxUsed;
      if (fitted) apply(block, biased, s.table);
      part = next_part(part, fitted);
    }
  }

  template <int kBytes>
  FEWSTEP_HOST_DEVICE void move(const Block& block) const {
    const char* const from = p.logits + block.index * p.logits_pitch;
    char* const to = p.out + block.index * p.out_pitch;
    const int64_t bytes = p.V * gpu::element_bytes(p.dtype), whole = bytes / kBytes;
    block.each([&](int t) {
      for (int64_t i = block.place_of(t); i < whole; i += block.places()) {
        gpu::Piece<kBytes> x;
        x.load(from + i * kBytes);
        x.store(to + i * kBytes);
      }
      for (int64_t at = whole * kBytes + 2 * block.place_of(t); at < bytes;
           at += 2 * block.places()) {
        gpu::Piece<2> x;
        x.load(from + at);
        x.store(to + at);
      }
    });
  }

  FEWSTEP_HOST_DEVICE static Entries entries_of(const TokenLists& lists, int64_t r) {
    Entries e = {list_begin(lists, r), list_end(lists, r)};
    if (e.end > lists.count) e.end = lists.count;
    if (e.begin < 0 || e.begin > e.end) e.begin = e.end = 0;
    return e;
  }

  FEWSTEP_HOST_DEVICE bool has_token(Part part, int32_t id) const {
    return id < p.V && has(part, id);
  }

  // The token's slot, which is taken where it has none; -1 where there are too many.
  FEWSTEP_HOST_DEVICE static int slot_of(Part part, int32_t id, Shared* s) {
    uint32_t at = first_slot(part, id, kLogSlots);
    for (;; at = (at + 1) % kSlots) {
      if (s->used > kMaxUsed) return -1;
      const uint32_t was = gpu::atomic_exchange_if(&s->table.ids[at], kFree, (uint32_t)id);
      if (was == kFree) gpu::atomic_add(&s->used, 1);
      if (was == kFree || was == (uint32_t)id) return (int)at;
    }
  }

  FEWSTEP_HOST_DEVICE void gather(const Block& block, Part part, Entries history, Entries biased,
                                  Shared* s) const {
    Table& table = s->table;
    block.each([&](int t) {
      if (t == 0) s->used = 0;
      for (int i = t; i < kSlots; i += kThreads) {
        table.ids[i] = table.first[i] = kFree;
        table.low[i] = table.high[i] = table.biases[i] = 0;
      }
    });
    block.each([&](int t) {
      for (int64_t i = history.begin + t; i < history.end; i += kThreads) {
        const int32_t id = p.history.ids[i * p.history.ids_stride];
        if (!has_token(part, id)) continue;
        const int slot = slot_of(part, id, s);
        if (slot < 0) return;
        const int32_t given = p.counts ? p.counts[i * p.counts_stride] : 1;
        const uint32_t count = given > 0 ? (uint32_t)given : 0;
        const uint32_t before = gpu::atomic_add(&table.low[slot], count);
        if (before + count < before) gpu::atomic_add(&table.high[slot], 1);
        gpu::atomic_or(&table.high[slot], kInHistory);
      }
      for (int64_t i = biased.begin + t; i < biased.end; i += kThreads) {
        const int32_t id = p.biased.ids[i * p.biased.ids_stride];
        if (!has_token(part, id)) continue;
        const int slot = slot_of(part, id, s);
        if (slot < 0) return;
        gpu::atomic_add(&table.biases[slot], 1);
        gpu::atomic_min(&table.first[slot], (uint32_t)(i - biased.begin));
      }
    });
  }

  // The sum of a token's biases, in their order.
  FEWSTEP_HOST_DEVICE float bias_of(uint32_t id, uint32_t first, uint32_t biases,
                                    Entries biased) const {
    float bias = 0.0f;
    for (int64_t i = biased.begin + first; biases > 0 && i < biased.end; ++i) {
      if ((uint32_t)p.biased.ids[i * p.biased.ids_stride] != id) continue;
      bias += p.bias[i * p.bias_stride];
      --biases;
    }
    return bias;
  }

  FEWSTEP_HOST_DEVICE void apply(const Block& block, Entries biased, const Table& table) const {
    const char* const from = p.logits + block.index * p.logits_pitch;
    char* const to = p.out + block.index * p.out_pitch;
    const int bytes = gpu::element_bytes(p.dtype);
    block.each([&](int t) {
      const Penalties by = penalties_at(p, block.index);
      for (int i = t; i < kSlots; i += kThreads) {
        const uint32_t id = table.ids[i], high = table.high[i];
        if (id == kFree) continue;
        const float bias = bias_of(id, table.first[i], table.biases[i], biased);
        const uint64_t sum = (uint64_t)(high & ~kInHistory) << 32 | table.low[i];
        const int64_t count = (high & kInHistory) ? (int64_t)sum : -1;
        const float x = gpu::load_one(from + (int64_t)id * bytes, p.dtype);
        gpu::store_one(to + (int64_t)id * bytes, p.dtype, penalised(x, bias, count, by));
      }
    });
  }
};

}  // namespace

void penalise(const PenaliseProblem& p) {
  const uint64_t any = (uint64_t)(uintptr_t)p.logits | (uint64_t)(uintptr_t)p.out |
                       (uint64_t)p.logits_pitch | (uint64_t)p.out_pitch;
  const int64_t V = p.out != p.logits ? p.V : 0;  // tokens that are copied
  launch_rows("fewstep_logits_penalise", PenaliseKernel{p, gpu::piece_bytes(any)}, p.R, V,
              p.cuda_stream);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
