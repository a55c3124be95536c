// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/thread_pool.h"

#include <pthread.h>

#include <new>
#include <system_error>
#include <thread>

namespace fewstep {

ThreadPool& ThreadPool::instance() {
  static ThreadPool* const kPool = [] {
    auto* pool = new ThreadPool;
    pthread_atfork(nullptr, nullptr, &ThreadPool::reset_after_fork);
    return pool;
  }();
  return *kPool;
}

// The child has only the forking thread: whatever the others held is left as it was.
void ThreadPool::reset_after_fork() { new (&instance()) ThreadPool; }

void ThreadPool::start_workers(int32_t wanted) {
  while (workers_ < wanted) {
    try {
      std::thread([this, index = workers_ + 1] { team_.serve(index); }).detach();
    } catch (const std::system_error&) {
      return;  // the threads there are do the work
    }
    ++workers_;
  }
}

void ThreadPool::lead(int32_t threads, void (*fn)(void*, Team*), void* context) {
  const std::unique_lock<std::mutex> lock(caller_, std::try_to_lock);
  if (!lock.owns_lock()) return fn(context, nullptr);
  start_workers(threads - 1);
  fn(context, &team_);
}

}  // namespace fewstep
