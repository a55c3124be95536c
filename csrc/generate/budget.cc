// SPDX-License-Identifier: Apache-2.0
#include "fewstep/budget.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/arguments.h"
#include "generate/call_cost.h"

namespace fewstep::generate {
namespace {

constexpr int64_t kStart = 3;     // nodes, or one of each draft, while nothing is known of them
constexpr int32_t kSure = 3;      // calls of a size that tell what it takes
constexpr int64_t kExplore = 16;  // every so many calls more is verified than pays
constexpr double kDearer = 1.5;   // what a call that explores may take more than the best one
constexpr double kFade = 0.99;    // of a count after one more call
constexpr double kDoubt = 8.0;    // how much less counts count after a pause
constexpr double kMost = 1e100;   // of the unit of such counts
// Of a node that was never verified: the share of its parent's chance, and trials.
constexpr double kPriorShare = 0.5, kPriorTrials = 1.0;
constexpr size_t kRecent = 8;  // drafts whose seconds count
constexpr int64_t kEvery = 8;  // calls after which the chances of a tree are counted again
// How far an error in scores moves their power: at first, and at last.
constexpr double kTrust = 0.2, kWary = 0.02;
constexpr double kLeastPower = 0.25, kMostPower = 8.0;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int32_t kDense = 1024;  // numbers that are counted in a row

// What drafts' nodes of a number brought.
struct Count {
  double hits = 0.0, trials = 0.0;
};

// The chances of a draft's nodes, infinity for the root's.
struct Ranked {
  std::vector<int32_t> parent;
  std::vector<double> chance;
  int64_t calls = 0;  // when they were counted
};

using Drafts = std::span<const fewstep_budget_draft>;

}  // namespace

class Budget {
 public:
  int32_t cut(CallCost& cost, Drafts drafts, const fewstep_budget_cut_params& params);
  void learn(Drafts drafts, int32_t batch, double* tokens, double* seconds);
  void doubt() {
    unit_ *= kDoubt;
    power_ = 1.0;
    scored_ = 0;
  }

 private:
  Count& count_of(int32_t number) {
    if (number < 0 || number >= kDense) return others_[number];
    if (dense_.size() <= size_t(number)) dense_.resize(size_t(number) + 1);
    return dense_[size_t(number)];
  }
  void rank(const fewstep_budget_draft& draft, std::vector<double>* chance);
  void find_chances(const fewstep_budget_draft& draft, std::vector<double>* chance);
  int64_t wanted(CallCost& cost, const fewstep_budget_cut_params& params, double drafting);
  void mark(Drafts drafts, int64_t wanted);
  void fade();
  double usual_drafting(double seconds);

  std::vector<Count> dense_;
  std::unordered_map<int32_t, Count> others_;
  double unit_ = 1.0;  // of counts: it grows from call to call where they would fade
  Ranked known_;       // of the last tree that was counted
  int64_t calls_ = 0;
  std::vector<double> drafting_;  // seconds, of drafts of late, in a ring
  size_t next_drafting_ = 0;
  double power_ = 1.0;                             // of scores
  int64_t scored_ = 0;                             // the calls that it comes from
  double expected_ = 0.0;                          // nodes that the last call was to accept
  double best_tokens_ = 0.0, best_seconds_ = 0.0;  // of the last call as it would pay the most
  std::vector<std::vector<double>> chances_;       // of the drafts of a call
  std::vector<double> every_;                      // of their nodes but roots, most likely first
};

// Some drafts take long, such as the first ones of a text, which is to be read for them.
double Budget::usual_drafting(double seconds) {
  if (drafting_.size() < kRecent) {
    drafting_.push_back(seconds);
  } else {
    drafting_[next_drafting_] = seconds;
    next_drafting_ = (next_drafting_ + 1) % kRecent;
  }
  std::vector<double> sorted = drafting_;
  std::sort(sorted.begin(), sorted.end());
  return sorted[(sorted.size() - 1) / 2];
}

void Budget::find_chances(const fewstep_budget_draft& draft, std::vector<double>* chance) {
  const auto nodes = size_t(draft.nodes);
  chance->resize(nodes);
  double* c = chance->data();
  c[0] = draft.score ? kInfinity : 1.0;
  const double prior = kPriorShare * kPriorTrials * unit_, trials = kPriorTrials * unit_;
  for (size_t i = 1; i < nodes; ++i) {
    const double up = c[draft.parent[i]];
    double own = 0.0;
    if (!draft.score) {
      const Count& count = count_of(draft.index ? draft.index[i] : int32_t(i));
      own = (count.hits + prior * up) / (count.trials + trials);
    } else if (draft.score[i] > 0.0f) {
      own = std::pow(std::min(double(draft.score[i]), 1.0), power_);
    }
    c[i] = std::min(up, own);
  }
  c[0] = kInfinity;
}

// Chances are counted again now and then only.
void Budget::rank(const fewstep_budget_draft& draft, std::vector<double>* chance) {
  if (draft.score || draft.index) return find_chances(draft, chance);
  const std::span parent(draft.parent, size_t(draft.nodes));
  if (!std::ranges::equal(known_.parent, parent) || calls_ >= known_.calls + kEvery) {
    find_chances(draft, &known_.chance);
    known_.parent.assign(parent.begin(), parent.end());
    known_.calls = calls_;
  }
  *chance = known_.chance;
}

int32_t Budget::cut(CallCost& cost, Drafts drafts, const fewstep_budget_cut_params& params) {
  expected_ = best_tokens_ = best_seconds_ = 0.0;
  if (drafts.empty()) return 0;
  const double drafting = usual_drafting(params.drafting);
  if (params.trial) known_ = {};
  chances_.resize(drafts.size());
  every_.clear();
  for (size_t d = 0; d < drafts.size(); ++d) {
    rank(drafts[d], &chances_[d]);
    every_.insert(every_.end(), chances_[d].begin() + 1, chances_[d].end());
  }
  std::sort(every_.begin(), every_.end(), std::greater<>());
  ++calls_;
  const int64_t count = wanted(cost, params, drafting);
  for (int64_t i = 0; i < count; ++i) expected_ += every_[size_t(i)];
  mark(drafts, count);
  return int32_t(count);
}

// How many nodes to verify beside the rows that are run in any case.
int64_t Budget::wanted(CallCost& cost, const fewstep_budget_cut_params& params, double drafting) {
  const auto all = int64_t(every_.size());
  const int64_t start = std::min(all, std::max<int64_t>(kStart, params.batch));
  const std::vector<double>& curve = cost.curve(int32_t(params.rows + all));
  const auto measured = [&] { return cost.count(int32_t(params.rows + start)); };
  // One size without drafts, to know what rows cost.
  if (curve.empty()) return measured() ? 0 : start;
  const auto seconds_of = [&](int64_t nodes) {
    return curve[size_t(params.rows + nodes)] + drafting;
  };
  int64_t best = 0;
  double tokens = params.batch;
  best_tokens_ = tokens;
  best_seconds_ = seconds_of(0);
  double rate = tokens / best_seconds_;
  for (int64_t n = 1; n <= all; ++n) {
    const double seconds = seconds_of(n), chance = every_[size_t(n - 1)];
    if (tokens + chance * double(all + 1 - n) < rate * seconds) {
      break;  // not even if the others cost nothing
    }
    tokens += chance;
    if (tokens > rate * seconds) {
      best = n;
      rate = tokens / seconds;
      best_tokens_ = tokens;
      best_seconds_ = seconds;
    }
  }
  // `more` or as many nodes as the best number at least, in little more of its time.
  const auto affordable = [&](int64_t more) {
    const double limit = kDearer * seconds_of(best);
    while (more > best && seconds_of(more) > limit) --more;
    return std::max(more, best);
  };
  if (params.trial) {  // what is not verified shows nothing, and one call may have been a slow one
    return measured() < kSure ? std::max(start, best) : affordable(start);
  }
  const int64_t turn = calls_ / kExplore;
  if (calls_ % kExplore) return best;
  if (turn % 4 == 2) return 0;
  return affordable(turn % 4 == 0 ? all : std::min(all, 2 * best + 2 * params.batch));
}

// Of equal ones those that come first stay: a parent comes before its children.
void Budget::mark(Drafts drafts, int64_t wanted) {
  const double least = wanted ? every_[size_t(wanted - 1)] : kInfinity;
  auto some = std::count(every_.begin(), every_.begin() + wanted, least);
  for (size_t d = 0; d < drafts.size(); ++d) {
    drafts[d].kept[0] = 1;
    for (size_t i = 1; i < chances_[d].size(); ++i) {
      const double chance = chances_[d][i];
      const bool stays = chance > least || (chance == least && some > 0);
      if (chance == least && stays) --some;
      drafts[d].kept[i] = stays ? 1 : 0;
    }
  }
}

// All counts fade: nodes that are left out come to stand at the prior and are tried again.
void Budget::fade() {
  unit_ /= kFade;
  if (unit_ <= kMost) return;
  const auto scale = [this](Count& count) {
    count.hits /= unit_;
    count.trials /= unit_;
  };
  for (Count& count : dense_) scale(count);
  for (auto& [number, count] : others_) scale(count);
  unit_ = 1.0;
}

void Budget::learn(Drafts drafts, int32_t batch, double* tokens, double* seconds) {
  fade();
  bool scored = false;
  double accepted = 0.0;
  for (const fewstep_budget_draft& draft : drafts) {
    accepted += draft.accepted;
    scored = scored || draft.score;
    if (draft.score) continue;
    const auto number = [&](int32_t node) { return draft.index ? draft.index[node] : node; };
    for (int32_t i = 0; i < draft.nodes; ++i) count_of(number(i)).trials += unit_;
    for (int32_t i = 0; i < draft.accepted; ++i) count_of(number(draft.path[i])).hits += unit_;
  }
  if (scored) {
    const double error = (expected_ - accepted) / (expected_ + batch);
    ++scored_;
    const double step = std::max(kWary, kTrust / (1.0 + double(scored_) / 8.0));
    power_ = std::clamp(power_ * std::exp(step * error), kLeastPower, kMostPower);
  }
  *tokens = best_tokens_;
  *seconds = best_seconds_;
}

}  // namespace fewstep::generate

struct fewstep_budget {
  fewstep::generate::Budget counted;
};

using namespace fewstep;
using namespace fewstep::generate;

namespace {

// Checks drafts, and that there are kept flags to write or accepted nodes.
Drafts checked(const char* function, const fewstep_budget_draft* drafts, int32_t count,
               bool writes) {
  at_least(function, "count", 0, count);
  if (count > 0) not_null(function, "drafts", drafts);
  for (const fewstep_budget_draft& draft : Drafts(drafts, size_t(count))) {
    sized(function, "drafts", sizeof draft, "FEWSTEP_BUDGET_DRAFT_INIT", draft.size);
    at_least(function, "nodes", 1, draft.nodes);
    not_null(function, "parent", draft.parent);
    for (int32_t i = 0; i < draft.nodes; ++i) {
      within(function, "parent", i ? 0 : -1, i - 1, draft.parent[i]);
    }
    if (writes) {
      not_null(function, "kept", draft.kept);
      continue;
    }
    at_least(function, "accepted", 0, draft.accepted);
    if (draft.accepted > 0) not_null(function, "path", draft.path);
    for (int32_t i = 0; i < draft.accepted; ++i) {
      within(function, "path", 0, draft.nodes - 1, draft.path[i]);
    }
  }
  return {drafts, size_t(count)};
}

}  // namespace

extern "C" {

fewstep_status fewstep_budget_create(fewstep_budget** out) {
  return guard([&] {
    not_null("fewstep_budget_create", "out", out);
    *out = new fewstep_budget;
  });
}

void fewstep_budget_destroy(fewstep_budget* budget) { delete budget; }

fewstep_status fewstep_budget_cut(fewstep_budget* budget, fewstep_call_cost* cost,
                                  const fewstep_budget_draft* drafts, int32_t count,
                                  const fewstep_budget_cut_params* params, int32_t* wanted) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_budget_cut";
    not_null(kFunction, "budget", budget);
    not_null(kFunction, "cost", cost);
    const Drafts given = checked(kFunction, drafts, count, true);
    not_null(kFunction, "params", params);
    sized(kFunction, "params", sizeof *params, "FEWSTEP_BUDGET_CUT_PARAMS_INIT", params->size);
    at_least(kFunction, "batch", 1, params->batch);
    int64_t most = kMostRows;
    for (const fewstep_budget_draft& draft : given) most -= draft.nodes;
    within(kFunction, "rows", 1, most, params->rows);
    not_null(kFunction, "wanted", wanted);
    *wanted = budget->counted.cut(cost->measured, given, *params);
  });
}

fewstep_status fewstep_budget_learn(fewstep_budget* budget, const fewstep_budget_draft* drafts,
                                    int32_t count, int32_t batch, double* tokens, double* seconds) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_budget_learn";
    not_null(kFunction, "budget", budget);
    const Drafts given = checked(kFunction, drafts, count, false);
    at_least(kFunction, "batch", 1, batch);
    not_null(kFunction, "tokens", tokens);
    not_null(kFunction, "seconds", seconds);
    budget->counted.learn(given, batch, tokens, seconds);
  });
}

fewstep_status fewstep_budget_doubt(fewstep_budget* budget) {
  return guard([&] {
    not_null("fewstep_budget_doubt", "budget", budget);
    budget->counted.doubt();
  });
}

}  // extern "C"
