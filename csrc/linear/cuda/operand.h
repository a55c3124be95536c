// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/atomic.h"
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "linear/activations.h"

// Activations as the products on a GPU read them: x itself where it is so already, else what a
// launch before theirs puts in the workspace, once for all panels. Included by CUDA kernel files
// only.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

// kHalf: elements of the weights' own 16-bit type. kBytes: 16-bit integers, cut in two bytes (see
// kMaxActivation); of each 8 inputs the 8 high bytes, then the 8 low ones.
enum class Form { kFloat, kHalf, kBytes };

inline Form form_of(Kind kind, DType x) {
  if (kind == Kind::kInt8 || kind == Kind::kInt4) return Form::kBytes;
  const bool is_half = (kind == Kind::kBF16 && x == DType::kBF16) ||  // nothing is rounded
                       (kind == Kind::kF16 && x == DType::kF16);
  return is_half ? Form::kHalf : Form::kFloat;
}

// Rows at multiples of 16 bytes; `room` inputs can be read of each, zeros from I on.
struct Operand {
  int64_t I, room;
  const char* data;
  int64_t pitch;        // bytes between rows
  const float* scales;  // [M, blocks], of quantised kinds
};

// Mapping: a block of threads has a row's block of inputs, a thread four of them. With a norm, it
// goes through the whole row first.
struct PrepareKernel {
  static constexpr int kThreads = 128, kBlocks = 8;
  static constexpr int kOwn = kBlock / kThreads;
  static constexpr int kLanes = 16;             // strands of a sum of squares
  static constexpr int kStage = 16 * kThreads;  // inputs that are read at a time for it
  using Block = gpu::Block<kThreads>;
  struct Shared {
    float stage[kStage], lanes[kLanes];
    uint32_t largest;
  };
  struct Inputs {
    float x[kOwn];
  };

  ActivationsProblem p;
  Form form;
  int64_t room, blocks, pitch;
  char* to;
  float* scales;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t row = block.index / blocks, first = block.index % blocks * kBlock;
    const float factor = p.norm.data ? inverse_rms(block, row, s) : 1.0f;
    Block::Per<Inputs> inputs;
    block.each([&](int t) {
      if (t == 0) s.largest = 0;
      FEWSTEP_UNROLL
      for (int k = 0; k < kOwn; ++k) inputs[t].x[k] = input(row, first + t * kOwn + k, factor);
    });
    const float most = form == Form::kBytes ? largest(block, inputs, s) : 0.0f;
    block.each_alone([&](int t) {
      const int64_t i = first + t * kOwn;
      if (form == Form::kBytes && t == 0) scales[block.index] = scale_of(most);
      if (i < room) store(inputs[t].x, most, i, to + row * pitch);
    });
  }

  FEWSTEP_HOST_DEVICE float element(int64_t row, int64_t i) const {
    const char* from = p.x.data + row * p.x.stride_bytes;
    return gpu::load_one(from + i * gpu::element_bytes(p.x.type), p.x.type);
  }
  FEWSTEP_HOST_DEVICE float input(int64_t row, int64_t i, float factor) const {
    if (i >= p.I) return 0.0f;
    const float x = element(row, i);
    if (!p.norm.data) return x;
    const char* weight = p.norm.data + i * gpu::element_bytes(p.norm.type);
    return x * factor * gpu::load_one(weight, p.norm.type);
  }

  // 1 / sqrt(mean(x^2) + eps), in the CPU's order: element i is summed in lane i % 16, the lanes as
  // a tree.
  FEWSTEP_HOST_DEVICE float inverse_rms(const Block& block, int64_t row, Shared& s) const {
    for (int64_t begin = 0; begin < p.I; begin += kStage) {
      block.each([&](int t) {
        FEWSTEP_UNROLL
        for (int e = t; e < kStage; e += kThreads) {
          s.stage[e] = begin + e < p.I ? element(row, begin + e) : 0.0f;
        }
      });
      block.each([&](int t) {
        if (t >= kLanes) return;
        const int end = p.I - begin < kStage ? (int)(p.I - begin) : kStage;
        float sum = begin == 0 ? 0.0f : s.lanes[t];
        for (int e = t; e < end; e += kLanes) sum = fmaf(s.stage[e], s.stage[e], sum);
        s.lanes[t] = sum;
      });
    }
    for (int half = kLanes / 2; half > 0; half /= 2) {
      block.each([&](int t) {
        if (t < half) s.lanes[t] += s.lanes[t + half];
      });
    }
    return 1.0f / sqrtf(block.get(s.lanes[0]) / (float)p.I + p.norm_eps);
  }

  // The largest magnitude of the block; NaN where an input is not finite.
  FEWSTEP_HOST_DEVICE float largest(const Block& block, const Block::Per<Inputs>& inputs,
                                    Shared& s) const {
    block.each([&](int t) {
      uint32_t most = 0;
      FEWSTEP_UNROLL
      for (int k = 0; k < kOwn; ++k) {
        const uint32_t magnitude = vec::bits({inputs[t].x[k]}).v & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
      }
      gpu::atomic_max(&s.largest, most);
    });
    const uint32_t most = block.get(s.largest);
    return most < 0x7f800000u ? vec::float_of_bits({most}).v : __builtin_nanf("");
  }

  FEWSTEP_HOST_DEVICE static float scale_of(float most) {
    if (most > 1e-30f) return most / (float)kMaxActivation;
    return most == most ? 0.0f : most;
  }

  FEWSTEP_HOST_DEVICE void store(const float (&x)[kOwn], float most, int64_t i, char* row) const {
    if (form == Form::kFloat) {
      uint32_t words[kOwn];
      FEWSTEP_UNROLL
      for (int k = 0; k < kOwn; ++k) words[k] = vec::bits({x[k]}).v;
      return gpu::store16(row + 4 * i, words);
    }
    if (form == Form::kHalf) {
      const DType type = p.kind == Kind::kBF16 ? DType::kBF16 : DType::kF16;
      const uint32_t words[2] = {gpu::narrow_pair(type, x[0], x[1]),
                                 gpu::narrow_pair(type, x[2], x[3])};
      return gpu::store8(row + 2 * i, words);
    }
    const float factor = most > 1e-30f ? (float)kMaxActivation / most : 0.0f, magic = 0x1.8p23f;
    uint32_t high = 0, low = 0;
    FEWSTEP_UNROLL
    for (int k = 0; k < kOwn; ++k) {
      // The sum's rounding is that to an integer.
      const uint32_t shifted = vec::bits({fmaf(x[k], factor, magic)}).v;
      const int32_t q = factor > 0.0f ? (int32_t)(shifted - vec::bits({magic}).v) : 0;
      const int32_t l = (int8_t)(q & 0xff), h = (q - l) / 256;
      low |= (uint32_t)(l & 0xff) << (8 * k);
      high |= (uint32_t)(h & 0xff) << (8 * k);
    }
    gpu::Word* words = (gpu::Word*)(row + i / 8 * 16 + i % 8);
    words[0] = high;
    words[2] = low;
  }
};

// Launches what prepares x, where it is not as the products read it.
inline Operand operand_of(const char* function, const ActivationsProblem& p, void* stream) {
  const Form form = form_of(p.kind, p.x.type);
  const int64_t room = ceil_div(padded_inputs(p.kind, p.I, p.group), 8) * 8;
  const int64_t stride = p.M > 1 ? p.x.stride_bytes : 0;
  const bool is_type = form == Form::kHalf || (form == Form::kFloat && p.x.type == DType::kF32);
  if (is_type && !p.norm.data && room == p.I && ((uint64_t)p.x.data | (uint64_t)stride) % 16 == 0) {
    return {p.I, room, p.x.data, stride, nullptr};
  }
  const PreparedSize size = prepared_size(p.kind, p.I, p.group);
  char* memory = p.workspace + (64 - (uintptr_t)p.workspace % 64) % 64;
  float* scales = (float*)memory + ceil_div(p.M * size.words, 16) * 16;
  const int64_t blocks = ceil_div(p.I, kBlock), pitch = room * (form == Form::kFloat ? 4 : 2);
  gpu::launch(function, PrepareKernel{p, form, room, blocks, pitch, memory, scales}, p.M * blocks,
              stream);
  return {p.I, room, memory, pitch, scales};
}

}  // namespace
}  // namespace fewstep::linear::FEWSTEP_ISA
