// SPDX-License-Identifier: Apache-2.0
#include "fewstep/kv_pool.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

using fewstep::kv::Pool;

namespace {

using Tokens = std::vector<int32_t>;

std::vector<int32_t> pages_of(const Pool& pool, int64_t sequence) {
  const int64_t tokens = pool.stats().page_tokens;
  const int64_t columns = (pool.length(sequence) + tokens - 1) / tokens;
  std::vector<int32_t> table(static_cast<size_t>(columns));
  pool.page_table(std::span(&sequence, 1), table, columns);
  return table;
}

uint32_t next_random(uint32_t& state) { return state = state * 1664525u + 1013904223u, state >> 8; }

// A sequence's tokens, and for each page and slot the tokens up to the row that was written there.
struct Model {
  std::map<int64_t, Tokens> sequences;
  std::map<std::pair<int32_t, int64_t>, Tokens> rows;
};

void check_model(const Pool& pool, const Model& model) {
  const fewstep_kv_pool_stats stats = pool.stats();
  std::vector<int32_t> count(size_t(stats.pages));
  for (const auto& [sequence, tokens] : model.sequences) {
    const std::vector<int32_t> table = pages_of(pool, sequence);
    for (const int32_t page : table) ++count[size_t(page)];
    for (int64_t i = 0; i < int64_t(tokens.size()); ++i) {
      const auto row =
          model.rows.find({table[size_t(i / stats.page_tokens)], i % stats.page_tokens});
      REQUIRE(row != model.rows.end());
      REQUIRE(row->second == Tokens(tokens.begin(), tokens.begin() + i + 1));
    }
  }
  for (int32_t page = 0; page < stats.pages; ++page) {
    REQUIRE(pool.references(page) == count[size_t(page)]);
  }
  REQUIRE(stats.used + stats.cached + stats.free == stats.pages);
}

void extend(Pool& pool, Model& model, int64_t sequence, uint32_t& random) {
  const int64_t n = next_random(random) % 6, T = pool.stats().page_tokens;
  Pool::Copy copy{};
  try {
    copy = pool.extend(sequence, n);
  } catch (const fewstep::error& e) {
    REQUIRE(e.status() == FEWSTEP_OUT_OF_MEMORY);
    return;
  }
  for (int64_t t = 0; copy && t < T; ++t) {
    const auto row = model.rows.find({copy.source, t});
    if (row != model.rows.end()) model.rows[{copy.target, t}] = row->second;
  }
  const std::vector<int32_t> table = pages_of(pool, sequence);
  Tokens& tokens = model.sequences[sequence];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t slot = int64_t(tokens.size());
    tokens.push_back(int32_t(next_random(random) % 2));
    model.rows[{table[size_t(slot / T)], slot % T}] = tokens;
  }
}

}  // namespace

TEST_CASE("a pool keeps what sequences wrote") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    Pool pool(8, 3);
    Model model;
    uint32_t random = seed;
    for (int step = 0; step < 200; ++step) {
      const uint32_t what = model.sequences.empty() ? 0 : next_random(random) % 7;
      auto chosen = model.sequences.begin();
      if (what > 0) std::advance(chosen, next_random(random) % model.sequences.size());
      if (what == 0 || (what == 1 && model.sequences.size() < 5)) {
        Tokens tokens(next_random(random) % 9);
        for (int32_t& token : tokens) token = int32_t(next_random(random) % 2);
        const Pool::Added added = pool.add(tokens);
        tokens.resize(size_t(added.cached));
        model.sequences[added.sequence] = tokens;
      } else if (what <= 3) {
        extend(pool, model, chosen->first, random);
      } else if (what == 4) {
        const size_t length = next_random(random) % (chosen->second.size() + 1);
        pool.truncate(chosen->first, int64_t(length));
        chosen->second.resize(length);
      } else if (what == 5) {
        pool.publish(chosen->first, chosen->second);
        if (model.sequences.size() < 5) model.sequences[pool.fork(chosen->first)] = chosen->second;
      } else {
        pool.free(chosen->first);
        CHECK_THROWS_AS(pool.free(chosen->first), fewstep::error);
        model.sequences.erase(chosen);
      }
      check_model(pool, model);
    }
  }
}

TEST_CASE("a pool refuses NULL and unknown sequences") {
  Pool pool(2, 4);
  int64_t number = 0;
  CHECK(fewstep_kv_pool_add(pool.get(), nullptr, 3, &number, &number) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) ==
        "fewstep_kv_pool_add: 'tokens' must be given, got NULL");
  CHECK(fewstep_kv_pool_add(nullptr, nullptr, 0, &number, &number) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_kv_pool_extend(pool.get(), 1, 1, nullptr) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(fewstep_kv_pool_free(pool.get(), 5) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) ==
        "fewstep_kv_pool_free: 'sequence' must be one of the pool that was not freed, got 5");
  fewstep_kv_pool_stats stats{};
  CHECK(fewstep_kv_pool_get_stats(pool.get(), &stats) == FEWSTEP_INVALID_ARGUMENT);
  CHECK(std::string(fewstep_last_error()) ==
        "fewstep_kv_pool_get_stats: 'out' must have its size set, got 0");
  std::vector<int32_t> table(3);
  CHECK_THROWS_AS(pool.page_table(std::vector<int64_t>{1}, table, 2), fewstep::error);
  fewstep_kv_pool_destroy(nullptr);
}

TEST_CASE_TEMPLATE("rows of bytes and messages are tensors of C++ too", T, int8_t,
                   fewstep::float8_e4m3fn) {
  std::vector<T> keys{{1}, {2}, {3}, {4}}, values{{5}, {6}, {7}, {8}};
  std::vector<float> scales(4, 1.0f);
  std::vector<uint8_t> message(size_t(fewstep_kv_export_bytes(1, 2, 1, 1, 8)));
  const fewstep::TensorRef k_ref(keys.data(), {1, 4, 1, 1}), v_ref(values.data(), {1, 4, 1, 1});
  const fewstep::TensorRef scale_ref(scales.data(), {1, 4, 1}), out_ref(message);
  const fewstep_tensor k_view = k_ref.view(), v_view = v_ref.view();
  const fewstep_tensor scale_view = scale_ref.view(), out_view = out_ref.view();
  // The caches are read here, so one tensor of scales may serve both.
  fewstep_kv_export_tokens_args args = FEWSTEP_KV_EXPORT_TOKENS_ARGS_INIT;
  args.caches = {1, &k_view, &v_view, &scale_view, &scale_view};
  args.begin = 1;
  args.end = 3;
  args.out = &out_view;
  REQUIRE(fewstep_kv_export_tokens(nullptr, &args) == FEWSTEP_OK);
  CHECK(int(message[64]) == 2);
  CHECK(int(message[65]) == 3);
  fewstep_kv_header header{};
  CHECK(fewstep_kv_read_header(message.data(), message.size(), &header) == FEWSTEP_OK);
  CHECK(header.tokens == 2);
  CHECK(header.dtype_code == (std::is_same_v<T, int8_t> ? 0 : 10));
  CHECK(header.dtype_bits == 8);
  CHECK(header.scales == 1);
}
