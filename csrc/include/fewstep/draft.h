/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_DRAFT_H_
#define FEWSTEP_DRAFT_H_

#include "base.h"
#include "context.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __cplusplus
}
#endif

#endif
