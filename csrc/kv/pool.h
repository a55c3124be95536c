// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "fewstep/kv_pool.h"

namespace fewstep::kv {

// See fewstep/kv_pool.h. Every function either does all or throws before it changes anything.
//
// A published page is a block: its tokens after a parent block, whose number stands for all tokens
// before it. Numbers are never used again, so that a block whose parent was evicted is not found
// under other tokens. A sequence gives up its pages from its end, so that eviction takes children
// before their parents; a child that outlives its parent, as it may when two sequences publish the
// same tokens, is not found any more and evicted in its turn.
class Pool {
 public:
  Pool(int32_t pages, int32_t page_tokens);

  int64_t add(const int32_t* tokens, int64_t n, int64_t* cached);
  void extend(int64_t sequence, int64_t n, int32_t copy[2]);
  void truncate(int64_t sequence, int64_t length);
  int64_t fork(int64_t sequence, int64_t length);
  void publish(int64_t sequence, const int32_t* tokens, int64_t n);
  void free(int64_t sequence);
  int64_t length(int64_t sequence) const;
  void page_table(const int64_t* sequences, int64_t n, int32_t* table, int64_t columns) const;
  void stats(fewstep_kv_pool_stats* out) const;
  int32_t references(int32_t page) const;

 private:
  struct Sequence {
    int64_t length = 0;
    std::vector<int32_t> pages;
  };
  struct Page {
    int32_t references = 0;
    int32_t before = -1, after = -1;  // among the cached pages, from the longest unused on
    uint64_t block = 0;               // 0: not published
    uint64_t parent = 0;              // 0: the block begins a sequence
    uint64_t hash = 0;
    std::vector<int32_t> tokens;
  };

  Sequence& find(const char* function, int64_t sequence);
  const Sequence& find(const char* function, int64_t sequence) const;
  int64_t pages_for(int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }
  int32_t available() const { return int32_t(free_.size()) + cached_; }
  uint64_t hash_of(uint64_t parent, const int32_t* tokens) const;
  // The page of a block; -1 when there is none.
  int32_t look_up(uint64_t parent, const int32_t* tokens) const;
  int32_t take();  // a page with one reference; requires available() > 0
  void share(int32_t page);
  void release(int32_t page);
  void unpublish(int32_t page);
  void link(int32_t page);
  void unlink(int32_t page);
  void drop_pages(Sequence& s, int64_t keep);

  int64_t page_tokens_;
  std::vector<Page> pages_;
  std::vector<int32_t> free_;  // has room for all pages: pushing never throws
  std::unordered_multimap<uint64_t, int32_t> blocks_;  // pages by hash
  std::unordered_map<int64_t, Sequence> sequences_;
  int32_t oldest_ = -1, newest_ = -1, cached_ = 0;
  int64_t next_sequence_ = 1;
  uint64_t next_block_ = 1;
  int64_t looked_up_ = 0, found_ = 0, copies_ = 0, evictions_ = 0;
};

}  // namespace fewstep::kv
