// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace fewstep {

// Threads that claim chunks of one job at a time. The caller claims chunks as well and waits only
// for chunks that somebody else has begun, never for a thread that the scheduler keeps away: on a
// busy machine a job takes as long as the caller alone would, not a scheduler's time slice longer.
class ThreadPool {
 public:
  using ChunkFn = void(void* context, uint32_t chunk);

  // The pool of the process. It is never destroyed: joining threads at exit can hang a host.
  static ThreadPool& instance();

  // Calls fn(context, 0 .. chunks - 1), each once, on up to `threads` threads including the caller.
  void run(int32_t threads, uint32_t chunks, ChunkFn* fn, void* context);

 private:
  ThreadPool() = default;
  static void reset_after_fork();

  void start_workers(int32_t wanted);
  void work();
  // Does chunks of the given job until none is left to claim.
  void drain(uint32_t job);

  std::mutex caller_;    // held by the thread whose job runs
  int32_t workers_ = 0;  // guarded by caller_

  // The job's number in the high half, chunks left to claim in the low half. A claim is one
  // compare-exchange of both, so that a late worker cannot claim from a job it has not seen.
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<uint32_t> done_{0};  // chunks finished
  alignas(64) std::atomic<uint32_t> job_{0};   // what idle workers wait on
  std::atomic<int32_t> sleepers_{0};
  // Of the current job; stable from the claim of a chunk until that chunk is done.
  std::atomic<uint32_t> chunks_{0};
  std::atomic<ChunkFn*> fn_{nullptr};
  std::atomic<void*> context_{nullptr};
};

}  // namespace fewstep
