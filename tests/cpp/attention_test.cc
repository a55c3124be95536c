// SPDX-License-Identifier: Apache-2.0
#include "tree/attention.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/cpu/processor.h"
#include "core/isa.h"

using namespace fewstep;
using namespace fewstep::tree;

namespace {

struct Case {
  DType type;
  int D, ratio, tokens;
  int64_t keys;
};

constexpr int kGroups = 3;  // KV heads

// Numbers of about 1, as a type of 16 or 32 bits; what they are does not matter here.
std::vector<char> numbers(DType type, int64_t count, unsigned seed) {
  std::mt19937 draw(seed);
  std::vector<char> bytes(size_t(count * size_of(type)));
  for (int64_t i = 0; i < count; ++i) {
    if (type == DType::kF32) {
      const float x = float(int(draw() % 2001) - 1000) / 700.0f;
      std::memcpy(bytes.data() + 4 * i, &x, 4);
      continue;
    }
    const unsigned one = type == DType::kBF16 ? 0x3f80 : 0x3c00;
    const auto x = uint16_t((draw() % 2 << 15) | (one - draw() % 500));
    std::memcpy(bytes.data() + 2 * i, &x, 2);
  }
  return bytes;
}

std::vector<float> attend(AttentionFn* kernel, const Case& c, bool large, bool prefetched) {
  const int64_t H = int64_t(kGroups) * c.ratio, size = size_of(c.type);
  std::vector<char> q = numbers(c.type, c.tokens * H * c.D, 1);
  std::vector<char> k = numbers(c.type, c.keys * kGroups * c.D, 2);
  std::vector<char> v = numbers(c.type, c.keys * kGroups * c.D, 3);
  std::vector<float> out(size_t(c.tokens * H * c.D));
  const int32_t indptr[] = {0, c.tokens}, length[] = {int32_t(c.keys)};
  AttentionProblem p{};
  p.B = 1;
  p.N = c.tokens;
  p.H = int32_t(H);
  p.G = kGroups;
  p.D = c.D;
  p.ratio = c.ratio;
  p.q_type = p.kv_type = c.type;
  p.out_type = DType::kF32;
  p.q = {q.data(), H * c.D * size, c.D * size};
  p.out = {reinterpret_cast<char*>(out.data()), H * c.D * 4, int64_t(c.D) * 4};
  p.k = {k.data(), c.keys * kGroups * c.D * size, kGroups * c.D * size, c.D * size};
  p.v = {v.data(), p.k.page, p.k.token, p.k.head};
  p.page_tokens = p.capacity = c.keys;
  p.pages = 1;
  p.indptr = indptr;
  p.indptr_stride = 1;
  p.kv_len = length;
  p.kv_len_stride = 1;
  p.scale = 0.1f;
  p.threads = 1;
  p.large_first_cache = large;
  p.prefetched = prefetched;
  p.part = 2 * kTileKeys;
  std::vector<float> partial(size_t(parts_of(p, 0) * c.tokens * H * partial_floats(p)));
  p.partial = partial.data();
  kernel(p);
  return out;
}

struct Named {
  Isa isa;
  AttentionFn* kernel;
};
constexpr Named kKernels[] = {
    {Isa::kScalar, &scalar::attention},
#if defined(FEWSTEP_X86_KERNELS)
    {Isa::kAvx2, &avx2::attention},
    {Isa::kAvx512, &avx512::attention},
    {Isa::kAvx512Bf16, &avx512_bf16::attention},
#endif
};

}  // namespace

TEST_CASE("what attention knows of the processor changes no bit") {
  for (const Named& named : kKernels) {
    if (!is_available(named.isa)) continue;
    CAPTURE(name_of(named.isa));
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      CAPTURE(name_of(type));
      for (const int D : {80, 128}) {
        for (const int tokens : {1, 3, 5, 8, 9, 40}) {  // up to 160 rows of a head
          const Case c{type, D, 4, tokens, 2 * kTileKeys + 77};
          CAPTURE(D);
          CAPTURE(tokens);
          const std::vector<float> plain = attend(named.kernel, c, false, false);
          CHECK(attend(named.kernel, c, false, true) == plain);
          CHECK(attend(named.kernel, c, true, false) == plain);
          CHECK(attend(named.kernel, c, true, true) == plain);
        }
      }
    }
  }
}

TEST_CASE("caches have sizes") {
  CHECK(first_level_cache_bytes() >= 8 << 10);
  CHECK(last_level_cache_bytes() > first_level_cache_bytes());
}
