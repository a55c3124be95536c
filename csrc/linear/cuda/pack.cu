// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/atomic.h"
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "linear/pack.h"

// Mapping: of unquantised kinds, a block of threads has 64 inputs of a panel, a thread every 256th
// element; of int8 it has a panel, eight threads to an output's scale; of int4 a panel's group.
//
// Requires: sizes as packed_bytes says; rows contiguous.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

constexpr const char* kFunction = "fewstep_linear_pack";
constexpr int kInputs = 64;  // of an unquantised panel, a block's

// An input of an output, 0 where there is none.
FEWSTEP_HOST_DEVICE inline const char* place_of(const PackProblem& p, int64_t o, int64_t i) {
  if (o >= p.O || i >= p.I) return nullptr;
  return p.weight + o * p.stride_bytes + i * gpu::element_bytes(p.type);
}
FEWSTEP_HOST_DEVICE inline float weight_at(const PackProblem& p, int64_t o, int64_t i) {
  const char* from = place_of(p, o, i);
  return from ? gpu::load_one(from, p.type) : 0.0f;
}

FEWSTEP_HOST_DEVICE inline float clamp_round(float x, float low, float high) {
  const float r = nearbyintf(x);
  return r >= low ? (r <= high ? r : high) : low;  // NaN: low
}

struct PackKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  using Block = gpu::Block<kThreads>;
  struct Shared {};

  PackProblem p;
  DType stored;
  int64_t inputs, parts;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared&) const {
    const int64_t first = block.index / parts * kPanel, begin = block.index % parts * kInputs;
    const int pair = step_inputs(p.kind), bytes = gpu::element_bytes(stored);
    char* panel = p.out + block.index / parts * panel_bytes(p.kind, p.I, p.group);
    block.each_alone([&](int t) {
      for (int e = t; e < kInputs * kPanel; e += kThreads) {
        const int64_t i = begin + e / (kPanel * pair) * pair + e % pair;
        if (i >= inputs) continue;
        put(first + e / pair % kPanel, i, panel + (begin * kPanel + e) * bytes);
      }
    });
  }

  FEWSTEP_HOST_DEVICE void put(int64_t o, int64_t i, char* to) const {
    const char* from = place_of(p, o, i);
    if (!from || p.type != stored) {
      gpu::store_one(to, stored, from ? gpu::load_one(from, p.type) : 0.0f);
    } else if (stored == DType::kF32) {  // every bit, NaN's too
      *(gpu::Word*)to = *(const gpu::Word*)from;
    } else {
      *(gpu::HalfWord*)to = *(const gpu::HalfWord*)from;
    }
  }
};

struct PackBytesKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    uint32_t largest[kPanel];  // magnitudes, whose bits are in their order, NaN's the largest
  };

  PackProblem p;
  int64_t inputs;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    constexpr int kShare = kThreads / kPanel;
    const int64_t first = block.index * kPanel;
    char* panel = p.out + block.index * panel_bytes(p.kind, p.I, p.group);
    block.each([&](int t) {
      if (t < kPanel) s.largest[t] = 0;
    });
    block.each([&](int t) {
      uint32_t largest = 0;
      for (int64_t i = t % kShare; i < p.I; i += kShare) {
        const uint32_t w = vec::bits({weight_at(p, first + t / kShare, i)}).v & 0x7fffffffu;
        largest = w > largest ? w : largest;
      }
      gpu::atomic_max(&s.largest[t / kShare], largest);
    });
    block.each_alone([&](int t) {
      if (t < kPanel) *(gpu::Word*)(panel + 4 * t) = vec::bits({scale_of(s, t)}).v;
      for (int64_t e = t; e < inputs * kPanel; e += kThreads) {
        const int o = (int)(e / 2 % kPanel);
        const float scale = scale_of(s, o), w = weight_at(p, first + o, e / 64 * 2 + e % 2);
        const float q = scale > 0.0f ? clamp_round(w / scale, -127.0f, 127.0f) : 0.0f;
        panel[head_bytes(Kind::kInt8) + e] = (char)(int8_t)q;
      }
    });
  }

  FEWSTEP_HOST_DEVICE static float scale_of(const Shared& s, int o) {
    return vec::float_of_bits({s.largest[o]}).v / 127.0f;
  }
};

struct PackHalfBytesKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    float scales[kPanel];
  };

  PackProblem p;
  int64_t groups;  // of a panel

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t first = block.index / groups * kPanel, begin = block.index % groups * p.group;
    char* record = p.out + block.index * group_bytes(p.group);
    block.each([&](int t) {
      if (t >= kPanel) return;
      const uint32_t stored = gpu::narrow_pair(DType::kBF16, largest(first + t, begin) / -8.0f, 0);
      s.scales[t] = vec::float_of_bits({stored << 16}).v;
      *(gpu::HalfWord*)(record + 2 * t) = (uint16_t)stored;
    });
    block.each_alone([&](int t) {
      for (int e = t; e < p.group * kPanel / 2; e += kThreads) {
        const int o = e / 4 % 16, i = e / 64 * 4 + e % 4;
        const uint32_t low = code(first + o, begin + i, s.scales[o]);
        const uint32_t high = code(first + o + 16, begin + i, s.scales[o + 16]);
        record[2 * kPanel + e] = (char)(low | high << 4);
      }
    });
  }

  // The weight of largest magnitude, with its sign; the first of these.
  FEWSTEP_HOST_DEVICE float largest(int64_t o, int64_t begin) const {
    float largest = 0.0f;
    for (int k = 0; k < p.group && largest == largest; ++k) {
      const float w = weight_at(p, o, begin + k);
      if (!(fabsf(w) <= fabsf(largest))) largest = w;
    }
    return largest;
  }

  FEWSTEP_HOST_DEVICE uint32_t code(int64_t o, int64_t i, float scale) const {
    const float w = weight_at(p, o, i);
    const float q = scale != 0.0f ? clamp_round(w / scale, -8.0f, 7.0f) : 0.0f;
    return (uint32_t)((int)q + 8);
  }
};

}  // namespace

void pack(const PackProblem& p) {
  const int64_t inputs = padded_inputs(p.kind, p.I, p.group), panels = ceil_div(p.O, kPanel);
  if (p.kind == Kind::kInt8) {
    return gpu::launch(kFunction, PackBytesKernel{p, inputs}, panels, p.cuda_stream);
  }
  if (p.kind == Kind::kInt4) {
    const int64_t groups = inputs / p.group;
    return gpu::launch(kFunction, PackHalfBytesKernel{p, groups}, panels * groups, p.cuda_stream);
  }
  const int64_t parts = ceil_div(inputs, kInputs);
  gpu::launch(kFunction, PackKernel{p, dtype_of(p.kind), inputs, parts}, panels * parts,
              p.cuda_stream);
}

}  // namespace fewstep::linear::FEWSTEP_ISA
