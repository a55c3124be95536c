// SPDX-License-Identifier: Apache-2.0
#ifndef FEWSTEP_DRAFT_HPP_
#define FEWSTEP_DRAFT_HPP_

// The C++20 face of draft.h.

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "draft.h"
#include "fewstep.hpp"

namespace fewstep::draft {

// A draft tree: token[i] and parent[i] < i of each node; node 0 is the context's last token.
struct Tree {
  std::vector<int32_t> token, parent;
};

namespace detail {

template <class Propose>
Tree tree_of(int32_t max_nodes, Propose&& propose) {
  const size_t room = max_nodes > 0 ? size_t(max_nodes) : 1;
  Tree tree{std::vector<int32_t>(room), std::vector<int32_t>(room)};
  int32_t nodes = 0;
  check(propose(tree.token.data(), tree.parent.data(), max_nodes, &nodes));
  tree.token.resize(size_t(nodes));
  tree.parent.resize(size_t(nodes));
  return tree;
}

}  // namespace detail

// Looks up how an end of text went on before.
class Ngram {
 public:
  explicit Ngram(int32_t n_min = 1, int32_t n_max = 3) {
    fewstep_ngram* made = nullptr;
    check(fewstep_ngram_create(n_min, n_max, &made));
    owner_.reset(made);
  }
  void append(std::span<const int32_t> tokens) {
    check(fewstep_ngram_append(owner_.get(), tokens.data(), int64_t(tokens.size())));
  }
  int64_t size() const { return fewstep_ngram_size(owner_.get()); }
  // From the text's own end.
  Tree propose(int32_t max_tokens = 10, int32_t branches = 1, int32_t max_nodes = 64) const {
    return propose_after(nullptr, 0, max_tokens, branches, max_nodes);
  }
  // From another text's end.
  Tree propose(std::span<const int32_t> context, int32_t max_tokens, int32_t branches,
               int32_t max_nodes) const {
    const int32_t nothing = 0;
    return propose_after(context.empty() ? &nothing : context.data(), int64_t(context.size()),
                         max_tokens, branches, max_nodes);
  }

 private:
  Tree propose_after(const int32_t* context, int64_t count, int32_t max_tokens, int32_t branches,
                     int32_t max_nodes) const {
    const fewstep_ngram_propose_params params = {sizeof params, max_tokens, branches};
    return detail::tree_of(max_nodes, [&](auto... out) {
      return fewstep_ngram_propose(owner_.get(), context, count, &params, out...);
    });
  }
  struct Destroy {
    void operator()(fewstep_ngram* ngram) const { fewstep_ngram_destroy(ngram); }
  };
  std::unique_ptr<fewstep_ngram, Destroy> owner_;
};

inline fewstep_trigram_propose_params trigram_params() {
  return FEWSTEP_TRIGRAM_PROPOSE_PARAMS_INIT;
}

// Counts what followed two tokens; drafts by search.
class Trigram {
 public:
  Trigram() {
    fewstep_trigram* made = nullptr;
    check(fewstep_trigram_create(&made));
    owner_.reset(made);
  }
  void observe(std::span<const int32_t> tokens) {
    check(fewstep_trigram_observe(owner_.get(), tokens.data(), int64_t(tokens.size())));
  }
  int64_t count(int32_t first, int32_t second, int32_t third) const {
    return fewstep_trigram_count(owner_.get(), first, second, third);
  }
  int64_t states() const { return fewstep_trigram_states(owner_.get()); }
  Tree propose(std::span<const int32_t> context, int32_t max_nodes = 64,
               const fewstep_trigram_propose_params& params = trigram_params()) const {
    return detail::tree_of(max_nodes, [&](auto... out) {
      return fewstep_trigram_propose(owner_.get(), context.data(), int64_t(context.size()), &params,
                                     out...);
    });
  }

 private:
  struct Destroy {
    void operator()(fewstep_trigram* trigram) const { fewstep_trigram_destroy(trigram); }
  };
  std::unique_ptr<fewstep_trigram, Destroy> owner_;
};

// A draft tree with each node's chance to be accepted.
struct ScoredTree : Tree {
  std::vector<float> score;
};

namespace detail {

template <class Propose>
ScoredTree scored_tree_of(int32_t max_nodes, Propose&& propose) {
  std::vector<float> score(max_nodes > 0 ? size_t(max_nodes) : 1);
  Tree tree = tree_of(max_nodes, [&](int32_t* token, int32_t* parent, auto... size) {
    return propose(token, parent, score.data(), size...);
  });
  score.resize(tree.token.size());
  return {std::move(tree), std::move(score)};
}

}  // namespace detail

inline fewstep_recycler_propose_params recycler_params() {
  return FEWSTEP_RECYCLER_PROPOSE_PARAMS_INIT;
}

// Keeps what a model held likely after contexts of up to `order` tokens; drafts best first.
class Recycler {
 public:
  explicit Recycler(int32_t order = 2, int32_t width = 8, int64_t capacity = 65536) {
    fewstep_recycler* made = nullptr;
    check(fewstep_recycler_create(order, width, capacity, &made));
    owner_.reset(made);
  }
  void read(std::span<const int32_t> tokens) {
    check(fewstep_recycler_read(owner_.get(), tokens.data(), int64_t(tokens.size())));
  }
  void observe(const fewstep_recycler_rows& rows) {
    check(fewstep_recycler_observe(owner_.get(), &rows));
  }
  int64_t contexts() const { return fewstep_recycler_contexts(owner_.get()); }
  ScoredTree propose(std::span<const int32_t> context, int32_t max_nodes = 32,
                     const fewstep_recycler_propose_params& params = recycler_params()) {
    return detail::scored_tree_of(max_nodes, [&](auto... out) {
      return fewstep_recycler_propose(owner_.get(), context.data(), int64_t(context.size()),
                                      &params, out...);
    });
  }
  fewstep_recycler* get() const { return owner_.get(); }

 private:
  struct Destroy {
    void operator()(fewstep_recycler* recycler) const { fewstep_recycler_destroy(recycler); }
  };
  std::unique_ptr<fewstep_recycler, Destroy> owner_;
};

// Grows trees by a recycler, which has to live longer, and where that does not know how the text
// goes on, by what a draft model answers.
class Cascade {
 public:
  explicit Cascade(const Recycler& recycler, int32_t room = 128) {
    fewstep_cascade* made = nullptr;
    check(fewstep_cascade_create(recycler.get(), room, &made));
    owner_.reset(made);
  }
  void begin(std::span<const int32_t> context,
             const fewstep_recycler_propose_params& params = recycler_params()) {
    check(fewstep_cascade_begin(owner_.get(), context.data(), int64_t(context.size()), &params));
  }
  // What to run; valid until the next call.
  fewstep_cascade_question ask(int32_t most = 2, float least = 0.05f) {
    fewstep_cascade_question question = FEWSTEP_CASCADE_QUESTION_INIT;
    check(fewstep_cascade_ask(owner_.get(), most, least, &question));
    return question;
  }
  // What the model held likely after a node that was asked; returns the accepted tokens to expect.
  float answer(int32_t node, std::span<const int32_t> ids, std::span<const float> logp) {
    float gained = 0.0f;
    const auto width = int32_t(ids.size() < logp.size() ? ids.size() : logp.size());
    check(fewstep_cascade_answer(owner_.get(), node, ids.data(), logp.data(), width, &gained));
    return gained;
  }
  ScoredTree take(int32_t max_nodes = 32) {
    return detail::scored_tree_of(
        max_nodes, [&](auto... out) { return fewstep_cascade_take(owner_.get(), out...); });
  }

 private:
  struct Destroy {
    void operator()(fewstep_cascade* cascade) const { fewstep_cascade_destroy(cascade); }
  };
  std::unique_ptr<fewstep_cascade, Destroy> owner_;
};

}  // namespace fewstep::draft

#endif
