// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "draft/recycler.h"

namespace fewstep::draft {
namespace {

struct Node {
  int32_t token, parent, depth;
  float score;
  float rest;  // the chance that the text gets here and then goes another way than the children
  Context context;
  bool ran = false, asked = false, answered = false;
};

}  // namespace
}  // namespace fewstep::draft

struct fewstep_cascade {
  fewstep_cascade(fewstep_recycler* known, int32_t most)
      : recycler(*known),
        room(most),
        grown_token(size_t(most)),
        grown_parent(size_t(most)),
        grown_score(size_t(most)),
        place(size_t(most)) {}

  fewstep_recycler& recycler;
  const int32_t room;
  int32_t depth = 0;
  float least = 0.0f;
  std::vector<fewstep::draft::Node> nodes;
  std::vector<int32_t> run, run_token, run_parent, asked;  // of the last question
  // Scratch: a proposal, and where its nodes went or the order of all.
  std::vector<int32_t> grown_token, grown_parent;
  std::vector<float> grown_score;
  std::vector<int32_t> place, order;
};

namespace fewstep::draft {
namespace {

bool is_full(const fewstep_cascade& c) { return c.nodes.size() == size_t(c.room); }

int32_t add(fewstep_cascade& c, int32_t token, int32_t parent, float score) {
  Node& up = c.nodes[size_t(parent)];
  up.rest -= score;
  c.nodes.push_back(
      {token, parent, up.depth + 1, score, score, up.context.then(token, c.recycler.order)});
  return int32_t(c.nodes.size()) - 1;
}

bool has_child(const fewstep_cascade& c, int32_t node, int32_t token) {
  const auto is_it = [&](const Node& one) { return one.parent == node && one.token == token; };
  return std::any_of(c.nodes.begin() + node, c.nodes.end(), is_it);
}

// Adds what the recycler proposes below a node without children; returns the sum of its scores.
float follow(fewstep_cascade& c, int32_t node) {
  const Node& top = c.nodes[size_t(node)];
  const int32_t depth = c.depth - top.depth;
  if (depth < 1 || is_full(c)) return 0.0f;
  const float chance = top.score;
  const float least = chance > 0.0f ? std::min(1.0f, c.least / chance) : 1.0f;
  const int32_t capacity = c.room - int32_t(c.nodes.size()) + 1;  // the node itself comes again
  Proposal tree(c.grown_token.data(), c.grown_parent.data(), std::min(capacity, c.room));
  grow(c.recycler, top.context, depth, least, &tree, c.grown_score.data());
  float sum = 0.0f;
  c.place[0] = node;
  for (size_t i = 1; i < size_t(tree.size()); ++i) {
    const float score = chance * c.grown_score[i];
    c.place[i] = add(c, c.grown_token[i], c.place[size_t(c.grown_parent[i])], score);
    sum += score;
  }
  return sum;
}

// Puts the nodes of c.order that have the greatest of a number first, of equal ones the earlier.
void sort_by(fewstep_cascade& c, float Node::* number) {
  std::stable_sort(c.order.begin(), c.order.end(), [&](int32_t a, int32_t b) {
    return c.nodes[size_t(a)].*number > c.nodes[size_t(b)].*number;
  });
}

// Nodes that may be asked, those of greatest rest first.
void rank_open(fewstep_cascade& c, float least) {
  c.order.clear();
  for (size_t i = 0; i < c.nodes.size(); ++i) {
    const Node& one = c.nodes[i];
    if (!one.asked && one.depth < c.depth && one.rest > least) c.order.push_back(int32_t(i));
  }
  sort_by(c, &Node::rest);
}

float choose(fewstep_cascade& c, size_t most, float least) {
  rank_open(c, least);
  c.order.resize(std::min(c.order.size(), most));
  float chance = 0.0f;
  c.run.clear();
  c.asked.assign(c.order.begin(), c.order.end());
  std::sort(c.asked.begin(), c.asked.end());
  for (const int32_t node : c.asked) {
    chance += c.nodes[size_t(node)].rest;
    c.nodes[size_t(node)].asked = true;
    // Of one that ran as an ancestor nobody has the logits: it runs again.
    if (c.nodes[size_t(node)].ran) c.run.push_back(node);
    for (int32_t up = node; up >= 0 && !c.nodes[size_t(up)].ran; up = c.nodes[size_t(up)].parent) {
      c.nodes[size_t(up)].ran = true;
      c.run.push_back(up);
    }
  }
  std::sort(c.run.begin(), c.run.end());
  c.run_token.clear();
  c.run_parent.clear();
  for (const int32_t node : c.run) {
    c.run_token.push_back(c.nodes[size_t(node)].token);
    c.run_parent.push_back(c.nodes[size_t(node)].parent);
  }
  return chance;
}

float answer(fewstep_cascade& c, int32_t node, std::span<const int32_t> ids, const float* logp) {
  double known = 0.0;
  for (size_t k = 0; k < ids.size(); ++k) {
    if (ids[k] >= 0 && has_child(c, node, ids[k])) known += std::exp(double(logp[k]));
  }
  const double open = 1.0 - known, rest = std::max(double(c.nodes[size_t(node)].rest), 0.0);
  float gained = 0.0f;
  for (size_t k = 0; k < ids.size() && !is_full(c); ++k) {
    if (ids[k] < 0 || has_child(c, node, ids[k])) continue;
    const double p = std::exp(double(logp[k]));
    const auto score = float(rest * (p < open ? p / open : 1.0));
    if (score < c.least || !(score > 0.0f)) continue;
    gained += score;
    gained += follow(c, add(c, ids[k], node, score));
  }
  return gained;
}

void check_answer(const fewstep_cascade& c, int32_t node, std::span<const int32_t> ids,
                  const float* logp) {
  constexpr char kFunction[] = "fewstep_cascade_answer";
  const bool is_node = node >= 0 && size_t(node) < c.nodes.size();
  if (!is_node || !c.nodes[size_t(node)].asked || c.nodes[size_t(node)].answered) {
    throw Error(FEWSTEP_INVALID_ARGUMENT,
                format("%s: 'node' must be one that was asked and not answered, got %d", kFunction,
                       int(node)));
  }
  for (size_t k = 0; k < ids.size(); ++k) {
    if (ids[k] < -1) {
      throw Error(FEWSTEP_INVALID_ARGUMENT, format("%s: 'ids' must be -1 or more, got %d at %d",
                                                   kFunction, int(ids[k]), int(k)));
    }
    if (ids[k] >= 0 && !(logp[k] <= 0.0f)) {
      throw Error(FEWSTEP_INVALID_ARGUMENT,
                  format("%s: 'logp' must be 0 or less, got %s at %d", kFunction,
                         number(double(logp[k])).c_str(), int(k)));
    }
  }
}

}  // namespace
}  // namespace fewstep::draft

using namespace fewstep;
using namespace fewstep::draft;

extern "C" {

fewstep_status fewstep_cascade_create(fewstep_recycler* recycler, int32_t room,
                                      fewstep_cascade** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_cascade_create";
    not_null(kFunction, "recycler", recycler);
    not_null(kFunction, "out", out);
    at_least(kFunction, "room", 1, room);
    *out = new fewstep_cascade(recycler, room);
  });
}

void fewstep_cascade_destroy(fewstep_cascade* cascade) { delete cascade; }

fewstep_status fewstep_cascade_begin(fewstep_cascade* cascade, const int32_t* context,
                                     int64_t count, const fewstep_recycler_propose_params* params) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_cascade_begin";
    not_null(kFunction, "cascade", cascade);
    check_params(kFunction, params);
    const auto given = tokens_of(kFunction, "context", context, count);
    cascade->depth = params->depth;
    cascade->least = params->least;
    cascade->nodes.clear();
    if (given.empty()) return;
    const int32_t root = given.back();
    cascade->nodes.push_back({root, -1, 0, 1.0f, 1.0f, end_of(cascade->recycler, given)});
    follow(*cascade, 0);
  });
}

fewstep_status fewstep_cascade_ask(fewstep_cascade* cascade, int32_t most, float least,
                                   fewstep_cascade_question* out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_cascade_ask";
    not_null(kFunction, "cascade", cascade);
    not_null(kFunction, "out", out);
    sized(kFunction, "out", sizeof *out, "FEWSTEP_CASCADE_QUESTION_INIT", out->size);
    at_least(kFunction, "most", 1, most);
    check_least(kFunction, least);
    out->chance = choose(*cascade, size_t(most), least);
    out->runs = int32_t(cascade->run.size());
    out->asks = int32_t(cascade->asked.size());
    out->run = cascade->run.data();
    out->token = cascade->run_token.data();
    out->parent = cascade->run_parent.data();
    out->asked = cascade->asked.data();
  });
}

fewstep_status fewstep_cascade_answer(fewstep_cascade* cascade, int32_t node, const int32_t* ids,
                                      const float* logp, int32_t width, float* gained) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_cascade_answer";
    not_null(kFunction, "cascade", cascade);
    not_null(kFunction, "ids", ids);
    not_null(kFunction, "logp", logp);
    not_null(kFunction, "gained", gained);
    at_least(kFunction, "width", 1, width);
    const std::span<const int32_t> tokens(ids, size_t(width));
    check_answer(*cascade, node, tokens, logp);
    cascade->nodes[size_t(node)].answered = true;
    *gained = answer(*cascade, node, tokens, logp);
  });
}

fewstep_status fewstep_cascade_take(fewstep_cascade* cascade, int32_t* token, int32_t* parent,
                                    float* score, int32_t capacity, int32_t* nodes) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_cascade_take";
    not_null(kFunction, "cascade", cascade);
    Proposal tree = proposal_of(kFunction, token, parent, capacity, nodes);
    not_null(kFunction, "score", score);
    const std::vector<Node>& all = cascade->nodes;
    cascade->order.resize(all.size());
    std::iota(cascade->order.begin(), cascade->order.end(), 0);
    // No child is likelier than its parent, which comes first of equal ones.
    sort_by(*cascade, &Node::score);
    for (const int32_t node : cascade->order) {
      if (tree.is_full()) break;
      const Node& one = all[size_t(node)];
      const int32_t up = one.parent < 0 ? -1 : cascade->place[size_t(one.parent)];
      cascade->place[size_t(node)] = tree.add(one.token, up);
      score[cascade->place[size_t(node)]] = one.score;
    }
    *nodes = tree.size();
  });
}

}  // extern "C"
