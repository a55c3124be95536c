// SPDX-License-Identifier: Apache-2.0
#include "noise/brownian.h"

#include <string.h>

#include "core/cpu/normal.h"
#include "core/cpu/samples.h"

// Requires: N contiguous.
//
// A tile of elements stays in registers while the normals of all nodes are added to it, in their
// order: each is a fused multiplication and addition, the same on every ISA.
namespace fewstep::noise::FEWSTEP_ISA {
namespace {

using vec::F32;
using vec::kLanes;
using vec::kNormalTile;

// What for_samples calls; each thread has a copy, which keeps the path that it worked out last.
struct Sums {
  explicit Sums(const BrownianProblem& problem) : p(problem) { path.count = 0; }
  Sums(const Sums& other) : Sums(other.p) {}

  void operator()(int64_t b, int64_t begin, int64_t end) {
    if (b != sample) brownian_path(p, b, &path);
    sample = b;
    const int64_t bytes = p.dtype == DType::kF32 ? 4 : 2;
    char* out = (char*)p.out + b * p.out_stride * bytes;
    for (int64_t n = begin; n < end; n += kNormalTile) {
      F32 sum[4];
      tile(p.seeds[b * p.seed_stride], n, sum);
      if (n + kNormalTile <= end) {
        store(out + n * bytes, sum);
      } else {
        alignas(64) char last[kNormalTile * 4];
        store(last, sum);
        memcpy(out + n * bytes, last, (size_t)((end - n) * bytes));
      }
    }
  }

  void tile(uint64_t seed, int64_t n, F32 sum[4]) const {
    for (int i = 0; i < 4; ++i) sum[i] = vec::set(0.0f);
    for (int32_t k = 0; k < path.count; ++k) {
      F32 z[4];
      vec::normal_tile((uint64_t)n / 4, seed, path.node[k], p.stream, z);
      const F32 a = vec::set(path.a[k]);
      for (int i = 0; i < 4; ++i) sum[i] = vec::fma(a, z[i], sum[i]);
    }
  }

  void store(char* to, const F32 x[4]) const {
    for (int i = 0; i < 4; ++i) {
      if (p.dtype == DType::kF32) {
        vec::store((float*)to + i * kLanes, x[i]);
      } else if (p.dtype == DType::kF16) {
        vec::store_f16((uint16_t*)to + i * kLanes, x[i]);
      } else {
        vec::store_bf16((uint16_t*)to + i * kLanes, x[i]);
      }
    }
  }

  const BrownianProblem& p;
  int64_t sample = -1;
  BrownianPath path;  // of sample `sample`
};

// Elements per thread that repay a region: each is a sum of some 20 to 40 normals.
constexpr int64_t kGrain = kNormalGrain / 16;

}  // namespace

void brownian(const BrownianProblem& p) { for_samples(p.threads, p.B, p.N, kGrain, Sums(p)); }

}  // namespace fewstep::noise::FEWSTEP_ISA
