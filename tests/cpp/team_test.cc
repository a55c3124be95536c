// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/team.h"

#include <dlfcn.h>
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

// With FEWSTEP_THREADS=borrow there has to be somebody to borrow from.
const bool kBorrowed = [] {
  const char* source = std::getenv("FEWSTEP_THREADS");
  return source && std::string(source) == "borrow" &&
         dlopen("libgomp.so.1", RTLD_NOW | RTLD_GLOBAL) != nullptr;
}();

struct Visits {
  std::vector<std::atomic<int>> count;
  std::atomic<int> calls{0};
  explicit Visits(int64_t n) : count(static_cast<size_t>(n)) {}

  bool each(int times) const {
    for (const auto& c : count) {
      if (c != times) return false;
    }
    return true;
  }
};

void visit(void* context, int64_t begin, int64_t end) {
  auto& visits = *static_cast<Visits*>(context);
  for (int64_t i = begin; i < end; ++i) ++visits.count[size_t(i)];
  ++visits.calls;
}

// A call of jobs of several sizes, whose items each call parallel_for once more.
struct Pass {
  int32_t threads;
  int turns;
  std::atomic<int> wrong{0}, shared{0};  // shared: nested jobs
};

void nested(void* context, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    Visits inner(100);
    fewstep::parallel_for(0, 100, 1, visit, &inner);
    auto& pass = *static_cast<Pass*>(context);
    if (!inner.each(1)) ++pass.wrong;
    if (inner.calls != 1) ++pass.shared;
  }
}

void run_pass(void* p) {
  auto& pass = *static_cast<Pass*>(p);
  for (int turn = 0; turn < pass.turns; ++turn) {
    for (int64_t count : {1, 2, 3, 10, 1000}) {
      Visits visits(count);
      fewstep::parallel_for(pass.threads, count, 1, visit, &visits);
      fewstep::parallel_for(0, count, 8, visit, &visits);
      if (!visits.each(2)) ++pass.wrong;
    }
    fewstep::parallel_for(0, 20, 1, nested, &pass);
  }
}

bool passes(int32_t threads, int turns) {
  Pass pass{threads, turns};
  fewstep::with_team(threads, run_pass, &pass);
  return pass.wrong == 0;
}

}  // namespace

TEST_CASE("threads are whose they are said to be") {
  CHECK(std::string(fewstep::thread_source()) == (kBorrowed ? "borrow" : "own"));
}

TEST_CASE("a team does every item of its jobs exactly once, and nested ones alone") {
  for (int threads : {1, 2, 3, 7}) {
    CAPTURE(threads);
    Pass pass{threads, 50};
    fewstep::with_team(threads, run_pass, &pass);
    CHECK(pass.wrong == 0);
    CHECK((pass.shared == 0 || threads == 1));
  }
}

TEST_CASE("a team's grain is an eighth") {
  Visits visits(64);
  const auto run = [](void* v) { fewstep::parallel_for(0, 64, 256, visit, v); };
  fewstep::with_team(2, run, &visits);
  CHECK(visits.calls == 8);
  run(&visits);
  CHECK(visits.calls == 9);
  CHECK(visits.each(2));
}

TEST_CASE("an exception leaves the team, and a team inside another is the same one") {
  const auto fail = [](void*) { throw std::runtime_error("no"); };
  for (int turn = 0; turn < 3; ++turn)
    CHECK_THROWS_AS(fewstep::with_team(2, fail, nullptr), std::runtime_error);
  struct Outer {
    int32_t before = 0, inside = 0, within = 0;
  } outer;
  const auto inner = [](void* p) { static_cast<Outer*>(p)->within = fewstep::threads_for(0); };
  fewstep::with_team(
      3,
      [](void* p) {
        static_cast<Outer*>(p)->inside = fewstep::threads_for(7);
        fewstep::with_team(
            2, [](void* q) { static_cast<Outer*>(q)->within = fewstep::threads_for(0); }, p);
      },
      &outer);
  CHECK(outer.inside == 3);
  CHECK(outer.within == 3);
  fewstep::with_team(1, inner, &outer);
  CHECK(outer.within == fewstep::threads_for(0));
}

TEST_CASE("several host threads may have teams, and jobs of their own, at once") {
  std::vector<std::thread> hosts;
  std::atomic<int> right{0};
  for (int i = 0; i < 4; ++i) {
    hosts.emplace_back([&right, i] {
      for (int turn = 0; turn < 20; ++turn) {
        Visits visits(5000);
        fewstep::parallel_for(2, 5000, 16, visit, &visits);
        if (visits.each(1) && passes(2 + i % 2, 5)) ++right;
      }
    });
  }
  for (std::thread& host : hosts) host.join();
  CHECK(right == 80);
}

TEST_CASE("nobody waits for members that do not come, nor do late ones disturb") {
  fewstep::Team team(4);
  Visits alone(100);
  team.run(4, 5, 100, visit, &alone);
  CHECK(alone.each(1));
  CHECK(alone.calls == 20);
  std::vector<std::thread> members;
  for (int turn = 0; turn < 300; ++turn) {
    if (turn % 100 == 0) members.emplace_back([&team, turn] { team.serve(1 + turn / 100); });
    Visits visits(64);
    team.run(1 + turn % 4, 1 + turn % 16, 64, visit, &visits);
    CHECK(visits.each(1));
    CHECK(visits.calls == (1 + turn % 4) * (1 + turn % 16));
  }
  team.dismiss();
  for (std::thread& member : members) member.join();
  team.serve(1);
}

TEST_CASE("a forked child has a team of its own") {
  REQUIRE(passes(2, 5));
  const pid_t child = fork();
  if (child == 0) _exit(passes(2, 5) && passes(3, 5) ? 0 : 1);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(passes(2, 5));
}
