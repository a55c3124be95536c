// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/team.h"

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

thread_local bool at_work = false;

}  // namespace

bool Team::is_at_work() { return at_work; }

void Team::announce() {
  job_.store(job_.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) job_.notify_all();
}

void Team::run(int32_t threads, int32_t chunks, int64_t count, RangeFn* fn, void* context) {
  fn_.store(fn, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  count_.store(count, std::memory_order_relaxed);
  threads_.store(threads, std::memory_order_relaxed);
  chunks_.store(chunks, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
  for (int32_t i = 0; i < threads; ++i) {
    shares_[i].state.store(uint64_t(job) << 32 | uint32_t(chunks), std::memory_order_release);
  }
  announce();
  at_work = true;
  take_part(job, 0);
  at_work = false;
  for (int spin = 0; done_.load(std::memory_order_acquire) != threads * chunks; ++spin) {
    if (spin < kSpins) {
      pause_core();
    } else {
      std::this_thread::yield();
    }
  }
}

void Team::dismiss() {
  dismissed_.store(true, std::memory_order_relaxed);
  announce();
}

bool Team::claim(uint32_t job, int32_t share, uint32_t* left) {
  std::atomic<uint64_t>& state = shares_[share].state;
  uint64_t now = state.load(std::memory_order_acquire);
  while (uint32_t(now >> 32) == job && uint32_t(now) != 0) {
    if (!state.compare_exchange_weak(now, now - 1, std::memory_order_acq_rel)) continue;
    *left = uint32_t(now);
    return true;
  }
  return false;
}

void Team::take_part(uint32_t job, int32_t index) {
  const int32_t threads = threads_.load(std::memory_order_relaxed);  // the next job's, if late
  if (index >= threads) return;
  int32_t done = 0;
  for (int32_t i = 0; i < threads; ++i) {
    const int32_t share = index + i < threads ? index + i : index + i - threads;
    for (uint32_t left; claim(job, share, &left); ++done) {
      const int64_t count = count_.load(std::memory_order_relaxed);
      const int64_t chunks = chunks_.load(std::memory_order_relaxed);
      const int64_t chunk = share * chunks + chunks - left, all = threads * chunks;
      fn_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed),
                                          count * chunk / all, count * (chunk + 1) / all);
    }
  }
  if (done > 0) done_.fetch_add(done, std::memory_order_release);
}

uint32_t Team::next_job(uint32_t seen) {
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
  return job;
}

void Team::serve(int32_t index) {
  at_work = true;
  uint32_t seen = 0;
  for (;;) {
    seen = next_job(seen);
    if (dismissed_.load(std::memory_order_relaxed)) break;
    take_part(seen, index);
  }
  at_work = false;
}

}  // namespace fewstep
