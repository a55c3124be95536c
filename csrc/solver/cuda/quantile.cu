// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/atomic.h"
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "solver/quantile.h"

// Requires: N contiguous, 1 <= N < 2^32; state and histogram as large as the workspace says;
// nothing overlaps.
//
// Three levels of two kernels: CountKernel adds up histograms, in shared memory first, then
// FindKernel takes the digit of the wanted rank and clears the histogram. Atomics on integers only,
// so the result does not depend on their order.
namespace fewstep::solver::FEWSTEP_ISA {
namespace {

using gpu::kPack;

// Elements that repay a block's clearing and flushing of 2048 counters.
constexpr int64_t kBlockElements = 16384;

// Mapping: block b clears sample b's histogram.
struct StartKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr bool kPrepares = false;
  struct Shared {};

  QuantileProblem p;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, Shared&) const {
    for (int i = thread.index; i < kBins; i += kThreads) p.histogram[thread.block * kBins + i] = 0;
    if (thread.index == 0) p.state[thread.block] = start_selection(p.rank);
  }
};

// Mapping: blocks over samples as gpu::SampleGrid has them, packs of 8 elements per thread.
template <int kLevel>
struct CountKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr bool kPrepares = true;
  struct Shared {
    uint32_t bins[kBins];
    uint32_t above;
  };

  QuantileProblem p;
  gpu::SampleGrid grid;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread thread, Shared* s) const {
    for (int i = thread.index; i < kBins; i += kThreads) s->bins[i] = 0;
    s->above = kNanKey;
  }

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, Shared& s) const {
    const uint32_t prefix = p.state[gpu::sample_of(grid, thread)].prefix;
    const int bytes = gpu::element_bytes(p.x.dtype);
    const bool wide = gpu::is_wide(p.x.data, p.x.stride, p.x.dtype);
    uint32_t above = kNanKey;
    gpu::for_packs(grid, thread, kThreads, [&](int64_t b, int64_t n, int count) {
      gpu::RawPack raw;
      gpu::load_raw(p.x.data + b * p.x.stride + n * bytes, p.x.dtype, wide, count, &raw);
      float x[kPack];
      gpu::widen(raw, p.x.dtype, x);
      for (int i = 0; i < kPack; ++i) {
        if (gpu::offset_of(i) >= count) continue;
        const uint32_t key = key_of(vec::bits({x[i]}).v, p.magnitude);
        if (kLevel == 0 || prefix_of(key, kLevel) == prefix) {
          gpu::atomic_add(&s.bins[digit_of(key, kLevel)], 1);
        } else if (kLevel == kLevels - 1 && prefix_of(key, kLevel) > prefix && key < above) {
          above = key;
        }
      }
    });
    if (kLevel == kLevels - 1) gpu::atomic_min(&s.above, above);
  }

  FEWSTEP_HOST_DEVICE void finish(gpu::Thread thread, Shared& s) const {
    const int64_t b = gpu::sample_of(grid, thread);
    for (int i = thread.index; i < kBins; i += kThreads) {
      if (s.bins[i] > 0) gpu::atomic_add(p.histogram + b * kBins + i, s.bins[i]);
    }
    if (kLevel == kLevels - 1 && thread.index == 0) {
      gpu::atomic_min(&p.state[b].above, s.above);
    }
  }
};

// Mapping: block b; thread t adds up 8 neighbouring digits of sample b, then one thread looks for
// the group, and in it for the digit.
struct FindKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr int kGroup = kBins / kThreads;
  static constexpr bool kPrepares = true;
  struct Shared {
    uint32_t group[kThreads];
  };

  QuantileProblem p;
  int level;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread thread, Shared* s) const {
    const uint32_t* bins = p.histogram + thread.block * kBins + thread.index * kGroup;
    uint32_t sum = 0;
    for (int i = 0; i < kGroup; ++i) sum += bins[i];
    s->group[thread.index] = sum;
  }

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, Shared& s) const {
    if (thread.index != 0) return;
    const uint32_t* bins = p.histogram + thread.block * kBins;
    Selection* selection = p.state + thread.block;
    uint64_t below = 0;
    int group = 0;
    while (group < kThreads - 1 && below + s.group[group] <= selection->rank) {
      below += s.group[group++];
    }
    int digit = group * kGroup;
    while (digit < group * kGroup + kGroup - 1 && below + bins[digit] <= selection->rank) {
      below += bins[digit++];
    }
    if (level == 0) selection->has_nan = bins[kBins - 1] > 0 ? 1 : 0;
    const int following = level == kLevels - 1 ? following_digit(bins, s, digit) : -1;
    take_digit(level, (uint32_t)digit, below, bins[digit], following, selection);
    if (level == kLevels - 1) {
      p.out[thread.block * p.out_stride] = selected_value(*selection, p.fraction, p.magnitude);
    }
  }

  FEWSTEP_HOST_DEVICE int following_digit(const uint32_t* bins, const Shared& s, int digit) const {
    int i = digit + 1;
    for (; i % kGroup != 0; ++i) {
      if (bins[i] > 0) return i;
    }
    while (i < kBins && s.group[i / kGroup] == 0) i += kGroup;
    for (; i < kBins; ++i) {
      if (bins[i] > 0) return i;
    }
    return -1;
  }

  FEWSTEP_HOST_DEVICE void finish(gpu::Thread thread, Shared&) const {
    uint32_t* bins = p.histogram + thread.block * kBins + thread.index * kGroup;
    for (int i = 0; i < kGroup; ++i) bins[i] = 0;
  }
};

constexpr const char* kFunction = "fewstep_solver_quantile";

template <int kLevel>
void launch_level(const QuantileProblem& p, const gpu::SampleGrid& grid) {
  const CountKernel<kLevel> count{p, grid};
  gpu::launch(kFunction, count, grid.blocks, p.cuda_stream);
  const FindKernel find{p, kLevel};
  gpu::launch(kFunction, find, p.B, p.cuda_stream);
}

}  // namespace

void quantile(const QuantileProblem& p) {
  int64_t per_sample = (p.N + kBlockElements - 1) / kBlockElements;
  if (per_sample > gpu::kMaxBlocks / p.B) {
    per_sample = gpu::kMaxBlocks > p.B ? gpu::kMaxBlocks / p.B : 1;
  }
  const gpu::SampleGrid grid{p.N, p.B * per_sample, per_sample};
  const StartKernel start{p};
  gpu::launch(kFunction, start, p.B, p.cuda_stream);
  launch_level<0>(p, grid);
  launch_level<1>(p, grid);
  launch_level<2>(p, grid);
}

}  // namespace fewstep::solver::FEWSTEP_ISA
