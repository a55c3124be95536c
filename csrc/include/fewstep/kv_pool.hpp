// SPDX-License-Identifier: Apache-2.0
#ifndef FEWSTEP_KV_POOL_HPP_
#define FEWSTEP_KV_POOL_HPP_

// The C++20 face of kv_pool.h.

#include "fewstep.hpp"

namespace fewstep::kv {

// Which sequence has which pages of a paged KV cache. Moves, and is not copied.
class Pool {
 public:
  struct Added {
    int64_t sequence, cached;
  };
  // A page to copy, and where to; both -1 for none.
  struct Copy {
    int32_t source, target;
    explicit operator bool() const { return source >= 0; }
  };

  Pool(int32_t pages, int32_t page_tokens) {
    fewstep_kv_pool* made = nullptr;
    check(fewstep_kv_pool_create(pages, page_tokens, &made));
    owner_.reset(made);
  }

  Added add(std::span<const int32_t> tokens = {}) {
    Added out{};
    check(fewstep_kv_pool_add(get(), tokens.data(), int64_t(tokens.size()), &out.sequence,
                              &out.cached));
    return out;
  }
  Copy extend(int64_t sequence, int64_t n_tokens) {
    int32_t copy[2];
    check(fewstep_kv_pool_extend(get(), sequence, n_tokens, copy));
    return {copy[0], copy[1]};
  }
  void truncate(int64_t sequence, int64_t length) {
    check(fewstep_kv_pool_truncate(get(), sequence, length));
  }
  int64_t fork(int64_t sequence, int64_t length) {
    int64_t forked = 0;
    check(fewstep_kv_pool_fork(get(), sequence, length, &forked));
    return forked;
  }
  int64_t fork(int64_t sequence) { return fork(sequence, length(sequence)); }
  void publish(int64_t sequence, std::span<const int32_t> tokens) {
    check(fewstep_kv_pool_publish(get(), sequence, tokens.data(), int64_t(tokens.size())));
  }
  void free(int64_t sequence) { check(fewstep_kv_pool_free(get(), sequence)); }

  int64_t length(int64_t sequence) const {
    int64_t out = 0;
    check(fewstep_kv_pool_length(get(), sequence, &out));
    return out;
  }
  // table is [sequences.size(), columns].
  void page_table(std::span<const int64_t> sequences, std::span<int32_t> table,
                  int64_t columns) const {
    if (columns < 0 || table.size() != sequences.size() * size_t(columns)) {
      throw error(FEWSTEP_INVALID_ARGUMENT,
                  "fewstep::kv::Pool::page_table: 'table' must have a row of 'columns' entries for "
                  "each sequence");
    }
    check(fewstep_kv_pool_page_table(get(), sequences.data(), int64_t(sequences.size()),
                                     table.data(), columns));
  }
  int32_t references(int32_t page) const {
    int32_t count = 0;
    check(fewstep_kv_pool_references(get(), page, &count));
    return count;
  }
  fewstep_kv_pool_stats stats() const {
    fewstep_kv_pool_stats out{};
    out.size = sizeof out;
    check(fewstep_kv_pool_get_stats(get(), &out));
    return out;
  }
  fewstep_kv_pool* get() const noexcept { return owner_.get(); }

 private:
  struct Destroy {
    void operator()(fewstep_kv_pool* p) const noexcept { fewstep_kv_pool_destroy(p); }
  };
  std::unique_ptr<fewstep_kv_pool, Destroy> owner_;
};

}  // namespace fewstep::kv

#endif
