// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

#include "core/cpu/parallel.h"

namespace fewstep {

// A leader, whose jobs they are, and members that spin for a while, then sleep, until there is one:
// 0.2 us for a job of two threads, where OpenMP takes 1.1. Each thread begins with a share of its
// own, the same in all jobs of a size, so that what it reads may be in its caches still, and then
// helps with the others'. The leader waits only for chunks that somebody has begun, never for a
// thread that the scheduler keeps away: on a busy machine a job takes as long as the leader alone
// would, not a scheduler's time slice longer.
class Team {
 public:
  static constexpr int32_t kMaxThreads = 256;

  explicit Team(int32_t size) {
    for (int32_t i = 0; i < size; ++i) new (&shares_[i].state) std::atomic<uint64_t>(0);
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Calls fn on ranges that cover [0, count), `chunks` for each of `threads` shares; of the leader.
  // Requires threads at most the team's size, threads * chunks at most count.
  void run(int32_t threads, int32_t chunks, int64_t count, RangeFn* fn, void* context);

  // Does what falls to thread `index`, 1 or more, in the jobs from now on, until it is dismissed.
  void serve(int32_t index);

  // Ends `serve` in all members, and in those that call it later; of the leader.
  void dismiss();

  // Whether this thread serves a team, or does the items of its own job.
  static bool is_at_work();

 private:
  uint32_t next_job(uint32_t seen);
  void take_part(uint32_t job, int32_t index);
  bool claim(uint32_t job, int32_t share, uint32_t* left);
  void announce();

  // All but job_ are stable from the claim of a chunk until that chunk is done.
  alignas(64) std::atomic<uint32_t> job_{0};  // its number; what idle members wait for
  std::atomic<bool> dismissed_{false};
  std::atomic<int32_t> threads_{0}, chunks_{0};
  std::atomic<int64_t> count_{0};
  std::atomic<RangeFn*> fn_{nullptr};
  std::atomic<void*> context_{nullptr};
  alignas(64) std::atomic<int32_t> done_{0};  // chunks finished
  std::atomic<int32_t> sleepers_{0};
  // The job's number in the high half, chunks left to claim in the low half. A claim is one
  // compare-exchange of both, so that a late member cannot claim from a job it has not seen.
  union alignas(64) Share {
    Share() {}
    std::atomic<uint64_t> state;
  };
  Share shares_[kMaxThreads];
};

}  // namespace fewstep
