// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/math.h"
#include "core/cuda/sort.h"
#include "linear/cuda/panel_fma.h"
#include "linear/cuda/panel_mma.h"
#include "logits/cpu/weighing.h"
#include "logits/head_top_k.h"

// Mapping: a block of threads has a group of packed rows and up to 16 rows of x. It keeps their
// logits, panel after panel, as keys, sorts them, and writes the K best of each row with its sum.
// A second launch has a block for each row of x, which goes through the groups in their order.
//
// Requires: checked sizes; packed at a multiple of 16 bytes; bias and norm contiguous;
// 1 <= K <= kMaxCandidates.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

using linear::kPanel;
using linear::FEWSTEP_ISA::at;
using linear::FEWSTEP_ISA::Block;
using linear::FEWSTEP_ISA::kThreads;
using linear::FEWSTEP_ISA::Operand;
using linear::FEWSTEP_ISA::Sums;
using linear::FEWSTEP_ISA::Task;
using linear::FEWSTEP_ISA::Weights;

constexpr const char* kFunction = "fewstep_logits_head_top_k";
constexpr int kGroup = (int)kCudaGroupRows;

// Tokens as keys: integers in their order, the larger logit first, then the lower token. 0 is none.
FEWSTEP_HOST_DEVICE inline uint64_t key_of(float value, int32_t token) {
  return (uint64_t)gpu::ordered(value) << 32 | ((uint32_t)token ^ 0x7fffffffu);
}
FEWSTEP_HOST_DEVICE inline float value_of(uint64_t key) {
  return gpu::from_ordered((uint32_t)(key >> 32));
}
FEWSTEP_HOST_DEVICE inline int32_t token_of(uint64_t key) {
  return (int32_t)((uint32_t)key ^ 0x7fffffffu);
}

struct Head {
  HeadProblem p;
  Operand x;
  Weights weights;
  int64_t groups;
};

FEWSTEP_HOST_DEVICE inline Found* found_at(const HeadProblem& p, int64_t group, int64_t row) {
  return (Found*)(p.found + (group * p.in.M + row) * cuda_found_bytes(p.K));
}

template <int kRows>
struct GroupShared {
  Sums<kRows> sums;
  uint64_t keys[kRows][kGroup];
  float partial[kRows][32];
  uint32_t nan[kRows];
};

// Of threads that share a row: each 32nd of its keys, whose sum is one of 32.
template <int kRows>
FEWSTEP_HOST_DEVICE inline void add_weights(int row, int lane, GroupShared<kRows>& s) {
  const uint64_t* keys = s.keys[row];
  const float max = value_of(keys[0]);
  float sum = 0.0f;
  for (int i = lane; i < kGroup && keys[i] != 0; i += 32) {
    sum += vec::exp_below_88({value_of(keys[i]) - max}).v;
  }
  s.partial[row][lane] = sum;
}

template <int kRows>
FEWSTEP_HOST_DEVICE inline void write_row(const HeadProblem& p, int64_t group, int64_t first,
                                          int row, int lane, const GroupShared<kRows>& s) {
  const uint64_t* keys = s.keys[row];
  Found* found = found_at(p, group, first + row);
  uint64_t* to = (uint64_t*)(found + 1);
  const int most = p.K < kGroup ? p.K : kGroup;
  for (int i = lane; i < most; i += 32) to[i] = keys[i];
  if (lane != 0) return;
  Found f{0.0, keys[0] != 0 ? value_of(keys[0]) : kMinusInfinity, most};
  for (int i = 0; i < 32; ++i) f.sum += (double)s.partial[row][i];
  if (s.nan[row] != 0) f.max = __builtin_nanf("");
  *found = f;
}

template <class Panel>
FEWSTEP_HOST_DEVICE inline void find_group(const Head& head, const Block& block,
                                           GroupShared<Panel::kRows>& s) {
  constexpr int kRows = Panel::kRows;
  const HeadProblem& p = head.p;
  const int64_t parts = linear::ceil_div(p.in.M, kRows), group = block.index / parts;
  const int64_t row = block.index % parts * kRows, first = group * kGroup;
  const int rows = p.in.M - row < kRows ? (int)(p.in.M - row) : kRows;
  block.each([&](int t) {
    if (t < kRows) s.nan[t] = 0;
    for (int i = t; i < kRows * kGroup; i += kThreads) s.keys[i / kGroup][i % kGroup] = 0;
  });
  FEWSTEP_NO_UNROLL
  for (int n = 0; n < kGroup && first + n < p.O; n += kPanel) {
    const Task task = {head.weights.data + (first + n) / kPanel * head.weights.bytes, row, rows};
    Panel::multiply(block, head.weights, head.x, task, 0, s.sums);
    block.each_alone([&](int t) {
      linear::FEWSTEP_ISA::for_own<kRows>(task, t, [&](int r, int o) {
        const int64_t v = first + n + o;
        if (v >= p.O) return;
        float y = s.sums.x[0][r][o];
        if (p.bias.data) y += gpu::load_one(at(p.bias, 0, v), p.bias.type);
        if (!(y == y)) gpu::atomic_or(&s.nan[r], 1);
        if (!(y > kMinusInfinity)) return;
        s.keys[r][n + o] = key_of(y, p.tokens ? p.tokens[v * p.tokens_stride] : (int32_t)v);
      });
    });
  }
  block.barrier();
  gpu::sort_descending(block, rows, kGroup, s.keys[0]);
  block.each([&](int t) {
    for (int r = t / 32; r < rows; r += kThreads / 32) add_weights(r, t % 32, s);
  });
  block.each_alone([&](int t) {
    for (int r = t / 32; r < rows; r += kThreads / 32) write_row(p, group, row, r, t % 32, s);
  });
}

template <int kKind, int kTiles>
struct HeadMmaKernel {
  static constexpr int kThreads = 256, kBlocks = 2;
  static constexpr int kAhead = kTiles == 1 && kKind != 3 ? 4 : 2;  // as registers allow
  using Panel = linear::FEWSTEP_ISA::MmaPanel<kKind, kTiles, kAhead>;
  using Shared = GroupShared<Panel::kRows>;
  Head head;
  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    find_group<Panel>(head, block, s);
  }
};

template <int kKind>
struct HeadFmaKernel {
  static constexpr int kThreads = 256, kBlocks = 2;
  using Panel = linear::FEWSTEP_ISA::FmaPanel<kKind>;
  using Shared = GroupShared<Panel::kRows>;
  Head head;
  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    find_group<Panel>(head, block, s);
  }
};

// Joins the groups' lists: the K best so far stand in front of what may be better, and once no more
// fits, all are sorted.
struct HeadJoinKernel {
  static constexpr int kThreads = 256, kBlocks = 2;
  static constexpr int kRoom = 2 * kMaxCandidates;
  struct Shared {
    uint64_t keys[kRoom];
    double sums[kThreads];
    float largest[kThreads];
    uint32_t count;
  };
  Head head;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const float max = largest(block, s);
    const RowStatus status = status_of(max, max != max);
    double total = (double)__builtin_nanf("");
    int count = 0;
    if (status == kRowFine) {
      if (head.p.sums) total = (double)max + log(mass(block, max, s));
      count = find_best(block, s);
    }
    block.each_alone([&](int t) { write(block.index, status, total, count, t, s); });
  }

  // NaN where a group has one.
  FEWSTEP_HOST_DEVICE float largest(const Block& block, Shared& s) const {
    const auto larger = [](float a, float b) { return a != a || a > b ? a : b; };
    Block::Per<float> max;
    block.each_alone([&](int t) {
      max[t] = kMinusInfinity;
      for (int64_t g = t; g < head.groups; g += kThreads) {
        max[t] = larger(max[t], found_at(head.p, g, block.index)->max);
      }
    });
    return block.reduce(max, s.largest, larger);
  }

  // The sum of exp(l - max): every 256th group's, then a tree.
  FEWSTEP_HOST_DEVICE double mass(const Block& block, float max, Shared& s) const {
    Block::Per<double> sum;
    block.each_alone([&](int t) {
      sum[t] = 0.0;
      for (int64_t g = t; g < head.groups; g += kThreads) {
        const Found& f = *found_at(head.p, g, block.index);
        if (f.max > kMinusInfinity) sum[t] += f.sum * exp((double)f.max - (double)max);
      }
    });
    return block.reduce(sum, s.sums, [](double a, double b) { return a + b; });
  }

  // Lists of the groups are taken as one, `most` keys each.
  FEWSTEP_HOST_DEVICE int find_best(const Block& block, Shared& s) const {
    const int K = head.p.K, most = K < kGroup ? K : kGroup;
    const int64_t all = head.groups * most;
    uint64_t least = 0;  // what a key must exceed
    int count = 0;
    block.each([&](int t) {
      if (t == 0) s.count = 0;
    });
    FEWSTEP_NO_UNROLL
    for (int64_t begin = 0; begin < all; begin += kMaxCandidates) {
      block.each([&](int t) {
        for (int64_t i = begin + t; i < begin + kMaxCandidates && i < all; i += kThreads) {
          const Found* found = found_at(head.p, i / most, block.index);
          const uint64_t key = ((const uint64_t*)(found + 1))[i % most];
          if (key > least) s.keys[gpu::atomic_add(&s.count, 1)] = key;
        }
      });
      const int found = (int)block.get(s.count);
      if (found == count) continue;
      gpu::sort_descending(block, s.keys, found);
      count = found < K ? found : K;
      if (count == K) least = block.get(s.keys[K - 1]);
      block.each([&](int t) {
        if (t == 0) s.count = (uint32_t)count;
      });
    }
    return count;
  }

  FEWSTEP_HOST_DEVICE void write(int64_t m, RowStatus status, double total, int count, int t,
                                 const Shared& s) const {
    const HeadProblem& p = head.p;
    const double shift = p.normalise ? total : 0.0;
    const float none = status == kRowFine ? kMinusInfinity : __builtin_nanf("");
    for (int i = t; i < p.K; i += kThreads) {
      const uint64_t key = s.keys[i];
      p.ids[m * p.ids_stride + i] = i < count ? token_of(key) : -1;
      p.values[m * p.values_stride + i] = i < count ? (float)((double)value_of(key) - shift) : none;
    }
    if (t != 0) return;
    if (p.log_normaliser) p.log_normaliser[m * p.log_normaliser_stride] = (float)total;
    if (p.status) p.status[m * p.status_stride] = status;
  }
};

struct Launch {
  const Head& head;

  template <class Kernel>
  void kernel() const {
    const int64_t parts = linear::ceil_div(head.p.in.M, Kernel::Panel::kRows);
    gpu::launch(kFunction, Kernel{head}, head.groups * parts, head.p.cuda_stream);
  }
  template <int kKind>
  void mma() const {
    if (head.p.in.M <= 8) return kernel<HeadMmaKernel<kKind, 1>>();
    kernel<HeadMmaKernel<kKind, kKind == 3 ? 1 : 2>>();  // as registers allow
  }
  template <int kKind>
  void fma() const {
    kernel<HeadFmaKernel<kKind>>();
  }
};

}  // namespace

void head_top_k(const HeadProblem& p) {
  const linear::ActivationsProblem& in = p.in;
  const Head head{p,
                  linear::FEWSTEP_ISA::operand_of(kFunction, in, p.cuda_stream),
                  {in.I, in.group, linear::panel_bytes(in.kind, in.I, in.group), p.packed},
                  linear::ceil_div(p.O, kCudaGroupRows)};
  linear::FEWSTEP_ISA::with_products(in, Launch{head});
  gpu::launch(kFunction, HeadJoinKernel{head}, in.M, p.cuda_stream);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
