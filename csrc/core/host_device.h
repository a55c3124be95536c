// SPDX-License-Identifier: Apache-2.0
#pragma once

// Marks what kernels of both kinds call.
#if defined(__CUDACC__)
#define FEWSTEP_HOST_DEVICE __host__ __device__
#else
#define FEWSTEP_HOST_DEVICE
#endif

// Before a loop over an array that must stay in registers, which an index would put into local
// memory; and before a loop whose unrolling keeps the compiler from unrolling the one around it.
#if defined(__CUDACC__)
#define FEWSTEP_UNROLL _Pragma("unroll")
#define FEWSTEP_NO_UNROLL _Pragma("unroll 1")
#else
#define FEWSTEP_UNROLL
#define FEWSTEP_NO_UNROLL
#endif
