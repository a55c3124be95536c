// SPDX-License-Identifier: Apache-2.0
#ifndef FEWSTEP_BUDGET_HPP_
#define FEWSTEP_BUDGET_HPP_

// The C++20 face of budget.h.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "budget.h"
#include "fewstep.hpp"

namespace fewstep::draft {

// What a call of a model takes, by its rows. Moves, and is not copied.
class CallCost {
 public:
  CallCost() {
    fewstep_call_cost* made = nullptr;
    check(fewstep_call_cost_create(&made));
    owner_.reset(made);
  }
  void add(int32_t rows, double seconds) { check(fewstep_call_cost_add(get(), rows, seconds)); }
  int32_t count(int32_t rows) const { return fewstep_call_cost_count(get(), rows); }
  // The seconds of 0, 1, .. `most` rows; empty where fewer than two sizes were measured.
  std::vector<double> curve(int32_t most) {
    std::vector<double> seconds(most > 0 ? size_t(most) + 1 : 1);
    int32_t known = 0;
    check(fewstep_call_cost_curve(get(), most, seconds.data(), &known));
    if (!known) seconds.clear();
    return seconds;
  }
  fewstep_call_cost* get() const noexcept { return owner_.get(); }

 private:
  struct Destroy {
    void operator()(fewstep_call_cost* cost) const noexcept { fewstep_call_cost_destroy(cost); }
  };
  std::unique_ptr<fewstep_call_cost, Destroy> owner_;
};

// A draft of which nodes may be left out. It refers to what it is made of; score and index may be
// empty, and path is read by Budget::learn alone.
struct Nodes {
  std::span<const int32_t> parent;
  std::span<const float> score = {};
  std::span<const int32_t> index = {};
  std::span<const int32_t> path = {};
};

inline fewstep_budget_cut_params cut_params() { return FEWSTEP_BUDGET_CUT_PARAMS_INIT; }

// How many nodes of drafts are worth verifying. Moves, and is not copied.
class Budget {
 public:
  struct Cut {
    std::vector<std::vector<uint8_t>> kept;  // 1 for each draft's nodes to verify
    int32_t wanted;                          // their number, roots not counted
  };
  // What a call with as many nodes as pay the most would have brought and taken; 0 for unknown.
  struct Best {
    double tokens, seconds;
  };

  Budget() {
    fewstep_budget* made = nullptr;
    check(fewstep_budget_create(&made));
    owner_.reset(made);
  }
  Cut cut(CallCost& cost, std::span<const Nodes> drafts,
          const fewstep_budget_cut_params& params = cut_params()) {
    std::vector<fewstep_budget_draft> given = given_of(drafts);
    Cut out{{}, 0};
    out.kept.reserve(drafts.size());
    for (fewstep_budget_draft& draft : given) {
      draft.kept = out.kept.emplace_back(size_t(draft.nodes)).data();
    }
    check(fewstep_budget_cut(get(), cost.get(), given.data(), int32_t(given.size()), &params,
                             &out.wanted));
    return out;
  }
  Best learn(std::span<const Nodes> drafts, int32_t batch) {
    const std::vector<fewstep_budget_draft> given = given_of(drafts);
    Best best{};
    check(fewstep_budget_learn(get(), given.data(), int32_t(given.size()), batch, &best.tokens,
                               &best.seconds));
    return best;
  }
  void doubt() { check(fewstep_budget_doubt(get())); }
  fewstep_budget* get() const noexcept { return owner_.get(); }

 private:
  // Their arrays have a number of each node, or none.
  static std::vector<fewstep_budget_draft> given_of(std::span<const Nodes> drafts) {
    std::vector<fewstep_budget_draft> given;
    given.reserve(drafts.size());
    for (const Nodes& draft : drafts) {
      const size_t nodes = draft.parent.size();
      given.push_back({sizeof(fewstep_budget_draft), int32_t(nodes), draft.parent.data(),
                       numbers("score", draft.score, nodes), numbers("index", draft.index, nodes),
                       nullptr, draft.path.data(), int32_t(draft.path.size())});
    }
    return given;
  }
  template <class T>
  static const T* numbers(const char* name, std::span<const T> values, size_t nodes) {
    if (values.empty()) return nullptr;
    if (values.size() == nodes) return values.data();
    const std::string message = std::string("fewstep::draft::Nodes: '") + name +
                                "' must have a number of each of " + std::to_string(nodes) +
                                " nodes, got " + std::to_string(values.size());
    throw error(FEWSTEP_INVALID_ARGUMENT, message.c_str());
  }
  struct Destroy {
    void operator()(fewstep_budget* budget) const noexcept { fewstep_budget_destroy(budget); }
  };
  std::unique_ptr<fewstep_budget, Destroy> owner_;
};

}  // namespace fewstep::draft

#endif
