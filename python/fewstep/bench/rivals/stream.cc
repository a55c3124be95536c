// SPDX-License-Identifier: Apache-2.0
// The bandwidth that a step can reach: a loop that reads and writes the same arrays and does
// nothing but a weighted sum, in the manner of STREAM (McCalpin 1995). Built on demand for this
// machine.
#include <immintrin.h>

#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int kMaxReads = 8, kMaxWrites = 4;

template <int K, int R, bool kBypassCache>
void range(const float* const* in, float* const* out, int64_t begin, int64_t end) {
  const float* a[K];
  float* o[R];
  for (int k = 0; k < K; ++k) a[k] = in[k];
  for (int r = 0; r < R; ++r) o[r] = out[r];
  int64_t i = begin;
#if defined(__AVX2__)
  constexpr int kLanes = 8;
  for (; i + kLanes <= end; i += kLanes) {
    __m256 sum = _mm256_setzero_ps();
    for (int k = 0; k < K; ++k) {
      sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_set1_ps(0.5f), _mm256_loadu_ps(a[k] + i)));
    }
    for (int r = 0; r < R; ++r) {
      if constexpr (kBypassCache) {
        _mm256_stream_ps(o[r] + i, sum);
      } else {
        _mm256_storeu_ps(o[r] + i, sum);
      }
    }
  }
  if (kBypassCache) _mm_sfence();
#endif
  for (; i < end; ++i) {
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += 0.5f * a[k][i];
    for (int r = 0; r < R; ++r) o[r][i] = sum;
  }
}

using RangeFn = void (*)(const float* const*, float* const*, int64_t, int64_t);

template <bool kBypassCache, int... I>
RangeFn pick(int index, std::integer_sequence<int, I...>) {
  static constexpr RangeFn kTable[] = {
      &range<I / kMaxWrites + 1, I % kMaxWrites + 1, kBypassCache>...};
  return kTable[index];
}

// Reads [begin, end) at the speed of memory: four streams, each asked for ahead of its use.
float sum_of(const float* p, int64_t begin, int64_t end) {
  const int64_t quarter = (end - begin) / 4 / 32 * 32;
  float sum = 0.0f;
#if defined(__AVX2__)
  __m256 sums[8] = {};
  constexpr int64_t kAhead = 512;  // elements
  for (int64_t i = 0; i < quarter; i += 16) {
    for (int s = 0; s < 4; ++s) {
      const float* from = p + begin + s * quarter + i;
      _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
      sums[2 * s] = _mm256_add_ps(sums[2 * s], _mm256_loadu_ps(from));
      sums[2 * s + 1] = _mm256_add_ps(sums[2 * s + 1], _mm256_loadu_ps(from + 8));
    }
  }
  for (const __m256& part : sums) sum += part[0] + part[7];
  begin += 4 * quarter;
#endif
  for (; begin < end; ++begin) sum += p[begin];
  return sum;
}

}  // namespace

// Reads n elements of each of two arrays on `threads` threads; what it returns means nothing.
extern "C" float fewstep_bench_read(const float* a, const float* b, int64_t n, int threads) {
  std::vector<std::thread> workers;
  std::vector<float> sums(size_t(threads), 0.0f);
  const auto work = [&](int t) {
    const int64_t begin = n * t / threads, end = n * (t + 1) / threads;
    sums[size_t(t)] = sum_of(a, begin, end) + sum_of(b, begin, end);
  };
  for (int t = 1; t < threads; ++t) workers.emplace_back(work, t);
  work(0);
  for (std::thread& worker : workers) worker.join();
  float sum = 0.0f;
  for (const float part : sums) sum += part;
  return sum;
}

// in: `reads` arrays, out: `writes` arrays, which may be among them; all 32-byte aligned.
extern "C" int fewstep_bench_stream(const float* const* in, int reads, float* const* out,
                                    int writes, int64_t n, int threads, int bypass_cache) {
  if (reads < 1 || reads > kMaxReads || writes < 1 || writes > kMaxWrites || threads < 1) return 1;
  const int index = (reads - 1) * kMaxWrites + writes - 1;
  constexpr std::make_integer_sequence<int, kMaxReads * kMaxWrites> kAll;
  const RangeFn fn = bypass_cache ? pick<true>(index, kAll) : pick<false>(index, kAll);
  constexpr int64_t kPage = 1024;  // elements
  const int64_t share = (n / threads + kPage - 1) / kPage * kPage;
  std::vector<std::thread> workers;
  for (int t = 1; t < threads; ++t) {
    const int64_t begin = t * share < n ? t * share : n;
    const int64_t end = t + 1 == threads ? n : begin + share < n ? begin + share : n;
    workers.emplace_back([=] { fn(in, out, begin, end); });
  }
  fn(in, out, 0, threads == 1 ? n : share < n ? share : n);
  for (std::thread& worker : workers) worker.join();
  return 0;
}
