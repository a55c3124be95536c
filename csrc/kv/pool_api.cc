// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>

#include "core/status.h"
#include "kv/pool.h"

struct fewstep_kv_pool {
  fewstep::kv::Pool pool;
};

namespace {

using fewstep::Error;
using fewstep::guard;

template <class T>
T& given(const char* function, const char* name, T* pointer) {
  if (!pointer) {
    throw Error(FEWSTEP_INVALID_ARGUMENT, std::string("fewstep_kv_pool_") + function + ": '" +
                                              name + "' must be given, got NULL");
  }
  return *pointer;
}

}  // namespace

extern "C" {

fewstep_status fewstep_kv_pool_create(int32_t pages, int32_t page_tokens, fewstep_kv_pool** out) {
  return guard([&] {
    given("create", "out", out);
    *out = new fewstep_kv_pool{fewstep::kv::Pool(pages, page_tokens)};
  });
}

void fewstep_kv_pool_destroy(fewstep_kv_pool* pool) { delete pool; }

fewstep_status fewstep_kv_pool_add(fewstep_kv_pool* pool, const int32_t* tokens, int64_t n_tokens,
                                   int64_t* sequence, int64_t* cached) {
  return guard([&] {
    given("add", "pool", pool);
    given("add", "sequence", sequence);
    given("add", "cached", cached);
    *sequence = pool->pool.add(tokens, n_tokens, cached);
  });
}

fewstep_status fewstep_kv_pool_extend(fewstep_kv_pool* pool, int64_t sequence, int64_t n_tokens,
                                      int32_t copy[2]) {
  return guard([&] {
    given("extend", "pool", pool);
    given("extend", "copy", copy);
    pool->pool.extend(sequence, n_tokens, copy);
  });
}

fewstep_status fewstep_kv_pool_truncate(fewstep_kv_pool* pool, int64_t sequence, int64_t length) {
  return guard([&] { given("truncate", "pool", pool).pool.truncate(sequence, length); });
}

fewstep_status fewstep_kv_pool_fork(fewstep_kv_pool* pool, int64_t sequence, int64_t length,
                                    int64_t* forked) {
  return guard([&] {
    given("fork", "pool", pool);
    given("fork", "forked", forked) = pool->pool.fork(sequence, length);
  });
}

fewstep_status fewstep_kv_pool_publish(fewstep_kv_pool* pool, int64_t sequence,
                                       const int32_t* tokens, int64_t n_tokens) {
  return guard([&] { given("publish", "pool", pool).pool.publish(sequence, tokens, n_tokens); });
}

fewstep_status fewstep_kv_pool_free(fewstep_kv_pool* pool, int64_t sequence) {
  return guard([&] { given("free", "pool", pool).pool.free(sequence); });
}

fewstep_status fewstep_kv_pool_length(const fewstep_kv_pool* pool, int64_t sequence,
                                      int64_t* length) {
  return guard([&] {
    given("length", "pool", pool);
    given("length", "length", length) = pool->pool.length(sequence);
  });
}

fewstep_status fewstep_kv_pool_page_table(const fewstep_kv_pool* pool, const int64_t* sequences,
                                          int64_t n, int32_t* table, int64_t columns) {
  return guard(
      [&] { given("page_table", "pool", pool).pool.page_table(sequences, n, table, columns); });
}

fewstep_status fewstep_kv_pool_get_stats(const fewstep_kv_pool* pool, fewstep_kv_pool_stats* out) {
  return guard([&] {
    given("get_stats", "pool", pool);
    if (given("get_stats", "out", out).size < sizeof(*out)) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  "fewstep_kv_pool_get_stats: 'out' must have its size set, got " +
                      std::to_string(out->size));
    }
    pool->pool.stats(out);
  });
}

fewstep_status fewstep_kv_pool_references(const fewstep_kv_pool* pool, int32_t page,
                                          int32_t* count) {
  return guard([&] {
    given("references", "pool", pool);
    given("references", "count", count) = pool->pool.references(page);
  });
}

}  // extern "C"
