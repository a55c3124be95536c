// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/thread_pool.h"

#include <pthread.h>

#include <new>
#include <system_error>
#include <thread>

namespace fewstep {
namespace {

inline void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// About 20 us awake after a job: long enough for ops that follow each other, short against the
// model call that usually comes next.
constexpr int kSpins = 1000;

thread_local bool inside = false;  // this thread runs chunks of a job

}  // namespace

ThreadPool& ThreadPool::instance() {
  static ThreadPool* const kPool = [] {
    auto* pool = new ThreadPool;
    pthread_atfork(nullptr, nullptr, &ThreadPool::reset_after_fork);
    return pool;
  }();
  return *kPool;
}

// The child has only the forking thread: whatever the others held is left as it was.
void ThreadPool::reset_after_fork() {
  new (&instance()) ThreadPool;
  inside = false;
}

void ThreadPool::start_workers(int32_t wanted) {
  while (workers_ < wanted) {
    try {
      std::thread([this] { work(); }).detach();
    } catch (const std::system_error&) {
      return;  // the threads there are do the work
    }
    ++workers_;
  }
}

void ThreadPool::run(int32_t threads, uint32_t chunks, ChunkFn* fn, void* context) {
  std::unique_lock<std::mutex> lock(caller_, std::defer_lock);
  if (threads <= 1 || inside || !lock.try_lock()) {
    for (uint32_t i = 0; i < chunks; ++i) fn(context, i);
    return;
  }
  inside = true;
  start_workers(threads - 1);
  fn_.store(fn, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  chunks_.store(chunks, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
  state_.store(uint64_t(job) << 32 | chunks, std::memory_order_release);
  job_.store(job, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) job_.notify_all();
  drain(job);
  for (int spin = 0; done_.load(std::memory_order_acquire) != chunks; ++spin) {
    if (spin < kSpins) {
      pause_core();
    } else {
      std::this_thread::yield();
    }
  }
  inside = false;
}

void ThreadPool::drain(uint32_t job) {
  uint64_t state = state_.load(std::memory_order_acquire);
  while (uint32_t(state >> 32) == job && uint32_t(state) != 0) {
    if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel)) continue;
    const uint32_t chunk = chunks_.load(std::memory_order_relaxed) - uint32_t(state);
    fn_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), chunk);
    done_.fetch_add(1, std::memory_order_release);
    state = state_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work() {
  inside = true;
  uint32_t seen = 0;
  for (;;) {
    uint32_t job;
    for (int spin = 0; (job = job_.load(std::memory_order_acquire)) == seen; ++spin) {
      if (spin < kSpins) {
        pause_core();
        continue;
      }
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      job_.wait(seen, std::memory_order_seq_cst);
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    seen = job;
    drain(job);
  }
}

}  // namespace fewstep
