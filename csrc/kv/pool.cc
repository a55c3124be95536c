// SPDX-License-Identifier: Apache-2.0
#include "kv/pool.h"

#include <algorithm>
#include <string>

#include "core/status.h"

namespace fewstep::kv {
namespace {

[[noreturn]] void fail(const char* function, const char* name, const std::string& must,
                       const std::string& got, fewstep_status status = FEWSTEP_INVALID_ARGUMENT) {
  throw Error(status, std::string("fewstep_kv_pool_") + function + ": '" + name + "' must " + must +
                          ", got " + got);
}

void check_count(const char* function, const char* name, int64_t value) {
  if (value < 0) fail(function, name, "be 0 or more", std::to_string(value));
}

}  // namespace

Pool::Pool(int32_t pages, int32_t page_tokens) : page_tokens_(page_tokens) {
  if (pages < 1) fail("create", "pages", "be 1 or more", std::to_string(pages));
  if (page_tokens < 1) fail("create", "page_tokens", "be 1 or more", std::to_string(page_tokens));
  pages_.resize(size_t(pages));
  free_.reserve(size_t(pages));
  for (int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);
}

Pool::Sequence& Pool::find(const char* function, int64_t sequence) {
  return const_cast<Sequence&>(static_cast<const Pool*>(this)->find(function, sequence));
}

const Pool::Sequence& Pool::find(const char* function, int64_t sequence) const {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) {
    fail(function, "sequence", "be one of the pool that was not freed", std::to_string(sequence));
  }
  return found->second;
}

// FNV-1a by words, mixed at the end as in SplitMix64; equality is what decides.
uint64_t Pool::hash_of(uint64_t parent, const int32_t* tokens) const {
  uint64_t h = 0xcbf29ce484222325u ^ parent;
  for (int64_t i = 0; i < page_tokens_; ++i) h = (h ^ uint32_t(tokens[i])) * 0x100000001b3u;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  return h ^ (h >> 27);
}

int32_t Pool::look_up(uint64_t parent, const int32_t* tokens) const {
  const auto [begin, end] = blocks_.equal_range(hash_of(parent, tokens));
  for (auto entry = begin; entry != end; ++entry) {
    const Page& page = pages_[size_t(entry->second)];
    if (page.parent == parent && std::equal(page.tokens.begin(), page.tokens.end(), tokens)) {
      return entry->second;
    }
  }
  return -1;
}

void Pool::link(int32_t page) {
  Page& p = pages_[size_t(page)];
  p.before = newest_;
  p.after = -1;
  (newest_ < 0 ? oldest_ : pages_[size_t(newest_)].after) = page;
  newest_ = page;
  ++cached_;
}

void Pool::unlink(int32_t page) {
  const Page& p = pages_[size_t(page)];
  (p.before < 0 ? oldest_ : pages_[size_t(p.before)].after) = p.after;
  (p.after < 0 ? newest_ : pages_[size_t(p.after)].before) = p.before;
  --cached_;
}

void Pool::unpublish(int32_t page) {
  Page& p = pages_[size_t(page)];
  const auto [begin, end] = blocks_.equal_range(p.hash);
  blocks_.erase(std::find_if(begin, end, [&](const auto& entry) { return entry.second == page; }));
  p.block = 0;
  p.tokens.clear();
}

int32_t Pool::take() {
  int32_t page;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
  } else {
    page = oldest_;
    unlink(page);
    unpublish(page);
    ++evictions_;
  }
  pages_[size_t(page)].references = 1;
  return page;
}

void Pool::share(int32_t page) {
  Page& p = pages_[size_t(page)];
  if (p.references++ == 0) unlink(page);
}

void Pool::release(int32_t page) {
  Page& p = pages_[size_t(page)];
  if (--p.references > 0) return;
  if (p.block) {
    link(page);
  } else {
    free_.push_back(page);
  }
}

void Pool::drop_pages(Sequence& s, int64_t keep) {
  while (int64_t(s.pages.size()) > keep) {
    release(s.pages.back());
    s.pages.pop_back();
  }
}

int64_t Pool::add(const int32_t* tokens, int64_t n, int64_t* cached) {
  check_count("add", "n_tokens", n);
  if (n > 0 && !tokens) fail("add", "tokens", "be given", "NULL");
  Sequence made;
  uint64_t parent = 0;
  for (int64_t i = 0; i + page_tokens_ <= n; i += page_tokens_) {
    const int32_t page = look_up(parent, tokens + i);
    if (page < 0) break;
    made.pages.push_back(page);
    parent = pages_[size_t(page)].block;
  }
  made.length = int64_t(made.pages.size()) * page_tokens_;
  const Sequence& kept = sequences_.emplace(next_sequence_, std::move(made)).first->second;
  for (const int32_t page : kept.pages) share(page);
  looked_up_ += n;
  found_ += kept.length;
  *cached = kept.length;
  return next_sequence_++;
}

void Pool::extend(int64_t sequence, int64_t n, int32_t copy[2]) {
  Sequence& s = find("extend", sequence);
  check_count("extend", "n_tokens", n);
  const int64_t capacity = int64_t(pages_.size()) * page_tokens_;
  const int64_t held = int64_t(s.pages.size());
  const bool writes_last = n > 0 && s.length < held * page_tokens_;
  const bool copies = writes_last && pages_[size_t(s.pages.back())].references > 1;
  // No sequence is longer than the pool: with that the sum cannot overflow.
  const int64_t wanted =
      n > capacity ? int64_t(pages_.size()) + 1 : pages_for(s.length + n) - held + (copies ? 1 : 0);
  if (wanted > available()) {
    fail("extend", "n_tokens",
         "fit in the " + std::to_string(available()) + " pages that are free or cached",
         std::to_string(n), FEWSTEP_OUT_OF_MEMORY);
  }
  s.pages.reserve(size_t(held + wanted));
  copy[0] = copy[1] = -1;
  if (copies) {
    copy[0] = s.pages.back();
    copy[1] = s.pages.back() = take();
    release(copy[0]);
    ++copies_;
  } else if (writes_last && pages_[size_t(s.pages.back())].block) {
    unpublish(s.pages.back());  // its rows are about to change
  }
  while (int64_t(s.pages.size()) < pages_for(s.length + n)) s.pages.push_back(take());
  s.length += n;
}

void Pool::truncate(int64_t sequence, int64_t length) {
  Sequence& s = find("truncate", sequence);
  if (length < 0 || length > s.length) {
    fail("truncate", "length", "lie in [0, " + std::to_string(s.length) + "], the sequence's",
         std::to_string(length));
  }
  drop_pages(s, pages_for(length));
  s.length = length;
}

int64_t Pool::fork(int64_t sequence, int64_t length) {
  const Sequence& s = find("fork", sequence);
  if (length < 0 || length > s.length) {
    fail("fork", "length", "lie in [0, " + std::to_string(s.length) + "], the sequence's",
         std::to_string(length));
  }
  Sequence made;
  made.length = length;
  made.pages.assign(s.pages.begin(), s.pages.begin() + pages_for(length));
  const Sequence& kept = sequences_.emplace(next_sequence_, std::move(made)).first->second;
  for (const int32_t page : kept.pages) share(page);
  return next_sequence_++;
}

void Pool::publish(int64_t sequence, const int32_t* tokens, int64_t n) {
  const Sequence& s = find("publish", sequence);
  if (n < 0 || n > s.length) {
    fail("publish", "n_tokens", "lie in [0, " + std::to_string(s.length) + "], the sequence's",
         std::to_string(n));
  }
  if (n > 0 && !tokens) fail("publish", "tokens", "be given", "NULL");
  const int64_t full = n / page_tokens_;
  for (int64_t i = 0; i < full; ++i) {
    const Page& p = pages_[size_t(s.pages[size_t(i)])];
    const int32_t* own = tokens + i * page_tokens_;
    if (p.block && !std::equal(p.tokens.begin(), p.tokens.end(), own)) {
      fail("publish", "tokens", "repeat what was published of page " + std::to_string(i),
           "other tokens");
    }
  }
  uint64_t parent = 0;
  for (int64_t i = 0; i < full; ++i) {
    const int32_t page = s.pages[size_t(i)];
    const int32_t* own = tokens + i * page_tokens_;
    Page& p = pages_[size_t(page)];
    if (p.block && p.parent != parent) unpublish(page);  // its parent's page was evicted
    if (!p.block) {
      const int32_t other = look_up(parent, own);  // of a sequence with the same beginning
      if (other >= 0) {
        parent = pages_[size_t(other)].block;
        continue;
      }
      p.tokens.assign(own, own + page_tokens_);
      p.hash = hash_of(parent, own);
      blocks_.emplace(p.hash, page);
      p.parent = parent;
      p.block = next_block_++;
    }
    parent = p.block;
  }
}

void Pool::free(int64_t sequence) {
  drop_pages(find("free", sequence), 0);
  sequences_.erase(sequence);
}

int64_t Pool::length(int64_t sequence) const { return find("length", sequence).length; }

void Pool::page_table(const int64_t* sequences, int64_t n, int32_t* table, int64_t columns) const {
  check_count("page_table", "n", n);
  check_count("page_table", "columns", columns);
  if (n > 0 && !sequences) fail("page_table", "sequences", "be given", "NULL");
  if (n > 0 && columns > 0 && !table) fail("page_table", "table", "be given", "NULL");
  for (int64_t i = 0; i < n; ++i) {
    const int64_t held = int64_t(find("page_table", sequences[i]).pages.size());
    if (held > columns) {
      fail("page_table", "columns",
           "be " + std::to_string(held) + " or more, the pages of sequence " +
               std::to_string(sequences[i]),
           std::to_string(columns));
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<int32_t>& pages = find("page_table", sequences[i]).pages;
    std::fill(std::copy(pages.begin(), pages.end(), table + i * columns), table + (i + 1) * columns,
              -1);
  }
}

void Pool::stats(fewstep_kv_pool_stats* out) const {
  out->pages = int32_t(pages_.size());
  out->page_tokens = int32_t(page_tokens_);
  out->free = int32_t(free_.size());
  out->cached = cached_;
  out->used = out->pages - out->free - out->cached;
  out->shared = int32_t(
      std::count_if(pages_.begin(), pages_.end(), [](const Page& p) { return p.references > 1; }));
  out->sequences = int64_t(sequences_.size());
  out->looked_up = looked_up_;
  out->found = found_;
  out->copies = copies_;
  out->evictions = evictions_;
}

int32_t Pool::references(int32_t page) const {
  if (page < 0 || size_t(page) >= pages_.size()) {
    fail("references", "page", "lie in [0, " + std::to_string(pages_.size()) + ")",
         std::to_string(page));
  }
  return pages_[size_t(page)].references;
}

}  // namespace fewstep::kv
