// SPDX-License-Identifier: Apache-2.0
#include "noise/normal.h"

#include "core/cpu/normal.h"
#include "core/cpu/samples.h"

// Requires: dtype f32, f16 or bf16; N contiguous.
namespace fewstep::noise::FEWSTEP_ISA {
namespace {

using vec::F32;
using vec::kLanes;
using vec::kNormalTile;

struct Float {
  using Element = float;
  static void store(float* p, F32 a) { vec::store(p, a); }
};
struct Half {
  using Element = uint16_t;
  static void store(uint16_t* p, F32 a) { vec::store_f16(p, a); }
};
struct Brain {
  using Element = uint16_t;
  static void store(uint16_t* p, F32 a) { vec::store_bf16(p, a); }
};

// Elements [begin, end) of one sample. begin is a multiple of the tile.
template <class T>
void fill(const NormalProblem& p, int64_t b, int64_t begin, int64_t end) {
  using Element = typename T::Element;
  const uint64_t seed = p.seeds[b * p.seed_stride];
  Element* out = static_cast<Element*>(p.out) + b * p.out_stride;
  const F32 scale = vec::set(p.scale);
  Element last[kNormalTile];
  for (int64_t n = begin; n < end; n += kNormalTile) {
    F32 z[4];
    vec::normal_tile((uint64_t)n / 4, seed, p.step, p.stream, z);
    const bool whole = n + kNormalTile <= end;
    Element* tile = whole ? out + n : last;
    for (int i = 0; i < 4; ++i) T::store(tile + i * kLanes, vec::mul(scale, z[i]));
    if (!whole) memcpy(out + n, last, (size_t)(end - n) * sizeof(Element));
  }
}

}  // namespace

void normal(const NormalProblem& p) {
  for_samples(p.threads, p.B, p.N, kNormalGrain, [&p](int64_t b, int64_t begin, int64_t end) {
    if (p.dtype == DType::kF32) return fill<Float>(p, b, begin, end);
    if (p.dtype == DType::kF16) return fill<Half>(p, b, begin, end);
    fill<Brain>(p, b, begin, end);
  });
}

}  // namespace fewstep::noise::FEWSTEP_ISA
