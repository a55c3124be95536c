// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "core/arguments.h"

namespace fewstep::draft {

// The tokens at a C boundary; throws for a count without memory or a negative token.
inline std::span<const int32_t> tokens_of(const char* function, const char* argument,
                                          const int32_t* tokens, int64_t count) {
  at_least(function, "count", 0, count);
  if (count > 0) not_null(function, argument, tokens);
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] >= 0) continue;
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("%s: '%s' must be 0 or more, got %d at %lld", function, argument,
                       int(tokens[i]), static_cast<long long>(i)));
  }
  return {tokens, size_t(count)};
}

// A draft tree in the caller's arrays, node 0 the root. Adding beyond the capacity adds nothing.
class Proposal {
 public:
  Proposal(int32_t* token, int32_t* parent, int32_t capacity)
      : token_(token), parent_(parent), capacity_(capacity) {}

  int32_t size() const { return size_; }
  bool is_full() const { return size_ == capacity_; }

  // The node's index, or -1 where there was no room.
  int32_t add(int32_t token, int32_t parent) {
    if (is_full()) return -1;
    token_[size_] = token;
    parent_[size_] = parent;
    return size_++;
  }
  // The child of a node with this token, or -1.
  int32_t child(int32_t node, int32_t token) const {
    for (int32_t i = node + 1; i < size_; ++i) {
      if (parent_[i] == node && token_[i] == token) return i;
    }
    return -1;
  }

 private:
  int32_t* token_;
  int32_t* parent_;
  int32_t capacity_;
  int32_t size_ = 0;
};

// The arrays of a proposal, checked.
inline Proposal proposal_of(const char* function, int32_t* token, int32_t* parent, int32_t capacity,
                            int32_t* nodes) {
  not_null(function, "token", token);
  not_null(function, "parent", parent);
  not_null(function, "nodes", nodes);
  at_least(function, "capacity", 1, capacity);
  return {token, parent, capacity};
}

}  // namespace fewstep::draft
