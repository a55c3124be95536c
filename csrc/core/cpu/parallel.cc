// SPDX-License-Identifier: Apache-2.0
#include "fewstep/context.h"

extern "C" fewstep_status fewstep_set_num_threads(int32_t) { return FEWSTEP_OK; }
extern "C" int32_t fewstep_num_threads(void) { return 1; }
