// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "noise/normal.h"

// Mapping: a thread makes packs of 8 normals from two blocks of Philox; a block of threads works on
// one sample. No shared memory. Requires: N contiguous.
//
// The arithmetic is that of the scalar CPU kernel, word for word, and nothing contracts it
// (-fmad=false), so the bits are the CPU's.
namespace fewstep::noise::FEWSTEP_ISA {
namespace {

struct NormalKernel {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr bool kPrepares = false;
  struct Shared {};

  NormalProblem p;
  gpu::SampleGrid grid;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared&) const {
    gpu::for_packs(grid, thread, kThreads, [this](int64_t b, int64_t n, int count) {
      const uint64_t seed = p.seeds[b * p.seed_stride];
      float x[gpu::kPack];
      gpu::normals(seed, p.step, p.stream, n, x);
      for (int i = 0; i < gpu::kPack; ++i) x[i] *= p.scale;
      const int bytes = gpu::element_bytes(p.dtype);
      char* out = (char*)p.out + (b * p.out_stride + n) * bytes;
      const bool wide = gpu::is_wide(p.out, p.out_stride * bytes, p.dtype);
      gpu::store_raw(out, p.dtype, wide, count, gpu::narrow(p.dtype, x));
    });
  }
};

}  // namespace

void normal(const NormalProblem& p) {
  if (p.B == 0 || p.N == 0) return;
  const NormalKernel kernel{p, gpu::sample_grid(p.B, p.N, NormalKernel::kThreads)};
  gpu::launch("fewstep_noise_normal", kernel, kernel.grid.blocks, p.cuda_stream);
}

}  // namespace fewstep::noise::FEWSTEP_ISA
