// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "draft/proposal.h"
#include "fewstep/draft.h"

// The text, and for each position the previous one that ends the same n_min tokens. A longer n-gram
// ends in one of n_min tokens, so walking that chain finds the matches of every length.
struct fewstep_ngram {
  int32_t n_min, n_max;
  std::vector<int32_t> tokens;
  std::vector<int64_t> previous;               // -1 at the end of a chain
  std::unordered_map<uint64_t, int64_t> last;  // hash of n_min tokens: where they end last
};

namespace fewstep::draft {
namespace {

constexpr int32_t kMaxN = 64;

// FNV-1a over the tokens' words. Different n-grams may share a chain: matches are compared.
uint64_t hash_of(const int32_t* tokens, int32_t n) {
  uint64_t h = 0xcbf29ce484222325u;
  for (int32_t i = 0; i < n; ++i) h = (h ^ uint32_t(tokens[i])) * 0x100000001b3u;
  return h;
}

struct Match {
  int64_t end;  // index of the last token of the match in the text
  int32_t length;
};

// How many tokens before and at `end` of the text agree with the context's last ones, at most
// n_max.
int32_t agreement(const fewstep_ngram& g, int64_t end, std::span<const int32_t> context) {
  const int64_t most = std::min({int64_t(g.n_max), end + 1, int64_t(context.size())});
  int32_t n = 0;
  while (n < most && g.tokens[size_t(end - n)] == context[context.size() - 1 - size_t(n)]) ++n;
  return n;
}

// The longest first, the most recent first among equals.
std::vector<Match> matches(const fewstep_ngram& g, std::span<const int32_t> context) {
  std::vector<Match> found;
  if (int64_t(context.size()) < g.n_min) return found;
  const auto at = g.last.find(hash_of(context.data() + context.size() - g.n_min, g.n_min));
  if (at == g.last.end()) return found;
  const int64_t stop = int64_t(g.tokens.size()) - 1;  // what ends the text has no continuation
  for (int64_t end = at->second; end >= 0; end = g.previous[size_t(end)]) {
    if (end == stop) continue;
    const int32_t length = agreement(g, end, context);
    if (length >= g.n_min) found.push_back({end, length});
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Match& a, const Match& b) { return a.length > b.length; });
  return found;
}

// Adds one continuation; returns whether it had a node that was not there yet.
bool add_branch(const fewstep_ngram& g, int64_t end, int32_t max_tokens, bool own, Proposal* tree) {
  const int64_t size = int64_t(g.tokens.size()), period = size - 1 - end;
  int32_t node = 0;
  bool grew = false;
  for (int32_t i = 0; i < max_tokens; ++i) {
    int64_t at = end + 1 + i;
    if (at >= size) {
      if (!own) break;
      at = end + 1 + i % period;
    }
    const int32_t token = g.tokens[size_t(at)];
    int32_t next = tree->child(node, token);
    if (next < 0) {
      next = tree->add(token, node);
      if (next < 0) break;
      grew = true;
    }
    node = next;
  }
  return grew;
}

}  // namespace
}  // namespace fewstep::draft

using namespace fewstep;
using namespace fewstep::draft;

extern "C" {

fewstep_status fewstep_ngram_create(int32_t n_min, int32_t n_max, fewstep_ngram** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_ngram_create";
    not_null(kFunction, "out", out);
    at_least(kFunction, "n_min", 1, n_min);
    if (n_max < n_min || n_max > kMaxN) {
      throw Error(FEWSTEP_INVALID_ARGUMENT, format("%s: 'n_max' must lie in [n_min=%d, %d], got %d",
                                                   kFunction, int(n_min), int(kMaxN), int(n_max)));
    }
    *out = new fewstep_ngram{n_min, n_max, {}, {}, {}};
  });
}

void fewstep_ngram_destroy(fewstep_ngram* ngram) { delete ngram; }

int64_t fewstep_ngram_size(const fewstep_ngram* ngram) {
  return ngram ? int64_t(ngram->tokens.size()) : 0;
}

fewstep_status fewstep_ngram_append(fewstep_ngram* ngram, const int32_t* tokens, int64_t count) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_ngram_append";
    not_null(kFunction, "ngram", ngram);
    const auto given = tokens_of(kFunction, "tokens", tokens, count);
    fewstep_ngram& g = *ngram;
    for (const int32_t token : given) {
      g.previous.push_back(-1);
      g.tokens.push_back(token);
      const int64_t end = int64_t(g.tokens.size()) - 1;
      if (end + 1 < g.n_min) continue;
      int64_t& last = g.last.try_emplace(hash_of(&g.tokens[size_t(end + 1 - g.n_min)], g.n_min), -1)
                          .first->second;
      g.previous.back() = last;
      last = end;
    }
  });
}

fewstep_status fewstep_ngram_propose(const fewstep_ngram* ngram, const int32_t* context,
                                     int64_t count, const fewstep_ngram_propose_params* params,
                                     int32_t* token, int32_t* parent, int32_t capacity,
                                     int32_t* nodes) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_ngram_propose";
    not_null(kFunction, "ngram", ngram);
    not_null(kFunction, "params", params);
    at_least(kFunction, "max_tokens", 1, params->max_tokens);
    at_least(kFunction, "branches", 1, params->branches);
    Proposal tree = proposal_of(kFunction, token, parent, capacity, nodes);
    const bool own = context == nullptr;
    std::span<const int32_t> end(ngram->tokens);
    if (!own) end = tokens_of(kFunction, "context", context, count);
    if (!end.empty()) tree.add(end.back(), -1);
    int32_t branches = 0;
    if (!end.empty()) {
      for (const Match& match : matches(*ngram, end)) {
        if (add_branch(*ngram, match.end, params->max_tokens, own, &tree)) ++branches;
        if (branches == params->branches || tree.is_full()) break;
      }
    }
    *nodes = tree.size();
  });
}

}  // extern "C"
