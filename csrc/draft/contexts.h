// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace fewstep::draft {

constexpr int32_t kMaxOrder = 4, kMaxWidth = 16;

// The last tokens of a text, the latest first; -1 where there are no more.
struct Context {
  int32_t token[kMaxOrder] = {-1, -1, -1, -1};

  bool operator==(const Context&) const = default;
  int32_t length() const {
    int32_t n = 0;
    while (n < kMaxOrder && token[n] >= 0) ++n;
    return n;
  }
  Context last(int32_t count) const {
    Context c = *this;
    for (int32_t i = count; i < kMaxOrder; ++i) c.token[i] = -1;
    return c;
  }
  // With one more token; no longer than `order`.
  Context then(int32_t next, int32_t order) const {
    Context c;
    c.token[0] = next;
    for (int32_t i = 1; i < order; ++i) c.token[i] = token[i - 1];
    return c;
  }
  uint64_t hash() const {
    const auto pair = [this](int i) {
      return uint64_t(uint32_t(token[i])) << 32 | uint32_t(token[i + 1]);
    };
    uint64_t h = pair(0) * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 32) ^ pair(2)) * 0xbf58476d1ce4e5b9u;
    return h ^ (h >> 32);
  }
};

enum class Source : uint8_t { kRead, kModel };

// Distinct tokens that may follow a context, the likeliest first, with their probabilities.
struct Successors {
  Source source = Source::kRead;
  int32_t count = 0;
  const int32_t* token = nullptr;
  const float* chance = nullptr;
};

// What followed contexts, `capacity` of them at most: then a new one takes the place of the one
// that has been known longest. Entries are found by hash, open addressing with linear probes.
class ContextTable {
 public:
  ContextTable(int32_t width, int64_t capacity)
      : width_(size_t(width)), capacity_(size_t(capacity)), place_(64, -1) {}

  int64_t size() const { return int64_t(entries_.size()); }

  // The entry of a context, or -1.
  int32_t find(const Context& context) const { return place_[place_of(context)]; }
  // Fetches what `find` and then what `put` will look at: tables do not stay in caches between
  // calls of a model.
  void fetch_place(const Context& context) const { __builtin_prefetch(&place_[home_of(context)]); }
  void fetch_entry(const Context& context) const {
    const int32_t entry = place_[home_of(context)];
    if (entry < 0) return;
    __builtin_prefetch(&entries_[size_t(entry)]);
    __builtin_prefetch(&token_[size_t(entry) * width_]);
    __builtin_prefetch(&chance_[size_t(entry) * width_]);
  }
  Successors successors(int32_t entry) const {
    const Entry& e = entries_[size_t(entry)];
    const size_t at = size_t(entry) * width_;
    return {e.source, e.count, &token_[at], &chance_[at]};
  }

  // Stores at most `width` successors. What is read does not replace what a model said.
  void put(const Context& context, const Successors& given) {
    int32_t entry = find(context);
    if (entry < 0) {
      entry = add(context);
    } else if (given.source == Source::kRead && entries_[size_t(entry)].source == Source::kModel) {
      return;
    }
    entries_[size_t(entry)].source = given.source;
    entries_[size_t(entry)].count = given.count;
    const auto at = std::ptrdiff_t(size_t(entry) * width_);
    std::copy_n(given.token, given.count, token_.begin() + at);
    std::copy_n(given.chance, given.count, chance_.begin() + at);
  }

 private:
  struct Entry {
    Context context;
    Source source = Source::kRead;
    int32_t count = 0;
  };

  size_t next(size_t place) const { return (place + 1) & (place_.size() - 1); }
  size_t home_of(const Context& context) const {
    return size_t(context.hash()) & (place_.size() - 1);
  }
  // Where a context is, or the free place where it would go.
  size_t place_of(const Context& context) const {
    size_t place = home_of(context);
    while (place_[place] >= 0 && entries_[size_t(place_[place])].context != context) {
      place = next(place);
    }
    return place;
  }

  int32_t add(const Context& context) {
    int32_t entry = oldest_;
    if (entries_.size() < capacity_) {
      entry = int32_t(entries_.size());
      make_room();
    } else {
      oldest_ = size_t(oldest_) + 1 < capacity_ ? oldest_ + 1 : 0;
      forget(entries_[size_t(entry)].context);
    }
    entries_[size_t(entry)].context = context;
    // Not place_of(): the entry has its context already, but no place.
    size_t place = home_of(context);
    while (place_[place] >= 0) place = next(place);
    place_[place] = entry;
    return entry;
  }

  // For one more entry; where memory ends, the table stays as it is.
  void make_room() {
    const size_t count = entries_.size() + 1;
    if (2 * count > place_.size()) {
      std::vector<int32_t> old(2 * place_.size(), -1);
      old.swap(place_);
      for (const int32_t entry : old) {
        if (entry >= 0) place_[place_of(entries_[size_t(entry)].context)] = entry;
      }
    }
    token_.resize(count * width_, -1);
    chance_.resize(count * width_, 0.0f);
    entries_.emplace_back();
  }

  // Later entries of the run move up, so that searches do not end at the hole.
  void forget(const Context& context) {
    size_t hole = place_of(context);
    for (size_t at = next(hole); place_[at] >= 0; at = next(at)) {
      const size_t home = home_of(entries_[size_t(place_[at])].context);
      const size_t mask = place_.size() - 1;
      if (((at - home) & mask) < ((at - hole) & mask)) continue;  // its home is behind the hole
      place_[hole] = place_[at];
      hole = at;
    }
    place_[hole] = -1;
  }

  size_t width_, capacity_;
  int32_t oldest_ = 0;          // the next to be replaced
  std::vector<int32_t> place_;  // entries by hash; -1 is free; a power of 2, at most half full
  std::vector<Entry> entries_;
  std::vector<int32_t> token_;  // [entries, width]
  std::vector<float> chance_;   // [entries, width]
};

// How often successors came true, by the length of their context, its source, their rank and their
// probability: what a probability is worth.
class Calibration {
 public:
  // The share that came true, drawn towards a little less than the probability itself.
  float chance(int32_t length, Source source, int32_t rank, float p) const {
    const Bucket& b = buckets_[bucket(length, source, rank, p)];
    return float((b.hits + kPrior * 0.7 * double(p)) / (b.trials + kPrior));
  }
  void count(int32_t length, Source source, int32_t rank, float p, bool came) {
    Bucket& b = buckets_[bucket(length, source, rank, p)];
    b.trials += 1.0;
    b.hits += came ? 1.0 : 0.0;
    if (b.trials < kMemory) return;
    b.trials /= 2.0;
    b.hits /= 2.0;
  }

 private:
  static constexpr int32_t kRanks = 4, kShares = 10;
  static constexpr double kPrior = 2.0;     // trials that the prior counts for
  static constexpr double kMemory = 512.0;  // trials after which half is forgotten
  struct Bucket {
    double trials = 0.0, hits = 0.0;
  };

  static size_t bucket(int32_t length, Source source, int32_t rank, float p) {
    const int32_t share = std::min(kShares - 1, int32_t(10.0f * p));
    const int32_t row = 2 * (length - 1) + (source == Source::kModel);
    return size_t((row * kRanks + std::min(rank, kRanks - 1)) * kShares + share);
  }

  Bucket buckets_[kMaxOrder * 2 * kRanks * kShares];
};

}  // namespace fewstep::draft
