// SPDX-License-Identifier: Apache-2.0
// One planted error for each tool that looks for errors: what it does not find here it would not
// find in our kernels either. The kernels' names have "fewstep" in them, as ours, so that the
// tool's filter is tried too.
#include <cuda_runtime.h>

#include <cstring>

namespace fewstep {

__global__ void out_of_bounds(int* p) { p[threadIdx.x + 1] = 1; }

__global__ void race(int* p) {
  __shared__ int s[64];
  s[threadIdx.x] = int(threadIdx.x);
  p[threadIdx.x] = s[63 - threadIdx.x];  // no barrier before this
}

}  // namespace fewstep

int main(int argc, char** argv) {
  int* p = nullptr;
  if (argc != 2 || cudaMalloc(&p, 64 * sizeof(int)) != cudaSuccess) return 2;
  if (std::strcmp(argv[1], "memcheck") == 0) fewstep::out_of_bounds<<<1, 64>>>(p);
  if (std::strcmp(argv[1], "racecheck") == 0) fewstep::race<<<1, 64>>>(p);
  return cudaDeviceSynchronize() == cudaSuccess ? 0 : 3;
}
