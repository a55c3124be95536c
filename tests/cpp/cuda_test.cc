// SPDX-License-Identifier: Apache-2.0
// What CUDA kernels are made of, run on the CPU: accesses of packs, and which thread has which
// pack.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/math.h"
#include "core/cuda/mma.h"
#include "core/cuda/pack.h"
#include "core/status.h"

using namespace fewstep;
using gpu::kMaxBlocks;
using gpu::kPack;
using gpu::kQuad;
using gpu::kQuadStep;
using gpu::kWholePack;

namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// Bytes from a multiple of 16 on, of exactly the size asked for: ASan sees the byte behind them.
struct Bytes {
  explicit Bytes(size_t size) : data(new char[size]) {
    for (size_t i = 0; i < size; ++i) data[i] = char(i + 1);
  }
  std::unique_ptr<char[]> data;
};

std::string message_of(void (*f)(char*), char* p) {
  try {
    f(p);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// How often a grid's threads visit each element.
std::vector<int> visits(int64_t B, int64_t N, int threads) {
  const gpu::SampleGrid grid = gpu::sample_grid(B, N, threads);
  std::vector<int> count(size_t(B * N));
  for (int64_t block = 0; block < grid.blocks; ++block) {
    for (int32_t index = 0; index < threads; ++index) {
      gpu::for_packs(grid, {block, index}, threads, [&](int64_t b, int64_t n, int elements) {
        REQUIRE(b == gpu::sample_of(grid, {block, index}));
        REQUIRE(n % kQuad == 0);
        REQUIRE(elements == (N - n < kWholePack ? N - n : kWholePack));
        for (int i = 0; i < elements; ++i) {
          if (i < kQuad || i >= kQuadStep) ++count.at(size_t(b * N + n + i));
        }
      });
    }
  }
  return count;
}

// The thread of a sample's blocks, counted from its first, that has element n.
int64_t thread_of(int64_t n) {
  const int64_t warp = n / (32 * kPack), lane = n % kQuadStep / kQuad;
  return 32 * warp + lane;
}

// What one thread visits: the number of its packs, the first and the last.
struct Walk {
  int64_t packs = 0, first = -1, last = -1, sample = -1;
  int elements = 0;  // of the last
};

Walk walk(const gpu::SampleGrid& grid, int threads, int64_t block, int32_t index) {
  Walk w;
  gpu::for_packs(grid, {block, index}, threads, [&](int64_t b, int64_t n, int elements) {
    if (w.packs++ == 0) w.first = n;
    w.last = n;
    w.sample = b;
    w.elements = elements;
  });
  return w;
}

}  // namespace

TEST_CASE("a wide access of a wrong address is an error, as it is a trap on a GPU") {
  const Bytes bytes(64);
  for (int shift : {1, 2, 4}) {
    char* p = bytes.data.get() + shift;
    const auto load = [](char* q) {
      uint32_t w[2];
      gpu::load8(q, w);
    };
    const auto store = [](char* q) {
      const uint32_t w[2] = {};
      gpu::store8(q, w);
    };
    const std::string wanted = format("a CUDA kernel accesses 8 bytes at %p", (void*)p);
    CHECK(message_of(load, p) == wanted);
    CHECK(message_of(store, p) == wanted);
  }
  for (int shift : {1, 2, 4, 8, 12}) {
    char* p = bytes.data.get() + shift;
    const auto load = [](char* q) {
      uint32_t w[4];
      gpu::load16(q, w);
    };
    const auto store = [](char* q) {
      const uint32_t w[4] = {};
      gpu::store16(q, w);
    };
    const std::string wanted = format("a CUDA kernel accesses 16 bytes at %p", (void*)p);
    CHECK(message_of(load, p) == wanted);
    CHECK(message_of(store, p) == wanted);
  }
  CHECK(message_of([](char* q) { gpu::store16(q + 16, std::vector<uint32_t>(4).data()); },
                   bytes.data.get()) == "");
}

TEST_CASE("packs are wide where that is said and they are whole, and narrow elsewhere") {
  const Bytes bytes(1024);
  for (DType dtype : kTypes) {
    char* odd = bytes.data.get() + gpu::element_bytes(dtype);
    gpu::RawPack raw{};
    CHECK_FALSE(gpu::is_wide(odd, 0, dtype));
    CHECK_FALSE(gpu::is_wide(bytes.data.get(), 3 * gpu::element_bytes(dtype), dtype));
    CHECK(gpu::is_wide(bytes.data.get(), 4 * gpu::element_bytes(dtype), dtype));
    CHECK_THROWS_AS(gpu::load_raw(odd, dtype, true, kWholePack, &raw), Error);
    CHECK_THROWS_AS(gpu::store_raw(odd, dtype, true, kWholePack, raw), Error);
    CHECK_NOTHROW(gpu::load_raw(odd, dtype, false, kWholePack, &raw));
    CHECK_NOTHROW(gpu::store_raw(odd, dtype, false, kWholePack, raw));
    CHECK_NOTHROW(gpu::load_raw(odd, dtype, true, kWholePack - 1, &raw));
    CHECK_NOTHROW(gpu::store_raw(odd, dtype, true, kWholePack - 1, raw));
  }
}

TEST_CASE("a pack of any length is what it was, and nothing beside it is touched") {
  for (DType dtype : kTypes) {
    for (int count = 0; count <= kWholePack; ++count) {
      for (bool wide : {false, true}) {
        const size_t bytes = size_t(gpu::element_bytes(dtype)), size = size_t(count) * bytes;
        const Bytes from(size), to(size);
        gpu::RawPack raw{};
        gpu::load_raw(from.data.get(), dtype, wide, count, &raw);
        std::memset(to.data.get(), 0, size);
        gpu::store_raw(to.data.get(), dtype, wide, count, raw);
        float x[kPack];
        gpu::widen(raw, dtype, x);
        for (int i = 0; i < count; ++i) {
          const char* is = to.data.get() + size_t(i) * bytes;
          const char zero[4] = {};
          const bool in_pack = i < kQuad || i >= kQuadStep;
          const char* wanted = in_pack ? from.data.get() + size_t(i) * bytes : zero;
          CHECK(std::memcmp(is, wanted, bytes) == 0);
        }
        for (int i = 0; i < kPack; ++i) {
          if (i / kQuad * kQuadStep + i % kQuad >= count) CHECK(x[i] == 0.0f);
        }
        char* again = from.data.get();
        gpu::store_raw(again, dtype, wide, count, gpu::narrow(dtype, x));
        gpu::RawPack back{};
        gpu::load_raw(again, dtype, wide, count, &back);
        CHECK(std::memcmp(back.w, raw.w, sizeof raw.w) == 0);
      }
    }
  }
}

TEST_CASE("every element belongs to exactly one pack of one thread") {
  for (int threads : {32, 128, 256}) {
    const int64_t tile = int64_t(threads) * kPack;
    for (int64_t N : {int64_t(1), int64_t(7), int64_t(8), int64_t(127), int64_t(129), int64_t(255),
                      tile - 1, tile, tile + 1, 5 * tile - 8, 5 * tile + 3}) {
      for (int64_t B : {1, 2, 7}) {
        CAPTURE(N);
        const std::vector<int> count = visits(B, N, threads);
        CHECK(count == std::vector<int>(count.size(), 1));
      }
    }
  }
}

// A grid that would have more blocks than a launch: threads take several packs of their sample.
TEST_CASE("samples too long for a block per tile, in 64 bits") {
  constexpr int kThreads = 128;
  for (int64_t B : {int64_t(1), int64_t(3), int64_t(1) << 20, kMaxBlocks / 2, kMaxBlocks}) {
    const int64_t N = (int64_t(1) << 43) + 5;
    const gpu::SampleGrid grid = gpu::sample_grid(B, N, kThreads);
    CAPTURE(B);
    CHECK(grid.blocks <= kMaxBlocks);
    CHECK(grid.blocks == B * grid.per_sample);
    if (B > 1 << 20) continue;  // 2^33 packs per thread
    const int64_t stride = grid.per_sample * kThreads * kPack;
    for (int64_t b : {int64_t(0), B - 1}) {
      const int64_t block = b * grid.per_sample;
      // Tiles follow each other, across blocks too, until the stride.
      CHECK(walk(grid, kThreads, block, 0).first == 0);
      CHECK(walk(grid, kThreads, block, kThreads - 1).first ==
            stride / grid.per_sample - kWholePack);
      CHECK(walk(grid, kThreads, block + grid.per_sample - 1, kThreads - 1).first ==
            stride - kWholePack);
      // The sample's last elements have one owner, who comes to them in steps of the stride.
      const int64_t owner = thread_of((N - 1) % stride);
      const Walk w = walk(grid, kThreads, block + owner / kThreads, int32_t(owner % kThreads));
      CHECK(w.sample == b);
      CHECK(thread_of(w.first) == owner);
      CHECK(w.last == (N - 1) / kQuad * kQuad);
      CHECK(w.elements == (N - 1) % kQuad + 1);
      CHECK(w.packs == (w.last - w.first) / stride + 1);
    }
  }
}

TEST_CASE("more than 2^31 elements, in one sample and over samples") {
  constexpr int kThreads = 256;
  const int64_t N = (int64_t(3) << 31) + 13;
  const gpu::SampleGrid grid = gpu::sample_grid(2, N, kThreads);
  const int64_t owner = thread_of(int64_t(1) << 31);  // the element's number needs 33 bits
  const int64_t block = grid.per_sample + owner / kThreads;
  const Walk w = walk(grid, kThreads, block, int32_t(owner % kThreads));
  CHECK(w.sample == 1);
  CHECK(w.packs == 1);
  CHECK(w.first == int64_t(1) << 31);
  const Walk last = walk(grid, kThreads, grid.blocks - 1, int32_t(thread_of(N - 1) % kThreads));
  CHECK(last.last + last.elements == N);
  // Samples of one tile each: the last block of the largest grid.
  const gpu::SampleGrid wide = gpu::sample_grid(kMaxBlocks, 5, kThreads);
  CHECK(wide.blocks == kMaxBlocks);
  CHECK(walk(wide, kThreads, kMaxBlocks - 1, 1).sample == kMaxBlocks - 1);
  CHECK(walk(wide, kThreads, kMaxBlocks - 1, 1).elements == 1);
}

TEST_CASE("more samples than blocks are an error") {
  CHECK_NOTHROW(gpu::check_blocks("f", kMaxBlocks));
  const gpu::SampleGrid grid = gpu::sample_grid(kMaxBlocks + 1, 9, 128);
  CHECK(grid.blocks == kMaxBlocks + 1);
  CHECK_THROWS_WITH_AS(gpu::check_blocks("f", grid.blocks),
                       "f: a launch has at most 2147483647 blocks, one per sample and more, got "
                       "2147483648",
                       Error);
}

namespace {

// Counts its calls, and that all threads of a block have prepared before one runs.
struct CountingKernel {
  static constexpr int kThreads = 64, kBlocks = 1;
  static constexpr bool kPrepares = true;
  struct Shared {
    int prepared;
  };
  std::vector<int>* runs;

  void prepare(gpu::Thread thread, Shared* s) const {
    s->prepared = thread.index == 0 ? 1 : s->prepared + 1;
  }
  void run(gpu::Thread thread, const Shared& s) const {
    CHECK(s.prepared == kThreads);
    ++runs->at(size_t(thread.block * kThreads + thread.index));
  }
};

}  // namespace

TEST_CASE("a launch on the CPU runs every thread of every block once") {
  std::vector<int> runs(3 * CountingKernel::kThreads);
  gpu::launch("f", CountingKernel{&runs}, 3, nullptr);
  CHECK(runs == std::vector<int>(runs.size(), 1));
}

namespace {

using Block = gpu::Block<64>;

struct Reversed {
  static constexpr int kThreads = 64, kBlocks = 1;
  struct Shared {
    double scratch[64];
    int order[64], count;
  };
  double* sums;
  int* first;

  void run(const Block& block, Shared& s) const {
    Block::Per<double> x;
    s.count = 0;
    block.each([&](int t) {
      x[t] = 1.0 / (t + 1);
      s.order[s.count++] = t;
    });
    first[block.index] = s.order[0];
    const auto add = [](double a, double b) { return a + b; };
    sums[block.index] = block.reduce(x, s.scratch, add);
  }
};

}  // namespace

TEST_CASE("log_of is the logarithm of every float") {
  float x = 1e-45f;
  for (int i = 0; i < 3000; ++i, x *= 1.0717f) {
    const double want = std::log(double(x));
    CHECK(std::fabs(gpu::log_of(x) - want) <= 0x1p-50 * std::fmax(1.0, std::fabs(want)));
  }
  CHECK(gpu::log_of(1.0f) == 0.0);
  CHECK(gpu::log_of(0.0f) == -std::numeric_limits<double>::infinity());
  CHECK(std::isinf(gpu::log_of(std::numeric_limits<float>::infinity())));
  CHECK(std::isnan(gpu::log_of(std::numeric_limits<float>::quiet_NaN())));
}

namespace {

// C = A B of one warp, A from rows and B from rows of its transpose or its own.
template <bool kTransposed>
struct ProductKernel {
  static constexpr int kThreads = 32, kBlocks = 1;
  struct Words {
    uint32_t w[4];
  };
  struct Shared {
    alignas(16) uint16_t a[16][16], b[16][16];
  };
  double* c;

  void run(const gpu::Block<32>& block, Shared& s) const {
    gpu::PerThread<Words, 32> a, b;
    gpu::PerThread<float[4], 32> x;
    block.each([&](int t) {
      for (int i = 0; i < 16; ++i) {
        s.a[t % 16][i] = fewstep::vec::narrow_bf16({float(t % 16 + 2 * i)});
        s.b[t % 16][i] = fewstep::vec::narrow_bf16({float(3 * i - t % 16)});
      }
      for (float& value : x[t]) value = float(t);
    });
    const auto words = [](auto& of) { return [&of](int t) { return of[t].w; }; };
    gpu::load_matrices<false>(block, [&](int t) { return &s.a[t % 16][t / 16 * 8]; }, words(a));
    gpu::load_matrices<kTransposed>(
        block,
        [&](int t) {
          return kTransposed ? &s.b[t % 16][t / 16 * 8] : &s.b[t / 16 * 8 + t % 8][t / 8 % 2 * 8];
        },
        words(b));
    gpu::multiply<true>(block, [&](int t) { return x[t]; }, words(a), words(b));
    for (int t = 0; t < 32; ++t) {
      for (int i = 0; i < 4; ++i) c[(t / 4 + i / 2 * 8) * 8 + t % 4 * 2 + i % 2] = x[t][i] - t;
    }
  }
};

double product(int row, int column, bool transposed) {
  double sum = 0.0;
  for (int k = 0; k < 16; ++k) {
    sum += (row + 2 * k) * (transposed ? 3 * column - k : 3 * k - column);
  }
  return sum;
}

}  // namespace

TEST_CASE("a warp multiplies matrices whose fragments it loads, and quads join what they hold") {
  double rows[128], own[128];
  gpu::launch("f", ProductKernel<false>{rows}, 1, nullptr);
  gpu::launch("f", ProductKernel<true>{own}, 1, nullptr);
  for (int i = 0; i < 128; ++i) {
    CHECK(rows[i] == product(i / 8, i % 8, false));
    CHECK(own[i] == product(i / 8, i % 8, true));
  }
  float x[32];
  for (int t = 0; t < 32; ++t) x[t] = float(1 << t % 4) + float(t / 4);
  gpu::join_quads(
      gpu::Block<32>{0}, [&](int t) -> float& { return x[t]; },
      [](float a, float b) { return a + b; });
  for (int t = 0; t < 32; ++t) CHECK(x[t] == 15.0f + 4 * float(t / 4));
}

TEST_CASE("threads of a block are called once each, from either end, and reduce as a tree") {
  double sums[2], tree[64];
  int first[2];
  gpu::launch("f", Reversed{sums, first}, 2, nullptr);
  CHECK(first[0] == 0);
  CHECK(first[1] == 63);
  for (int i = 0; i < 64; ++i) tree[i] = 1.0 / (i + 1);
  for (int half = 32; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) tree[i] += tree[i + half];
  }
  CHECK(sums[0] == tree[0]);
  CHECK(sums[1] == tree[0]);
}
