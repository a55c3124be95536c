/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_CONTEXT_H_
#define FEWSTEP_CONTEXT_H_

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where an op runs: a device, a stream on it, and a number of CPU threads. Ops accept NULL for
 * "the CPU with the process-wide thread count". A context may be used by one thread at a time. */
typedef struct fewstep_context fewstep_context;

/* device_type and device_id as in DLPack (1 CPU, 2 CUDA). */
FEWSTEP_API fewstep_status fewstep_context_create(int32_t device_type, int32_t device_id,
                                                  fewstep_context** out);
FEWSTEP_API void fewstep_context_destroy(fewstep_context* ctx);

/* stream: a cudaStream_t; ignored on the CPU. */
FEWSTEP_API fewstep_status fewstep_context_set_stream(fewstep_context* ctx, void* stream);

/* threads: 1 or more; 0 returns to the process-wide count. */
FEWSTEP_API fewstep_status fewstep_context_set_num_threads(fewstep_context* ctx, int32_t threads);

/* The process-wide thread count: what was set here, else FEWSTEP_NUM_THREADS, else
 * OMP_NUM_THREADS, else the hardware's. 0 returns to that default. Where nothing was set for
 * fewstep and a job runs on a loaded OpenMP runtime (torch's), that runtime's count holds. */
FEWSTEP_API fewstep_status fewstep_set_num_threads(int32_t threads);
FEWSTEP_API int32_t fewstep_num_threads(void);

/* Name of the CPU kernels in use ("scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16"): the
 * widest this machine runs, or the one FEWSTEP_CPU_ISA forces. FEWSTEP_UNSUPPORTED when it names
 * one this machine or build lacks: never a quiet fallback. */
FEWSTEP_API fewstep_status fewstep_cpu_isa(const char** name);

/* The i-th ISA this build and machine can run, widest last; NULL past the end. */
FEWSTEP_API const char* fewstep_cpu_isa_available(int32_t i);

/* 1 when this build has CUDA kernels; and the number of usable devices (0 without a driver). */
FEWSTEP_API int32_t fewstep_cuda_built(void);
FEWSTEP_API int32_t fewstep_cuda_device_count(void);

#ifdef __cplusplus
}
#endif

#endif
