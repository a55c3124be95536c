// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace fewstep {

// What kernels want to know of the processor that they run on. Nothing of it changes a bit of any
// result.

// Sizes of a core's first cache of data and of the last-level cache; 32 KiB and 32 MiB where the
// machine does not tell.
int64_t first_level_cache_bytes();
int64_t last_level_cache_bytes();

// Whether one stream of reads comes faster from memory when its lines are asked for before they are
// read. Intel's prefetchers stop at the end of a page and leave a core half of the requests that it
// may have under way: on an Emerald Rapids one row times bfloat16 weights reads 14.7 GB/s in place
// of 11.3, on two threads 26 of 19. AMD's do better alone: on a Zen 4 30 GB/s, else 23.
bool wants_streams_prefetched();

}  // namespace fewstep
