// SPDX-License-Identifier: Apache-2.0
#pragma once

// Marks what kernels of both kinds call.
#if defined(__CUDACC__)
#define FEWSTEP_HOST_DEVICE __host__ __device__
#else
#define FEWSTEP_HOST_DEVICE
#endif

// Before a loop over an array that must stay in registers.
#if defined(__CUDACC__)
#define FEWSTEP_UNROLL _Pragma("unroll")
#else
#define FEWSTEP_UNROLL
#endif
