/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_H_
#define FEWSTEP_H_

#include "attention.h"
#include "base.h"
#include "budget.h"
#include "context.h"
#include "decoder.h"
#include "draft.h"
#include "kv.h"
#include "linear.h"
#include "logits.h"
#include "logits_head.h"
#include "noise.h"
#include "plan.h"
#include "schedule.h"
#include "solver.h"
#include "tensor.h"
#include "tree.h"
#include "verify.h"

#endif
