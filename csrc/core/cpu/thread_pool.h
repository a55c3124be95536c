// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>

#include "core/cpu/team.h"

namespace fewstep {

// The process' own threads: a team that one caller at a time leads.
class ThreadPool {
 public:
  // It is never destroyed: joining threads at exit can hang a host.
  static ThreadPool& instance();

  // Calls fn(context, team) with the team of up to `threads` threads, or null while another caller
  // leads it.
  void lead(int32_t threads, void (*fn)(void* context, Team* team), void* context);

 private:
  ThreadPool() : team_(Team::kMaxThreads) {}
  static void reset_after_fork();
  void start_workers(int32_t wanted);

  std::mutex caller_;    // held by the thread that leads
  int32_t workers_ = 0;  // guarded by caller_
  Team team_;
};

}  // namespace fewstep
