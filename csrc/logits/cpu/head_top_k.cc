// SPDX-License-Identifier: Apache-2.0
#include "logits/head_top_k.h"

#include <math.h>

#include "core/cpu/parallel.h"
#include "linear/cpu/prepare.h"
#include "logits/cpu/candidates.h"

// A thread takes groups of packed rows: their logits, 32 at a time, go into each row's list of best
// tokens and its sum, and are forgotten. The groups' lists and sums are joined at the end, in their
// order.
//
// Requires: checked sizes; bias and norm contiguous; 1 <= K <= kMaxCandidates.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

using linear::kHeldRows;
using linear::kPanel;

constexpr int64_t kGroupPanels = kGroupRows / kPanel;

struct Work {
  const HeadProblem* p;
  linear::Weights head;
  linear::Activations x;
  linear::Tiles tiles;
  int64_t panels, groups, held;
};

inline Found* found_at(const HeadProblem& p, int64_t group, int64_t row) {
  return (Found*)(p.found + (group * p.in.M + row) * found_bytes(p.K));
}
inline Candidate* candidates_of(Found* f) { return (Candidate*)(f + 1); }

// Keeps a list of the K best in their order; false where the candidate comes after all of them.
inline bool insert(Candidate c, int32_t K, int32_t* count, Candidate* best) {
  if (*count == K && !is_before(c, best[K - 1])) return false;
  int32_t i = *count < K ? (*count)++ : K - 1;
  for (; i > 0 && is_before(c, best[i - 1]); --i) best[i] = best[i - 1];
  best[i] = c;
  return true;
}

// Adds exp(y - max) to 32 partial sums, all scaled down where max rises.
inline void add_weights(const float* y, float max, Found* f, float* partial) {
  float factor = 1.0f;
  if (max > f->max) {
    factor = f->max == kMinusInfinity ? 0.0f : vec::exp_of(f->max - max);
    f->max = max;
  }
  const vec::F32 scale = vec::set(factor), top = vec::set(f->max);
  for (int o = 0; o < kPanel; o += vec::kLanes) {
    const vec::F32 w = vec::exp_below_88(vec::sub(vec::load(y + o), top));
    vec::store(partial + o, vec::fma(vec::load(partial + o), scale, w));
  }
}

// Takes a panel's logits of one row; those past the last packed row are -inf. Returns whether one
// is NaN.
inline bool take(const HeadProblem& p, const float* y, int64_t first, Found* f, float* partial) {
  Candidate* best = candidates_of(f);
  vec::F32 top = vec::set(kMinusInfinity);
  vec::I32 magnitude = vec::set_i32(0);
  for (int o = 0; o < kPanel; o += vec::kLanes) {
    const vec::F32 x = vec::load(y + o);
    magnitude = vec::max_magnitude(magnitude, x);
    top = vec::max(top, x);
    const vec::F32 least = vec::set(f->count < p.K ? kMinusInfinity : best[p.K - 1].value);
    uint32_t some = vec::greater_bits(x, least) | vec::equal_bits(x, least);
    for (; some; some &= some - 1) {
      const int at = o + __builtin_ctz(some);
      if (y[at] == kMinusInfinity) continue;
      const int64_t v = first + at;
      const int32_t token = p.tokens ? p.tokens[v * p.tokens_stride] : (int32_t)v;
      insert({y[at], token}, p.K, &f->count, best);
    }
  }
  if (has_nan(magnitude)) return true;
  float max = kMinusInfinity, lanes[vec::kLanes];
  vec::store(lanes, top);
  for (int i = 0; i < vec::kLanes; ++i) {
    if (lanes[i] > max) max = lanes[i];
  }
  if (max == kMinusInfinity) return false;
  if (p.sums) {
    add_weights(y, max, f, partial);
  } else if (max > f->max) {
    f->max = max;
  }
  return false;
}

// Bias, and what lies past the last packed row.
inline void finish(const HeadProblem& p, int64_t first, int64_t rows, float* sums) {
  const int64_t n = p.O - first < kPanel ? p.O - first : kPanel;
  float bias[kPanel] = {};
  if (p.bias.data) {
    linear::widen(p.bias.type, p.bias.data + first * linear::bytes_of(p.bias.type), n, bias);
  }
  if (!p.bias.data && n == kPanel) return;
  for (int64_t r = 0; r < rows; ++r) {
    float* y = sums + r * kPanel;
    for (int64_t o = 0; o < n && p.bias.data; ++o) y[o] += bias[o];
    for (int64_t o = n; o < kPanel; ++o) y[o] = kMinusInfinity;
  }
}

// Item i is group i % groups with the i / groups-th part of the rows.
void find_items(void* context, int64_t begin, int64_t end) {
  const Work& work = *static_cast<const Work*>(context);
  const HeadProblem& p = *work.p;
  alignas(64) float sums[kHeldRows * kPanel];
  alignas(64) float partial[kHeldRows * kPanel];
  bool seen_nan[kHeldRows];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item % work.groups, t = item / work.groups * work.held;
    const int64_t stop = t + work.held < work.tiles.count ? t + work.held : work.tiles.count;
    const int64_t row = work.tiles.begin(t), rows = work.tiles.begin(stop) - row;
    for (int64_t r = 0; r < rows; ++r) {
      *found_at(p, group, row + r) = {0.0, kMinusInfinity, 0};
      seen_nan[r] = false;
    }
    for (int64_t i = 0; i < rows * kPanel; ++i) partial[i] = 0.0f;
    const int64_t first = group * kGroupPanels;
    const int64_t last = first + kGroupPanels < work.panels ? first + kGroupPanels : work.panels;
    for (int64_t panel = first; panel < last; ++panel) {
      linear::panel_sums(work.head, panel, work.x, work.tiles, t, stop, sums);
      finish(p, panel * kPanel, rows, sums);
      for (int64_t r = 0; r < rows; ++r) {
        Found* f = found_at(p, group, row + r);
        const bool is_nan = take(p, sums + r * kPanel, panel * kPanel, f, partial + r * kPanel);
        seen_nan[r] = seen_nan[r] || is_nan;
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      Found* f = found_at(p, group, row + r);
      for (int o = 0; o < kPanel; ++o) f->sum += (double)partial[r * kPanel + o];
      if (seen_nan[r]) f->max = __builtin_nanf("");
    }
  }
}

void join_row(const HeadProblem& p, int64_t groups, int64_t m) {
  float max = kMinusInfinity;
  bool is_nan = false;
  for (int64_t g = 0; g < groups; ++g) {
    const float of_group = found_at(p, g, m)->max;
    is_nan = is_nan || of_group != of_group;
    if (of_group > max) max = of_group;
  }
  const RowStatus status = status_of(max, is_nan);
  Candidate best[kMaxCandidates];
  int32_t count = 0;
  double total = (double)__builtin_nanf("");
  if (status == kRowFine) {
    double sum = 0.0;
    for (int64_t g = 0; g < groups; ++g) {
      Found* f = found_at(p, g, m);
      const Candidate* from = candidates_of(f);
      for (int32_t i = 0; i < f->count && insert(from[i], p.K, &count, best); ++i) continue;
      if (p.sums && f->max > kMinusInfinity) sum += f->sum * exp((double)f->max - (double)max);
    }
    if (p.sums) total = (double)max + log(sum);
  }
  const double shift = p.normalise ? total : 0.0;
  int32_t* ids = p.ids + m * p.ids_stride;
  float* values = p.values + m * p.values_stride;
  for (int32_t i = 0; i < p.K; ++i) {
    const float none = status == kRowFine ? kMinusInfinity : __builtin_nanf("");
    ids[i] = i < count ? best[i].id : -1;
    values[i] = i < count ? (float)((double)best[i].value - shift) : none;
  }
  if (p.log_normaliser) p.log_normaliser[m * p.log_normaliser_stride] = (float)total;
  if (p.status) p.status[m * p.status_stride] = status;
}

void join_rows(void* context, int64_t begin, int64_t end) {
  const Work& work = *static_cast<const Work*>(context);
  for (int64_t m = begin; m < end; ++m) join_row(*work.p, work.groups, m);
}

}  // namespace

void head_top_k(const HeadProblem& p) {
  const linear::ActivationsProblem& in = p.in;
  const linear::Tiles tiles = linear::tiles_of(in.M, in.kind);
  const int64_t panels = linear::ceil_div(p.O, kPanel);
  Work work{&p,
            {in.kind, in.group, in.I, p.packed},
            linear::prepare(in, tiles, p.threads),
            tiles,
            panels,
            linear::ceil_div(panels, kGroupPanels),
            0};
  const int64_t parts = linear::ceil_div(tiles.count, linear::held_tiles(in.kind));
  work.held = linear::ceil_div(tiles.count, parts);
  // As in linear.run: a thread's share takes 10 us or more.
  const int64_t cost =
      kGroupPanels * linear::panel_bytes(in.kind, in.I, in.group) * (4 + in.M / parts) / 5;
  parallel_for(p.threads, work.groups * parts, 1 + (1 << 18) / cost, &find_items, &work);
  parallel_for(p.threads, in.M, 1 + (1 << 14) / (work.groups * p.K), &join_rows, &work);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
