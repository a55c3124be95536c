// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "noise/brownian.h"

// Mapping: a block works on one sample, each of its threads on packs of 8 elements; the nodes above
// the sample's times are worked out once by a thread of the block and kept in shared memory.
// Requires: N contiguous.
//
// The arithmetic is that of the scalar CPU kernel: the bits are the CPU's.
namespace fewstep::noise::FEWSTEP_ISA {
namespace {

struct BrownianKernel {
  static constexpr int kThreads = 256, kBlocks = 3;
  static constexpr bool kPrepares = true;
  using Shared = BrownianPath;

  BrownianProblem p;
  gpu::SampleGrid grid;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread thread, Shared* path) const {
    if (thread.index == 0) brownian_path(p, gpu::sample_of(grid, thread), path);
  }

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared& path) const {
    gpu::for_packs(grid, thread, kThreads, [this, &path](int64_t b, int64_t n, int count) {
      const uint64_t seed = p.seeds[b * p.seed_stride];
      float sum[gpu::kPack] = {};
      for (int32_t k = 0; k < path.count; ++k) {
        float x[gpu::kPack];
        gpu::normals(seed, path.node[k], p.stream, n, x);
        for (int i = 0; i < gpu::kPack; ++i) sum[i] = fmaf(path.a[k], x[i], sum[i]);
      }
      const int bytes = gpu::element_bytes(p.dtype);
      char* out = (char*)p.out + (b * p.out_stride + n) * bytes;
      const bool wide = gpu::is_wide(p.out, p.out_stride * bytes, p.dtype);
      gpu::store_raw(out, p.dtype, wide, count, gpu::narrow(p.dtype, sum));
    });
  }
};

}  // namespace

void brownian(const BrownianProblem& p) {
  const BrownianKernel kernel{p, gpu::sample_grid(p.B, p.N, BrownianKernel::kThreads)};
  gpu::launch("fewstep_noise_brownian", kernel, kernel.grid.blocks, p.cuda_stream);
}

}  // namespace fewstep::noise::FEWSTEP_ISA
