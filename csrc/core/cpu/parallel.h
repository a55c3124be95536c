// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace fewstep {

// Does items [begin, end).
using RangeFn = void(void* context, int64_t begin, int64_t end);

// Calls fn on disjoint ranges that cover [0, count), on up to `threads` threads, and returns when
// all are done. threads = 0: the process-wide count. There are at least `grain` items for each
// thread, in up to `ranges` ranges; with count < 2 * grain the caller does all of it at once and no
// other thread is touched. fn must not throw. Nested calls, and calls while another thread uses the
// pool, run on the caller alone.
//
// The default leaves work to others where a thread starts late, and each range one long stream for
// the prefetchers. Where some items take longer than others, and each long, kRangeEach is better:
// threads end within an item of each other.
//
// The threads are the host process' OpenMP team (torch's libgomp) where one is loaded, found by
// dlsym and never linked: two pools that spin on the same cores slow each other down 500 times.
// Otherwise, and for jobs of milliseconds, they are a pool of our own. FEWSTEP_THREADS=own|borrow
// forces one of them. A process that forked uses the pool of our own, because an OpenMP team does
// not survive a fork.
//
// In an OpenMP team and with no count set by fewstep_set_num_threads, a context or
// FEWSTEP_NUM_THREADS, the team's own size holds, so torch.set_num_threads counts too.
constexpr int64_t kFewRanges = 4, kRangeEach = INT32_MAX;
void parallel_for(int32_t threads, int64_t count, int64_t grain, RangeFn* fn, void* context,
                  int64_t ranges = kFewRanges);

// Up to how many threads a parallel_for has here and now.
int32_t threads_for(int32_t threads);

// Calls fn(context) on this thread, while others wait for what each parallel_for in it leaves to
// them, up to `threads` in all: a call of many short jobs pays for OpenMP's barrier once. To share
// a job costs 0.2 us then, so a thread's share may be an eighth of its grain, which should be what
// takes 10 us. fn may throw. Where parallel_for would run on the caller alone, or inside fn, this
// is no more than the call. Borrowed threads that come late let the next calls run on our own.
void with_team(int32_t threads, void (*fn)(void* context), void* context);

// Throws FEWSTEP_INVALID_ARGUMENT when FEWSTEP_THREADS or FEWSTEP_NUM_THREADS is not valid, which
// every op asks before its first write.
void check_thread_settings();

// Where the threads of the next parallel_for come from: "own" or "borrow".
const char* thread_source();

}  // namespace fewstep
