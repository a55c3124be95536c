// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/parallel.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "fewstep/context.h"

namespace {

struct Visits {
  std::vector<std::atomic<int>> count;
  std::atomic<int64_t> smallest{1 << 30}, largest{0};
  explicit Visits(int64_t n) : count(static_cast<size_t>(n)) {}
};

void visit(void* context, int64_t begin, int64_t end) {
  auto& visits = *static_cast<Visits*>(context);
  for (int64_t i = begin; i < end; ++i) ++visits.count[size_t(i)];
  if (end < int64_t(visits.count.size()) && end - begin < visits.smallest) {
    visits.smallest = end - begin;
  }
  if (end - begin > visits.largest) visits.largest = end - begin;
}

bool each_once(const Visits& visits) {
  for (const auto& count : visits.count) {
    if (count != 1) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("every item is done exactly once, by any number of threads") {
  for (int threads : {1, 2, 3, 7}) {
    for (int64_t count : {1, 2, 15, 16, 17, 1000, 4096, 100003}) {
      for (int64_t grain : {1, 16, 1000}) {
        Visits visits(count);
        fewstep::parallel_for(threads, count, grain, visit, &visits);
        CAPTURE(threads);
        CAPTURE(count);
        CAPTURE(grain);
        CHECK(each_once(visits));
        CHECK((visits.smallest >= grain / 4 || count < 2 * grain));
      }
    }
  }
}

TEST_CASE("a range is as short as was asked for") {
  for (int threads : {2, 3, 7}) {
    for (int64_t count : {14, 84, 1000}) {
      Visits each(count), few(count);
      fewstep::parallel_for(threads, count, 1, visit, &each, fewstep::kRangeEach);
      fewstep::parallel_for(threads, count, 1, visit, &few);
      CAPTURE(threads);
      CAPTURE(count);
      CHECK(each_once(each));
      CHECK(each.largest == (count % threads == 0 ? 1 : 2));
      CHECK(few.smallest >= count / threads / fewstep::kFewRanges);
    }
  }
}

TEST_CASE("nothing to do calls nothing") {
  Visits visits(1);
  fewstep::parallel_for(4, 0, 16, visit, &visits);
  CHECK(visits.count[0] == 0);
}

TEST_CASE("several host threads may run ops at once") {
  std::vector<std::thread> hosts;
  std::atomic<int> right{0};
  for (int i = 0; i < 4; ++i) {
    hosts.emplace_back([&right] {
      for (int turn = 0; turn < 50; ++turn) {
        Visits visits(5000);
        fewstep::parallel_for(2, 5000, 16, visit, &visits);
        if (each_once(visits)) ++right;
      }
    });
  }
  for (std::thread& host : hosts) host.join();
  CHECK(right == 200);
}
