// SPDX-License-Identifier: Apache-2.0
#include "solver/quantile.h"

#include "solver/cpu/sums.h"

// Requires: N contiguous and at least 1; state and histogram as large as the workspace says;
// nothing overlaps.
//
// A sample of one slice is done at once by one thread, with its histogram on the stack; larger ones
// level by level, the slices in parallel.
namespace fewstep::solver::FEWSTEP_ISA {
namespace {

// Histograms that take turns, because keys are alike: an increment waits for the one before of the
// same bin.
constexpr int kTurns = 2;

struct Counter {
  uint32_t bins[kTurns][kBins];
  uint32_t above;
};

template <bool kMagnitude>
inline void make_keys(const float* x, int count, uint32_t* keys) {
  typedef uint32_t __attribute__((may_alias)) Word;
  const Word* bits = (const Word*)x;
  for (int i = 0; i < count; ++i) keys[i] = key_of(bits[i], kMagnitude);
}

inline void count_keys(const uint32_t* keys, int count, int level, uint32_t prefix, Counter* c) {
  if (level == 0) {
    for (int i = 0; i < count; ++i) ++c->bins[i % kTurns][keys[i] >> 21];
    return;
  }
  if (level == 1) {
    for (int i = 0; i < count; ++i) {
      if (keys[i] >> 21 == prefix) ++c->bins[i % kTurns][digit_of(keys[i], 1)];
    }
    return;
  }
  uint32_t above = c->above, matches = 0;
  for (int i = 0; i < count; ++i) {
    const uint32_t key = keys[i];
    const uint32_t candidate = key >> 10 > prefix ? key : kNanKey;
    above = candidate < above ? candidate : above;
    matches += key >> 10 == prefix ? 1 : 0;
  }
  c->above = above;
  if (matches == 0) return;
  for (int i = 0; i < count; ++i) {
    if (keys[i] >> 10 == prefix) ++c->bins[i % kTurns][digit_of(keys[i], 2)];
  }
}

// Counts the digits of elements [begin, end) of sample b; the sum is in c->bins[0].
void count_range(const QuantileProblem& p, int64_t b, int64_t begin, int64_t end, int level,
                 uint32_t prefix, Counter* c) {
  memset(c->bins, 0, sizeof(c->bins));
  c->above = kNanKey;
  const int64_t bytes = p.x.dtype == DType::kF32 ? 4 : 2;
  const char* data = p.x.data + b * p.x.stride;
  alignas(64) float scratch[kChunk];
  alignas(64) uint32_t keys[kChunk];
  for (int64_t n = begin; n < end; n += kChunk) {
    const int count = end - n < kChunk ? (int)(end - n) : kChunk;
    const float* x = chunk_of(data + n * bytes, p.x.dtype, count, scratch);
    if (p.magnitude)
      make_keys<true>(x, count, keys);
    else
      make_keys<false>(x, count, keys);
    count_keys(keys, count, level, prefix, c);
  }
  for (int t = 1; t < kTurns; ++t) {
    for (int i = 0; i < kBins; ++i) c->bins[0][i] += c->bins[t][i];
  }
}

// Finds the digit of the wanted rank; count(i) is how many keys have digit i.
template <class Count>
inline void find_digit(int level, const Count& count, Selection* s) {
  const int bins = digit_count(level);
  uint64_t below = 0;
  int digit = 0;
  while (digit < bins - 1 && below + count(digit) <= s->rank) {
    below += count(digit);
    ++digit;
  }
  int following = -1;
  if (level == kLevels - 1) {
    for (int i = digit + 1; i < bins && following < 0; ++i) {
      if (count(i) > 0) following = i;
    }
  }
  if (level == 0) s->has_nan = count(bins - 1) > 0 ? 1 : 0;
  take_digit(level, (uint32_t)digit, below, count(digit), following, s);
}

void select_at_once(const QuantileProblem& p, int64_t b) {
  Selection s = start_selection(p.rank);
  Counter counter;
  for (int level = 0; level < kLevels; ++level) {
    count_range(p, b, 0, p.N, level, s.prefix, &counter);
    s.above = counter.above;
    find_digit(level, [&counter](int i) { return counter.bins[0][i]; }, &s);
  }
  p.out[b * p.out_stride] = selected_value(s, p.fraction, p.magnitude);
}

struct LevelContext {
  const QuantileProblem& p;
  int level;
};

// Items b * slices + slice.
void count_slices(void* context, int64_t begin, int64_t end) {
  const LevelContext& c = *static_cast<const LevelContext*>(context);
  const QuantileProblem& p = c.p;
  Counter counter;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = i / p.slices, slice = i - b * p.slices;
    const int64_t first = p.N * slice / p.slices, last = p.N * (slice + 1) / p.slices;
    count_range(p, b, first, last, c.level, p.state[b].prefix, &counter);
    uint32_t* histogram = p.histogram + i * kBins;
    memcpy(histogram, counter.bins[0], sizeof(counter.bins[0]));
    // The last level has half as many digits, so the least key above fits behind them.
    if (c.level == kLevels - 1) histogram[kBins - 1] = counter.above;
  }
}

void find_digits(void* context, int64_t begin, int64_t end) {
  const LevelContext& c = *static_cast<const LevelContext*>(context);
  const QuantileProblem& p = c.p;
  for (int64_t b = begin; b < end; ++b) {
    const uint32_t* histogram = p.histogram + b * p.slices * kBins;
    uint64_t sums[kBins] = {};
    Selection* s = p.state + b;
    for (int64_t slice = 0; slice < p.slices; ++slice) {
      const uint32_t* bins = histogram + slice * kBins;
      for (int i = 0; i < kBins; ++i) sums[i] += bins[i];
      if (c.level == kLevels - 1 && bins[kBins - 1] < s->above) s->above = bins[kBins - 1];
    }
    find_digit(c.level, [&sums](int i) { return sums[i]; }, s);
    if (c.level == kLevels - 1) {
      p.out[b * p.out_stride] = selected_value(*s, p.fraction, p.magnitude);
    }
  }
}

}  // namespace

void quantile(const QuantileProblem& p) {
  if (p.slices == 1) {
    const auto run = [](void* context, int64_t begin, int64_t end) {
      const QuantileProblem& problem = *static_cast<const QuantileProblem*>(context);
      for (int64_t b = begin; b < end; ++b) select_at_once(problem, b);
    };
    const int64_t grain = 1 + kNormalGrain / (p.N + kBins);
    return parallel_for(p.threads, p.B, grain, run, const_cast<QuantileProblem*>(&p));
  }
  for (int64_t b = 0; b < p.B; ++b) p.state[b] = start_selection(p.rank);
  for (int level = 0; level < kLevels; ++level) {
    LevelContext context{p, level};
    parallel_for(p.threads, p.B * p.slices, 1, count_slices, &context);
    parallel_for(p.threads, p.B, 8, find_digits, &context);
  }
}

}  // namespace fewstep::solver::FEWSTEP_ISA
