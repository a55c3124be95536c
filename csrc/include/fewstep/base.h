/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_BASE_H_
#define FEWSTEP_BASE_H_

#include <stddef.h>
#include <stdint.h>

#include "version.h"

#if defined(_WIN32)
#define FEWSTEP_API __declspec(dllexport)
#else
#define FEWSTEP_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fewstep_status {
  FEWSTEP_OK = 0,
  FEWSTEP_INVALID_ARGUMENT = 1, /* a shape, type, value or overlap the contract forbids */
  FEWSTEP_UNSUPPORTED = 2,      /* no kernel for this device, ISA or type in this build */
  FEWSTEP_OUT_OF_MEMORY = 3,
  FEWSTEP_BACKEND_ERROR = 4, /* the device runtime reported an error */
  FEWSTEP_INTERNAL = 5       /* a defect of fewstep */
} fewstep_status;

/* Text of this thread's last error: "<function>: '<argument>' must ..., got <value>".
 * Valid for the thread's life; overwritten by its next failing call. */
FEWSTEP_API const char* fewstep_last_error(void);

/* Version of the library in use, which a host may compare with FEWSTEP_VERSION. */
FEWSTEP_API const char* fewstep_version(void);

#ifdef __cplusplus
}
#endif

#endif
