// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "linear/cuda/panel.h"

// Panels of unquantised weights times activations in float32, one chain of fused multiply-adds for
// each output and block of inputs, as on the CPU: for float32, and for 16-bit weights with
// activations of another type.
//
// Mapping: a warp has a block of inputs, and a thread of it an output with all rows.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

template <int kKind>
struct FmaPanel {
  static constexpr Kind kWeights = (Kind)kKind;
  static constexpr int kRows = 8, kQuad = 4;  // a quad: rows that are there or not together
  static constexpr int kInputs = 4;           // at a time
  static constexpr int kAhead = 4;            // as many times are asked for
  static constexpr int kStepInputs = kWeights == Kind::kBF16 ? 2 : 1;
  static constexpr int kStepBytes = kWeights == Kind::kF16 ? 64 : 128;
  static constexpr int kSteps = kInputs / kStepInputs;
  template <class T>
  using Per = gpu::PerThread<T, kThreads>;

  struct Stage {
    uint32_t w[kSteps];
  };
  struct Ring {
    Stage stages[kAhead];
  };
  struct Chains {
    float x[kRows];
  };
  const Weights& weights;
  const Operand& x;
  const Task& task;

  // Sets the sums of panel `which`.
  FEWSTEP_HOST_DEVICE static void multiply(const Block& block, const Weights& weights,
                                           const Operand& x, const Task& task, int which,
                                           Sums<kRows>& s) {
    FmaPanel{weights, x, task}.run(block, which, s);
  }

  FEWSTEP_HOST_DEVICE void run(const Block& block, int which, Sums<kRows>& s) const {
    const int64_t blocks = ceil_div(weights.I, kBlock);
    const int inputs = weights.I < kBlock ? (int)weights.I : kBlock;  // of a block at most
    FEWSTEP_NO_UNROLL
    for (int64_t n = 0; n < blocks; n += kWarps) {
      Per<Ring> ring;
      Per<Chains> chains;
      block.each_alone([&](int t) {
        chains[t] = Chains{};
        FEWSTEP_UNROLL
        for (int a = 0; a < kAhead; ++a) load(n + t / 32, a * kInputs, t, ring[t].stages[a]);
      });
      FEWSTEP_NO_UNROLL
      for (int i = 0; i < inputs; i += kAhead * kInputs) {
        block.each_alone([&](int t) {
          FEWSTEP_UNROLL
          for (int a = 0; a < kAhead; ++a) {
            const int64_t first = (n + t / 32) * kBlock + i + a * kInputs;
            add(first, ring[t].stages[a], chains[t]);
            load(n + t / 32, i + (a + kAhead) * kInputs, t, ring[t].stages[a]);
          }
        });
      }
      block.each([&](int t) {
        FEWSTEP_UNROLL
        for (int r = 0; r < kRows; ++r) s.parts[t / 32][r][t % 32] = chains[t].x[r];
      });
      const int64_t left = blocks - n;
      add_parts<false>(block, x, task, n, left < kWarps ? (int)left : kWarps, which, s);
    }
  }

  // Inputs from i on of block n, zeros where there are none.
  FEWSTEP_HOST_DEVICE void load(int64_t n, int i, int t, Stage& stage) const {
    const int64_t inputs = padded_inputs(kWeights, weights.I, 0);
    const int64_t first = n * kBlock + i;
    const int64_t left = i < kBlock ? (inputs - first) / kStepInputs : 0;
    const char* from = task.panel + first / kStepInputs * kStepBytes;
    FEWSTEP_UNROLL
    for (int k = 0; k < kSteps; ++k, from += kStepBytes) {
      stage.w[k] = 0;
      if (k >= left) continue;
      if constexpr (kWeights == Kind::kF16) {
        stage.w[k] = *(const gpu::HalfWord*)(from + t % 32 * 2);
      } else {
        stage.w[k] = load4(from + t % 32 * 4);
      }
    }
  }

  // The weight of the stage's input k.
  FEWSTEP_HOST_DEVICE static float weight_of(const Stage& stage, int k) {
    const uint32_t w = stage.w[k / kStepInputs];
    if constexpr (kWeights == Kind::kF16) return gpu::widen_f16(w);
    if constexpr (kWeights == Kind::kF32) return vec::float_of_bits({w}).v;
    return vec::float_of_bits({k % 2 == 0 ? w << 16 : w & 0xffff0000u}).v;
  }

  FEWSTEP_HOST_DEVICE void add(int64_t first, const Stage& stage, Chains& chains) const {
    FEWSTEP_UNROLL
    for (int q = 0; q < kRows; q += kQuad) {
      if (q >= task.rows) continue;
      FEWSTEP_UNROLL
      for (int r = q; r < q + kQuad; ++r) {
        uint32_t inputs[kInputs] = {};
        if (r < task.rows && first < x.room) {
          gpu::load16(x.data + (task.row + r) * x.pitch + 4 * first, inputs);
        }
        FEWSTEP_UNROLL
        for (int k = 0; k < kInputs; ++k) {
          const int i = kWeights == Kind::kBF16 ? k ^ 1 : k;  // the CPU's order
          const float value = vec::float_of_bits({inputs[i]}).v;
          chains.x[r] = fmaf(value, weight_of(stage, i), chains.x[r]);
        }
      }
    }
  }
};

}  // namespace
}  // namespace fewstep::linear::FEWSTEP_ISA
