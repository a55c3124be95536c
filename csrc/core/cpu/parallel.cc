// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/parallel.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
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
      find("omp_in_parallel", &fresh.in_parallel)) {
    api = fresh;
    found.store(true, std::memory_order_release);
    return &api;
  }
  seen.store(now, std::memory_order_relaxed);
  return nullptr;
}

const OpenMp* team() {
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

// Chunks per thread: enough for a thread that starts late to leave work to the others, few enough
// that each stays one long stream for the prefetchers.
constexpr int64_t kChunksPerThread = 4;

// Grains per thread, each about 10 us and more, from which a job runs on our own pool even where
// there is a team. A team's barrier waits for threads that the scheduler keeps away: on a machine
// that was busy elsewhere DDIM over 64 MB tensors took 16 ms with the team and 8 with the pool,
// which waits for nobody that has no work. A team is better for short jobs, because its threads
// still spin after the framework's last op and would keep the cores from ours for some 3 ms.
constexpr int64_t kLongJob = 100;

struct Job {
  RangeFn* fn;
  void* context;
  int64_t count, per_chunk;
  uint32_t chunks;
  std::atomic<uint32_t> next{0};
};

void run_chunk(void* p, uint32_t chunk) {
  const Job& job = *static_cast<const Job*>(p);
  const int64_t begin = chunk * job.per_chunk;
  const int64_t end = begin + job.per_chunk < job.count ? begin + job.per_chunk : job.count;
  if (begin < end) job.fn(job.context, begin, end);
}

void run_in_team(void* p) {
  Job& job = *static_cast<Job*>(p);
  for (;;) {
    const uint32_t chunk = job.next.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= job.chunks) return;
    run_chunk(p, chunk);
  }
}

}  // namespace

void check_thread_settings() { settings(); }

const char* thread_source() { return team() ? "borrow" : "own"; }

void parallel_for(int32_t threads, int64_t count, int64_t grain, RangeFn* fn, void* context) {
  if (count <= 0) return;
  if (count < 2 * grain || threads == 1) return fn(context, 0, count);
  const OpenMp* api = team();
  if (threads == 0) threads = explicit_threads();
  if (threads == 0) threads = api ? api->max_threads() : settings().default_threads;
  if (threads > count / grain) threads = int32_t(count / grain);
  if (threads <= 1 || (api && api->in_parallel())) return fn(context, 0, count);

  const bool is_long = count / grain / threads >= kLongJob;
  if (is_long && settings().source != Source::kBorrow) api = nullptr;
  int64_t chunks = threads * kChunksPerThread;
  if (chunks > count) chunks = count;
  Job job{fn, context, count, (count + chunks - 1) / chunks, uint32_t(chunks)};
  if (api) {
    api->parallel(&run_in_team, &job, unsigned(threads), 0);
  } else {
    ThreadPool::instance().run(threads, job.chunks, &run_chunk, &job);
  }
}

int64_t last_level_cache_bytes() {
  static const int64_t kBytes = [] {
    const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return bytes > 0 ? int64_t(bytes) : int64_t(32) << 20;
  }();
  return kBytes;
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
    const fewstep::OpenMp* api = fewstep::team();
    threads = api ? api->max_threads() : fewstep::settings().default_threads;
  });
  return threads;
}

}  // extern "C"
