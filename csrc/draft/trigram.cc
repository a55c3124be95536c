// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <vector>

#include "draft/proposal.h"
#include "fewstep/draft.h"

namespace fewstep::draft {

struct Successors {
  std::unordered_map<int32_t, int64_t> count;
  int64_t total = 0;
};

uint64_t state_of(int32_t first, int32_t second) {
  return uint64_t(uint32_t(first)) << 32 | uint32_t(second);
}

}  // namespace fewstep::draft

struct fewstep_trigram {
  std::unordered_map<uint64_t, fewstep::draft::Successors> states;
};

namespace fewstep::draft {
namespace {

// A node of the search: a token after two others. Children are made when the node is visited.
struct Node {
  int32_t token, parent;
  double chance;       // of the token after its parent
  double value = 0.0;  // sum over visits of the accepted tokens to expect from here on, this one's
                       // own included
  int64_t visits = 0;
  int32_t first_child = -1, children = 0;  // -1: not made yet
};

class Search {
 public:
  Search(const fewstep_trigram& table, const fewstep_trigram_propose_params& params,
         int32_t before_last, int32_t last)
      : table_(table), params_(params), before_last_(before_last) {
    nodes_.push_back({last, -1, 1.0});
  }

  void run() {
    for (int32_t i = 0; i < params_.iterations; ++i) {
      if (!iterate()) break;  // nothing is known after the context
    }
  }

  // The most visited nodes, a parent before its children: each visit of a child is one of its
  // parent, and a parent was made first.
  void write(Proposal* tree) const {
    std::vector<int32_t> order;
    for (int32_t i = 1; i < int32_t(nodes_.size()); ++i) {
      if (nodes_[size_t(i)].visits > 0) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return nodes_[size_t(a)].visits > nodes_[size_t(b)].visits;
    });
    std::vector<int32_t> place(nodes_.size(), -1);
    place[0] = tree->add(nodes_[0].token, -1);
    for (const int32_t i : order) {
      const Node& node = nodes_[size_t(i)];
      place[size_t(i)] = tree->add(node.token, place[size_t(node.parent)]);
      if (tree->is_full()) break;
    }
  }

 private:
  // One walk from the root to a node that was not visited before or ends the tree, and back.
  bool iterate() {
    path_.assign(1, 0);
    while (int32_t(path_.size()) <= params_.depth) {
      const int32_t at = path_.back();
      if (nodes_[size_t(at)].first_child < 0) expand(at);
      if (nodes_[size_t(at)].children == 0) break;
      const int32_t next = select(at);
      path_.push_back(next);
      if (nodes_[size_t(next)].visits == 0) break;
    }
    if (path_.size() == 1) return false;
    // From the leaf up: a node is worth its chance times one token more than what is below.
    double below = 0.0;
    for (size_t i = path_.size(); i-- > 0;) {
      Node& node = nodes_[size_t(path_[i])];
      below = node.chance * (1.0 + below);
      node.value += below;
      ++node.visits;
    }
    return true;
  }

  // The most frequent successors, ties by token.
  void expand(int32_t at) {
    const int32_t parent = nodes_[size_t(at)].parent;
    const int32_t first = parent < 0 ? before_last_ : nodes_[size_t(parent)].token;
    nodes_[size_t(at)].first_child = int32_t(nodes_.size());
    const auto found = table_.states.find(state_of(first, nodes_[size_t(at)].token));
    if (found == table_.states.end()) return;
    std::vector<std::pair<int64_t, int32_t>> best;
    for (const auto& [token, count] : found->second.count) best.push_back({-count, token});
    const size_t width = std::min(best.size(), size_t(params_.width));
    std::partial_sort(best.begin(), best.begin() + std::ptrdiff_t(width), best.end());
    for (size_t k = 0; k < width; ++k) {
      const double chance = double(-best[k].first) / double(found->second.total);
      nodes_.push_back({best[k].second, at, chance});
    }
    nodes_[size_t(at)].children = int32_t(width);
  }

  int32_t select(int32_t at) const {
    const Node& node = nodes_[size_t(at)];
    // Visits of the node itself: one more than those of its children, so that P counts from the
    // first choice on.
    const double root = std::sqrt(double(node.visits + 1));
    int32_t best = -1;
    double most = 0.0;
    for (int32_t i = node.first_child; i < node.first_child + node.children; ++i) {
      const Node& child = nodes_[size_t(i)];
      const double q = child.visits > 0 ? child.value / double(child.visits) : 0.0;
      const double score = q + params_.exploration * child.chance * root / double(1 + child.visits);
      if (best < 0 || score > most) {
        best = i;
        most = score;
      }
    }
    return best;
  }

  const fewstep_trigram& table_;
  const fewstep_trigram_propose_params& params_;
  const int32_t before_last_;
  std::vector<Node> nodes_;
  std::vector<int32_t> path_;
};

}  // namespace
}  // namespace fewstep::draft

using namespace fewstep;
using namespace fewstep::draft;

extern "C" {

fewstep_status fewstep_trigram_create(fewstep_trigram** out) {
  return guard([&] {
    not_null("fewstep_trigram_create", "out", out);
    *out = new fewstep_trigram{};
  });
}

void fewstep_trigram_destroy(fewstep_trigram* trigram) { delete trigram; }

fewstep_status fewstep_trigram_observe(fewstep_trigram* trigram, const int32_t* tokens,
                                       int64_t count) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_trigram_observe";
    not_null(kFunction, "trigram", trigram);
    const auto given = tokens_of(kFunction, "tokens", tokens, count);
    for (size_t i = 2; i < given.size(); ++i) {
      Successors& after = trigram->states[state_of(given[i - 2], given[i - 1])];
      ++after.count[given[i]];
      ++after.total;
    }
  });
}

int64_t fewstep_trigram_count(const fewstep_trigram* trigram, int32_t first, int32_t second,
                              int32_t third) {
  if (!trigram) return 0;
  const auto state = trigram->states.find(state_of(first, second));
  if (state == trigram->states.end()) return 0;
  const auto found = state->second.count.find(third);
  return found == state->second.count.end() ? 0 : found->second;
}

int64_t fewstep_trigram_states(const fewstep_trigram* trigram) {
  return trigram ? int64_t(trigram->states.size()) : 0;
}

fewstep_status fewstep_trigram_propose(const fewstep_trigram* trigram, const int32_t* context,
                                       int64_t count, const fewstep_trigram_propose_params* params,
                                       int32_t* token, int32_t* parent, int32_t capacity,
                                       int32_t* nodes) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_trigram_propose";
    not_null(kFunction, "trigram", trigram);
    not_null(kFunction, "params", params);
    at_least(kFunction, "depth", 1, params->depth);
    at_least(kFunction, "width", 1, params->width);
    at_least(kFunction, "iterations", 1, params->iterations);
    if (!(params->exploration >= 0.0) || !std::isfinite(params->exploration)) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("%s: 'exploration' must be 0 or more and finite, got %s", kFunction,
                         number(params->exploration).c_str()));
    }
    const auto given = tokens_of(kFunction, "context", context, count);
    Proposal tree = proposal_of(kFunction, token, parent, capacity, nodes);
    if (given.size() >= 2) {
      Search search(*trigram, *params, given[given.size() - 2], given.back());
      search.run();
      search.write(&tree);
    } else if (!given.empty()) {
      tree.add(given.back(), -1);
    }
    *nodes = tree.size();
  });
}

}  // extern "C"
