// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/atomic.h"
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "core/scaled_bytes.h"
#include "kv/append.h"

// Mapping: a warp has a head of a row of keys or values, a thread quads of its elements. Requires:
// nothing overlaps; neither norms nor queries, which decoders have, on CPUs alone; what the indices
// say is compared with the cache's room. Rows that are neither turned nor converted are copied,
// others have the bits of the CPU's kernels.
namespace fewstep::kv::FEWSTEP_ISA {
namespace {

using gpu::kQuad;

constexpr int kWarp = 32;

// A head of a row, and where it goes.
struct Head {
  const char* from;
  char* to;     // null: the cache has no such slot
  char* scale;  // of a cache of scaled bytes
  const float *cos, *sin;
  bool turned;
  bool wide_from, wide_to;  // whole quads at once
};

template <bool kScaled>
struct AppendKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr bool kPrepares = kScaled;
  static constexpr int kHeads = kThreads / kWarp;
  struct Shared {
    uint32_t largest[kHeads];  // magnitudes compare as their bits do
  };

  AppendProblem p;

  FEWSTEP_HOST_DEVICE void prepare([[maybe_unused]] gpu::Thread thread,
                                   [[maybe_unused]] Shared* s) const {
    if constexpr (kScaled) {
      if (thread.index < kHeads) s->largest[thread.index] = 0;
    }
  }

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, [[maybe_unused]] Shared& s) const {
    Head head{};
    if (!find_head(thread, &head)) return;
    if constexpr (kScaled) {
      uint32_t largest = 0;
      for (int64_t d = thread.index % kWarp * kQuad; d < p.D; d += kWarp * kQuad) {
        float x[kQuad];
        load(head, d, x);
        for (int i = 0; i < kQuad; ++i) {
          const uint32_t u = vec::bits({x[i]}).v & 0x7fffffffu;
          largest = u > largest ? u : largest;
        }
      }
      gpu::atomic_max(&s.largest[thread.index / kWarp], largest);
    } else {
      for (int64_t d = thread.index % kWarp * kQuad; d < p.D; d += kWarp * kQuad) put(head, d);
    }
  }

  FEWSTEP_HOST_DEVICE void finish(gpu::Thread thread, Shared& s) const
    requires kScaled
  {
    Head head{};
    if (!find_head(thread, &head)) return;
    const uint32_t largest = s.largest[thread.index / kWarp];
    const float m = vec::float_of_bits({largest}).v;
    const bool finite = largest < 0x7f800000u, zero = !finite || m <= 0x1p-100f;
    const float inverse = zero ? 0.0f : largest_number(p.out) / m;
    for (int64_t d = thread.index % kWarp * kQuad; d < p.D; d += kWarp * kQuad) {
      float x[kQuad];
      load(head, d, x);
      put_bytes(head, d, x, inverse, zero);
    }
    if (thread.index % kWarp != 0) return;
    const float scale = zero ? 0.0f : m / largest_number(p.out);
    *(gpu::Word*)head.scale = finite ? vec::bits({scale}).v : 0x7fc00000u;  // or NaN
  }

  // The head of a thread's warp; false where there is none, or no slot or position for it.
  FEWSTEP_HOST_DEVICE bool find_head(gpu::Thread thread, Head* head) const {
    const int64_t item = thread.block * kHeads + thread.index / kWarp;
    const int64_t row = item / p.G, g = item - row * p.G;
    const int64_t n = row / 2;
    if (n >= p.N) return false;
    const bool is_key = row % 2 == 0;
    const AppendRows& rows = is_key ? p.k : p.v;
    const int64_t b = request_of(n);
    const int64_t slot = (int64_t)at(p.length, b) + (n - at(p.indptr, b));
    head->turned = p.rope != 0 && is_key;
    if (p.rope != 0) {
      const int64_t position = p.positions.data ? at(p.positions, n) : slot;
      if (position < 0 || position >= p.S) return false;
      head->cos = p.cos + position * p.cos_stride;
      head->sin = p.sin + position * p.sin_stride;
    }
    const int64_t offset = offset_within(p.room, p.pages, rows.cache, b, slot);
    if (offset < 0) return false;
    head->from = rows.rows + n * rows.row + g * rows.head;
    head->to = rows.cache.data + offset + g * rows.cache.head;
    if (kScaled) {
      head->scale = rows.scale.data + offset_within(p.room, p.pages, rows.scale, b, slot) +
                    g * rows.scale.head;
    }
    head->wide_from = ((uintptr_t)head->from & (uintptr_t)(kQuad * p.in_bytes - 1)) == 0;
    head->wide_to = ((uintptr_t)head->to & (uintptr_t)(kQuad * p.out_bytes - 1)) == 0;
    return true;
  }

  // The last request that starts at or before row n.
  FEWSTEP_HOST_DEVICE int64_t request_of(int64_t n) const {
    int64_t low = 0, high = p.B - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (at(p.indptr, middle) <= n) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  // Elements [d, d + 4) of a row; those from D on are zero.
  FEWSTEP_HOST_DEVICE void load_raw(const Head& head, int64_t d, uint32_t w[kQuad]) const {
    const char* from = head.from + d * p.in_bytes;
    if (!head.wide_from || d + kQuad > p.D) {
      gpu::load_quad(from, p.in, p.D - d < kQuad ? (int)(p.D - d) : kQuad, w);
    } else if (p.in == DType::kF32) {
      gpu::load16(from, w);
    } else {
      gpu::load8(from, w);
    }
  }

  // The same as floats, turned.
  FEWSTEP_HOST_DEVICE void load(const Head& head, int64_t d, float x[kQuad]) const {
    uint32_t w[kQuad] = {};
    load_raw(head, d, w);
    FEWSTEP_UNROLL
    for (int i = 0; i < kQuad; ++i) x[i] = gpu::element_of(w, p.in, i);
    if (!head.turned || d >= 2 * p.pairs) return;
    FEWSTEP_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      if (d + i < 2 * p.pairs) x[i] = turn(head, d + i, x[i]);
    }
  }

  // What element d of value x becomes, beside the other one of its pair.
  FEWSTEP_HOST_DEVICE float turn(const Head& head, int64_t d, float x) const {
    const bool neox = p.rope == 1;
    const bool second = neox ? d >= p.pairs : d % 2 == 1;
    const int64_t step = neox ? p.pairs : 1;
    const int64_t j = neox ? (second ? d - p.pairs : d) : d / 2;
    const int64_t partner = second ? d - step : d + step;
    const float other = gpu::load_one(head.from + partner * p.in_bytes, p.in);
    if (second) return fmaf(x, head.cos[j], other * head.sin[j]);
    return fmaf(x, head.cos[j], -(other * head.sin[j]));
  }

  FEWSTEP_HOST_DEVICE void put(const Head& head, int64_t d) const {
    uint32_t w[kQuad] = {};
    if (p.in == p.out && !head.turned) {
      load_raw(head, d, w);
    } else {
      float x[kQuad];
      load(head, d, x);
      narrow(x, w);
    }
    char* to = head.to + d * p.out_bytes;
    if (!head.wide_to || d + kQuad > p.D) {
      gpu::store_quad(to, p.out, p.D - d < kQuad ? (int)(p.D - d) : kQuad, w);
    } else if (p.out == DType::kF32) {
      gpu::store16(to, w);
    } else {
      gpu::store8(to, w);
    }
  }

  FEWSTEP_HOST_DEVICE void narrow(const float x[kQuad], uint32_t w[kQuad]) const {
    if (p.out == DType::kF32) {
      FEWSTEP_UNROLL
      for (int i = 0; i < kQuad; ++i) w[i] = vec::bits({x[i]}).v;
      return;
    }
    w[0] = gpu::narrow_pair(p.out, x[0], x[1]);
    w[1] = gpu::narrow_pair(p.out, x[2], x[3]);
  }

  FEWSTEP_HOST_DEVICE void put_bytes(const Head& head, int64_t d, const float x[kQuad],
                                     float inverse, bool zero) const {
    uint32_t word = 0;
    FEWSTEP_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      const uint32_t byte = zero ? 0 : byte_of(p.out, x[i], inverse);
      word |= byte << (8 * i);
    }
    char* to = head.to + d;
    if (head.wide_to && d + kQuad <= p.D) {
      *(gpu::Word*)to = word;
      return;
    }
    for (int i = 0; i < kQuad && d + i < p.D; ++i) to[i] = (char)(word >> (8 * i));
  }
};

constexpr const char* kFunction = "fewstep_kv_append";

template <bool kScaled>
void launch_append(const AppendProblem& p) {
  using Kernel = AppendKernel<kScaled>;
  const int64_t heads = 2 * p.N * p.G;
  gpu::launch(kFunction, Kernel{p}, (heads + Kernel::kHeads - 1) / Kernel::kHeads, p.cuda_stream);
}

}  // namespace

void append(const AppendProblem& p) {
  if (contains(kScaledBytes, p.out)) {
    launch_append<true>(p);
  } else {
    launch_append<false>(p);
  }
}

}  // namespace fewstep::kv::FEWSTEP_ISA
