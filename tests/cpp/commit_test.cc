// SPDX-License-Identifier: Apache-2.0
// Accepted rows of a cache, on memory of exactly the size that the op may touch.
#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "heap_array.h"

using heap::Array;

namespace {

using Ints = std::vector<int32_t>;

// Two layers' caches of two requests, one of them with pages in any order: 2 heads of D elements.
struct CommitProblem {
  static constexpr int64_t L = 2, B = 2, P = 6, T = 4, G = 2, M = 3;

  CommitProblem(int64_t dim, bool is_paged) : D(dim), paged(is_paged) {
    for (int64_t i = 0; i < 2 * L; ++i) {
      const int64_t pages = paged ? P : B, tokens = paged ? T : P / B * T;
      caches.push_back(std::make_unique<Array<float>>(heap::Shape{pages, tokens, G, D}));
      Array<float>& cache = *caches.back();
      for (size_t n = 0; n < cache.size(); ++n) cache[n] = float(1000 * i) + float(n);
      before.push_back(cache.values());
      tensors.push_back(*cache.tensor());
    }
    args.first = 1;
    args.caches.n = L;
    args.caches.k_cache = tensors.data();
    args.caches.v_cache = tensors.data() + L;
    args.path = path.tensor();
    args.accepted = accepted.tensor();
    args.base = base.tensor();
    if (paged) args.page_table = table.tensor();
    args.length = length.tensor();
  }
  std::string run() { return heap::text_of(fewstep_kv_commit(nullptr, &args)); }

  // Where row g, element d of a request's slot lies in a cache.
  size_t at(int64_t b, int64_t slot, int64_t g, int64_t d) const {
    const int64_t row =
        paged ? table[size_t(b * (P / B) + slot / T)] * T + slot % T : b * (P / B) * T + slot;
    return size_t((row * G + g) * D + d);
  }

  int64_t D;
  bool paged;
  std::vector<std::unique_ptr<Array<float>>> caches;  // keys of each layer, then values
  std::vector<std::vector<float>> before;
  std::vector<fewstep_tensor> tensors;
  Array<int32_t> path{{B, M}, {2, 3, 6, 4, -1, -1}}, accepted{{B}, {3, 1}}, base{{B}, {5, 0}};
  Array<int32_t> table{{B, P / B}, {4, 0, 3, 1, 5, 2}}, length{{B}, -7};
  fewstep_kv_commit_args args = FEWSTEP_KV_COMMIT_ARGS_INIT;
};

}  // namespace

TEST_CASE("accepted rows move into place in all layers, and no others") {
  for (const int64_t D : {1, 3, 16, 33, 128}) {
    for (const bool paged : {false, true}) {
      CommitProblem problem(D, paged);
      std::vector<std::vector<float>> wanted = problem.before;
      for (size_t i = 0; i < wanted.size(); ++i) {
        for (int64_t b = 0; b < CommitProblem::B; ++b) {
          for (int64_t m = 0; m < problem.accepted[size_t(b)]; ++m) {
            const int64_t begin = problem.base[size_t(b)];
            const int64_t from = begin + problem.path[size_t(b * CommitProblem::M + m)];
            for (int64_t g = 0; g < CommitProblem::G; ++g) {
              for (int64_t d = 0; d < D; ++d) {
                wanted[i][problem.at(b, begin + 1 + m, g, d)] =
                    problem.before[i][problem.at(b, from, g, d)];
              }
            }
          }
        }
      }
      REQUIRE(problem.run() == "");
      for (size_t i = 0; i < wanted.size(); ++i) REQUIRE(problem.caches[i]->values() == wanted[i]);
      REQUIRE(problem.length.values() == Ints{9, 2});
    }
  }
}

TEST_CASE("a path that does not increase moves nothing") {
  CommitProblem problem(16, true);
  problem.path[1] = 2;
  CHECK(problem.run() == "fewstep_kv_commit: 'path[0]' must increase from 1 on, got 2 at entry 1");
  CHECK(problem.length.values() == Ints(2, -7));
  for (size_t i = 0; i < problem.before.size(); ++i)
    CHECK(problem.caches[i]->values() == problem.before[i]);
}
