/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_ATTENTION_H_
#define FEWSTEP_ATTENTION_H_

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
