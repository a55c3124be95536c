// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "linear/unpack.h"

// Mapping: a block of threads has 1024 inputs of an output, neighbouring threads neighbouring ones.
//
// Requires: packed holds packed_bytes, and the outputs that index names, which the host has looked
// at; rows of out contiguous; of an unquantised kind, out has its type.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

struct UnpackKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr int kInputs = 4 * kThreads;
  using Block = gpu::Block<kThreads>;
  struct Shared {};

  UnpackProblem p;
  int64_t parts;  // of a row

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared&) const {
    const int64_t n = block.index / parts, begin = block.index % parts * kInputs;
    const int64_t o = p.index ? p.index[n * p.index_stride] : n;
    const char* panel = p.packed + o / kPanel * panel_bytes(p.kind, p.I, p.group);
    const int bytes = gpu::element_bytes(p.type);
    block.each_alone([&](int t) {
      for (int64_t i = begin + t; i < begin + kInputs && i < p.I; i += kThreads) {
        put(panel, (int)(o % kPanel), i, p.out + n * p.stride_bytes + i * bytes);
      }
    });
  }

  FEWSTEP_HOST_DEVICE void put(const char* panel, int lane, int64_t i, char* to) const {
    if (p.kind == Kind::kInt8 || p.kind == Kind::kInt4) {
      const float x = p.kind == Kind::kInt8 ? int8_at(panel, lane, i) : int4_at(panel, lane, i);
      return gpu::store_one(to, p.type, x);
    }
    const int pair = step_inputs(p.kind);
    const int64_t at = (i / pair * kPanel + lane) * pair + i % pair;
    if (p.kind == Kind::kF32) {
      *(gpu::Word*)to = ((const gpu::Word*)panel)[at];
    } else {
      *(gpu::HalfWord*)to = ((const gpu::HalfWord*)panel)[at];
    }
  }

  FEWSTEP_HOST_DEVICE static float int8_at(const char* panel, int lane, int64_t i) {
    const float scale = gpu::load_one(panel + 4 * lane, DType::kF32);
    const int8_t* from = (const int8_t*)panel + head_bytes(Kind::kInt8);
    return scale * (float)from[(i / 2 * kPanel + lane) * 2 + i % 2];
  }

  FEWSTEP_HOST_DEVICE float int4_at(const char* panel, int lane, int64_t i) const {
    const char* record = panel + i / p.group * group_bytes(p.group);
    const float scale = gpu::load_one(record + 2 * lane, DType::kBF16);
    const int k = (int)(i % p.group);
    const uint8_t both = (uint8_t)record[2 * kPanel + k / 4 * 64 + lane % 16 * 4 + k % 4];
    return scale * (float)((lane < 16 ? both & 15 : both >> 4) - 8);
  }
};

}  // namespace

void unpack(const UnpackProblem& p) {
  if (p.O == 0) return;
  const int64_t parts = ceil_div(p.I, UnpackKernel::kInputs);
  gpu::launch("fewstep_linear_unpack", UnpackKernel{p, parts}, p.O * parts, p.cuda_stream);
}

}  // namespace fewstep::linear::FEWSTEP_ISA
