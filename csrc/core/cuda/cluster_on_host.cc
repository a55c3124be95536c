// SPDX-License-Identifier: Apache-2.0
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/cuda/cluster.h"
#include "core/status.h"

namespace fewstep::gpu {
namespace {

// A block has a thread, of which one runs at a time.
class Turns {
 public:
  Turns(int64_t index, int32_t size, char* const* shared)
      : shared_(shared), size_(size), step_(index % 2 == 0 ? 1 : size - 1), turn_(first()) {}

  void run(int32_t rank, const std::function<void(int32_t)>& body) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (!wait(lock, rank)) return;
    }
    std::exception_ptr error;
    try {
      body(rank);
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error) fail(std::move(error));
    if (meetings_ < 0) meetings_ = met_[rank];
    if (met_[rank] != meetings_) fail(apart());
    pass();
  }

  void meet(int32_t rank) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (met_[rank] == meetings_) fail(apart());
    ++met_[rank];
    pass();
    if (!wait(lock, rank)) throw Broken();
  }

  const void* of(int32_t own_rank, const void* own, int32_t rank) const {
    return shared_[rank] + (static_cast<const char*>(own) - shared_[own_rank]);
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Broken {};  // another block has failed

  static std::exception_ptr apart() {
    return std::make_exception_ptr(
        Error(FEWSTEP_INTERNAL, "blocks of a CUDA kernel's cluster do not all meet"));
  }

  int32_t first() const { return step_ == 1 ? 0 : size_ - 1; }

  bool wait(std::unique_lock<std::mutex>& lock, int32_t rank) {
    changed_.wait(lock, [&] { return turn_ == rank || error_; });
    return !error_;
  }

  void pass() {
    turn_ = (turn_ + step_) % size_;
    changed_.notify_all();
  }

  void fail(std::exception_ptr error) {
    if (!error_) error_ = std::move(error);
    changed_.notify_all();
  }

  char* const* shared_;
  const int32_t size_, step_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t turn_;
  int64_t met_[kMostOfCluster] = {};
  int64_t meetings_ = -1;  // of the blocks that have ended
  std::exception_ptr error_;
};

struct Here {
  Turns* turns;
  int32_t rank;
};
thread_local Here here{};

}  // namespace

void run_cluster(int64_t index, int32_t size, char* const* shared,
                 const std::function<void(int32_t rank)>& run) {
  Turns turns(index, size, shared);
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&turns, &run, rank] {
      here = {&turns, rank};
      turns.run(rank, run);
    });
  }
  for (std::thread& thread : threads) thread.join();
  turns.rethrow();
}

void meet_cluster() { here.turns->meet(here.rank); }

const void* of_peer(const void* own, int32_t rank) { return here.turns->of(here.rank, own, rank); }

}  // namespace fewstep::gpu
