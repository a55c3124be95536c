// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/parallel.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "core/cpu/thread_pool.h"
#include "core/status.h"
#include "fewstep/context.h"

namespace fewstep {
namespace {

enum class Source { kAny, kOwn, kBorrow };

struct Settings {
  Source source = Source::kAny;
  int32_t explicit_threads = 0;  // FEWSTEP_NUM_THREADS
  int32_t default_threads = 1;   // OMP_NUM_THREADS, else the processors this process may use
};

// The leading positive integer of text, 0 when there is none; *rest is what follows.
int32_t leading_count(const char* text, const char** rest) {
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text, &end, 10);
  *rest = end;
  return end == text || errno != 0 || value < 1 || value > INT_MAX ? 0 : int32_t(value);
}

Settings read_settings() {
  Settings s;
  const char* rest = nullptr;
  if (const char* text = std::getenv("FEWSTEP_NUM_THREADS"); text && *text) {
    s.explicit_threads = leading_count(text, &rest);
    if (s.explicit_threads == 0 || *rest) {
      throw Error(
          FEWSTEP_INVALID_ARGUMENT,
          format("fewstep: 'FEWSTEP_NUM_THREADS' must be a positive integer, got '%s'", text));
    }
  }
  // OpenMP's own variable may be a list, one entry per nesting level. It is not ours to refuse.
  if (const char* text = std::getenv("OMP_NUM_THREADS"))
    s.default_threads = leading_count(text, &rest);
  else
    s.default_threads = 0;
  if (s.default_threads == 0) s.default_threads = int32_t(std::thread::hardware_concurrency());
  if (s.default_threads == 0) s.default_threads = 1;
  if (const char* text = std::getenv("FEWSTEP_THREADS"); text && *text) {
    if (std::strcmp(text, "own") == 0)
      s.source = Source::kOwn;
    else if (std::strcmp(text, "borrow") == 0)
      s.source = Source::kBorrow;
    else {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("fewstep: 'FEWSTEP_THREADS' must be 'own' or 'borrow', got '%s'", text));
    }
  }
  return s;
}

const Settings& settings() {
  static const Settings kSettings = read_settings();  // tried again after it threw
  return kSettings;
}

std::atomic<int32_t> threads_set{0};  // fewstep_set_num_threads
std::atomic<bool> forked{false};

// The entry points of an OpenMP runtime; GOMP_parallel is also exported by LLVM's and Intel's.
struct OpenMp {
  void (*parallel)(void (*fn)(void*), void* context, unsigned threads, unsigned flags);
  int (*max_threads)();
  int (*in_parallel)();
  int (*thread_num)();
};

template <class Fn>
bool find(const char* name, Fn** out) {
  *out = reinterpret_cast<Fn*>(dlsym(RTLD_DEFAULT, name));
  return *out != nullptr;
}

// How often objects were loaded so far: while it stands still, a failed look-up need not be
// repeated. About 50 ns, against microseconds for a dlsym that fails.
unsigned long long loads() {
  unsigned long long adds = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        *static_cast<unsigned long long*>(out) = info->dlpi_adds;
        return 1;
      },
      &adds);
  return adds;
}

// Null while no OpenMP runtime is loaded.
const OpenMp* open_mp() {
  static OpenMp api;
  static std::atomic<bool> found{false};
  static std::atomic<unsigned long long> seen{0};
  static std::mutex mutex;
  if (found.load(std::memory_order_acquire)) return &api;
  const unsigned long long now = loads();
  if (seen.load(std::memory_order_relaxed) == now) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (found.load(std::memory_order_relaxed)) return &api;
  OpenMp fresh;
  if (find("GOMP_parallel", &fresh.parallel) && find("omp_get_max_threads", &fresh.max_threads) &&
      find("omp_in_parallel", &fresh.in_parallel) &&
      find("omp_get_thread_num", &fresh.thread_num)) {
    api = fresh;
    found.store(true, std::memory_order_release);
    return &api;
  }
  seen.store(now, std::memory_order_relaxed);
  return nullptr;
}

// Whose threads are borrowed; null: nobody's.
const OpenMp* lender() {
  static const int kRegistered =
      pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
  (void)kRegistered;
  if (settings().source == Source::kOwn || forked.load(std::memory_order_relaxed)) return nullptr;
  const OpenMp* api = open_mp();
  if (!api && settings().source == Source::kBorrow) {
    throw Error(FEWSTEP_UNSUPPORTED,
                "fewstep: 'FEWSTEP_THREADS' must be 'own' or unset, got 'borrow' in a process that "
                "has loaded no OpenMP runtime");
  }
  return api;
}

int32_t explicit_threads() {
  const int32_t set = threads_set.load(std::memory_order_relaxed);
  return set > 0 ? set : settings().explicit_threads;
}

// Grains per thread, each about 10 us and more, from which a job runs on our own pool even where
// there is a team. A team's barrier waits for threads that the scheduler keeps away: on a machine
// that was busy elsewhere DDIM over 64 MB tensors took 16 ms with the team and 8 with the pool,
// which waits for nobody that has no work. A team is better for short jobs, because its threads
// still spin after the framework's last op and would keep the cores from ours for some 3 ms.
constexpr int64_t kLongJob = 100;

// A grain over what is worth a thread that waits for it already. Between 4 and 32 nothing was seen
// to change.
constexpr int64_t kGrainOfTeam = 8;

// Where borrowed threads come so late, in nanoseconds, to the end of a call, another process has
// their core. For a while calls run on our own pool then, which waits for nobody that has no work:
// beside a process that kept one of two cores busy a call of 120 us took 3 to 80 ms with OpenMP's
// barriers, and takes 0.2 to 1 ms so.
constexpr int64_t kLate = 500'000, kWhile = 100'000'000;
std::atomic<int64_t> own_until{0};

int64_t now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What this thread leads.
struct Led {
  Team* team;
  int32_t threads;
};
thread_local Led led{nullptr, 0};

// Who may share a job that asks for `threads`.
struct Crew {
  int32_t threads;
  const OpenMp* api;  // null: those that this thread leads, or our own pool
};

Crew crew_of(int32_t threads) {
  if (threads == 1 || Team::is_at_work()) return {1, nullptr};
  if (led.team) return {threads == 0 || threads > led.threads ? led.threads : threads, nullptr};
  const OpenMp* api = lender();
  if (api && api->in_parallel()) return {1, api};
  if (threads == 0) threads = explicit_threads();
  if (threads == 0) threads = api ? api->max_threads() : settings().default_threads;
  return {threads < Team::kMaxThreads ? threads : Team::kMaxThreads, api};
}

struct Job {
  RangeFn* fn;
  void* context;
  int64_t count;
  int32_t threads, chunks;  // chunks: of a thread
};

struct OpenMpJob {
  const Job& job;
  const OpenMp* api;
  std::atomic<int32_t> begun[Team::kMaxThreads]{};  // chunks of each share
};

// As in a Team, each thread begins with a share of its own: one stretch of memory, where chunks
// taken in turn are as many as there are, and the same one in the next job of this size.
void run_in_open_mp(void* p) {
  OpenMpJob& shared = *static_cast<OpenMpJob*>(p);
  const Job& job = shared.job;
  const int64_t all = int64_t(job.threads) * job.chunks;
  const int32_t index = shared.api->thread_num();
  for (int32_t i = 0; i < job.threads; ++i) {
    const int32_t share = (index + i) % job.threads;
    for (int32_t n;
         (n = shared.begun[share].fetch_add(1, std::memory_order_relaxed)) < job.chunks;) {
      const int64_t chunk = int64_t(share) * job.chunks + n;
      job.fn(job.context, job.count * chunk / all, job.count * (chunk + 1) / all);
    }
  }
}

void run_in_team(void* p, Team* team) {
  const Job& job = *static_cast<Job*>(p);
  if (!team) return job.fn(job.context, 0, job.count);
  team->run(job.threads, job.chunks, job.count, job.fn, job.context);
}

struct Call {
  void (*fn)(void*);
  void* context;
  Crew crew;
  Team* team;
  std::exception_ptr error;
  int64_t end;  // nanoseconds; in an OpenMP team
};

void lead(void* p, Team* team) {
  Call& call = *static_cast<Call*>(p);
  led = {team, call.crew.threads};
  try {
    call.fn(call.context);
  } catch (...) {
    call.error = std::current_exception();
  }
  led = {nullptr, 0};
}

void lead_or_serve(void* p) {
  Call& call = *static_cast<Call*>(p);
  const int index = call.crew.api->thread_num();
  if (index > 0) return call.team->serve(index);
  lead(p, call.team);
  call.end = now();
  call.team->dismiss();
}

}  // namespace

void check_thread_settings() { settings(); }

const char* thread_source() { return lender() ? "borrow" : "own"; }

int32_t threads_for(int32_t threads) { return crew_of(threads).threads; }

void parallel_for(int32_t threads, int64_t count, int64_t grain, RangeFn* fn, void* context,
                  int64_t ranges) {
  if (count <= 0) return;
  if (led.team) grain = (grain + kGrainOfTeam - 1) / kGrainOfTeam;
  if (count < 2 * grain) return fn(context, 0, count);
  Crew crew = crew_of(threads);
  if (crew.threads > count / grain) crew.threads = int32_t(count / grain);
  if (crew.threads <= 1) return fn(context, 0, count);

  const int64_t items = count / crew.threads;
  Job job{fn, context, count, crew.threads, int32_t(items < ranges ? items : ranges)};
  if (led.team) return run_in_team(&job, led.team);
  const bool is_long = items / grain >= kLongJob && settings().source != Source::kBorrow;
  if (crew.api && !is_long) {
    OpenMpJob shared{job, crew.api};
    crew.api->parallel(&run_in_open_mp, &shared, unsigned(crew.threads), 0);
  } else {
    ThreadPool::instance().lead(crew.threads, &run_in_team, &job);
  }
}

void with_team(int32_t threads, void (*fn)(void*), void* context) {
  const Crew crew = crew_of(threads);
  if (crew.threads <= 1 || led.team) return fn(context);
  Call call{fn, context, crew, nullptr, nullptr, 0};
  if (crew.api && (settings().source == Source::kBorrow ||
                   now() >= own_until.load(std::memory_order_relaxed))) {
    Team team(crew.threads);
    call.team = &team;
    crew.api->parallel(&lead_or_serve, &call, unsigned(crew.threads), 0);
    const int64_t end = now();
    if (end - call.end > kLate) own_until.store(end + kWhile, std::memory_order_relaxed);
  } else {
    ThreadPool::instance().lead(crew.threads, &lead, &call);
  }
  if (call.error) std::rethrow_exception(call.error);
}

}  // namespace fewstep

extern "C" {

fewstep_status fewstep_set_num_threads(int32_t threads) {
  return fewstep::guard([&] {
    if (threads < 0) {
      throw fewstep::Error(
          FEWSTEP_INVALID_ARGUMENT,
          fewstep::format("fewstep_set_num_threads: 'threads' must be 0 or more, got %d",
                          int(threads)));
    }
    fewstep::threads_set.store(threads, std::memory_order_relaxed);
  });
}

int32_t fewstep_num_threads(void) {
  int32_t threads = 0;
  fewstep::guard([&] {
    threads = fewstep::explicit_threads();
    if (threads > 0) return;
    const fewstep::OpenMp* api = fewstep::lender();
    threads = api ? api->max_threads() : fewstep::settings().default_threads;
  });
  return threads;
}

}  // extern "C"
