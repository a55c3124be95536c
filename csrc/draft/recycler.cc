// SPDX-License-Identifier: Apache-2.0
#include "draft/recycler.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

namespace fewstep::draft {
namespace {

// The longest context that is known at the end of another: its entry and its length, or -1 and 0.
struct Known {
  int32_t entry, length;
};
Known longest_known(const ContextTable& table, const Context& context) {
  for (int32_t n = context.length(); n > 0; --n) {
    const int32_t entry = table.find(context.last(n));
    if (entry >= 0) return {entry, n};
  }
  return {-1, 0};
}

constexpr char kObserve[] = "fewstep_recycler_observe";

[[noreturn]] void refuse(const char* argument, const char* must, const std::string& got) {
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("%s: '%s' must %s, got %s", kObserve, argument, must, got.c_str()));
}

// Rows of evaluated nodes: checked first, then stored.
class Observation {
 public:
  Observation(fewstep_recycler& recycler, const fewstep_recycler_rows& rows)
      : r_(recycler), in_(rows) {}

  void check() const {
    within(kObserve, "trees", 0, INT32_MAX - 1, in_.trees);
    within(kObserve, "rows", 0, INT32_MAX, in_.rows);
    within(kObserve, "depth", 0, INT32_MAX, in_.depth);
    not_null(kObserve, "indptr", in_.indptr);
    if (in_.trees > 0) {
      if (r_.order > 1) not_null(kObserve, "context", in_.context);
      if (in_.depth > 0) not_null(kObserve, "path", in_.path);
      not_null(kObserve, "accepted", in_.accepted);
      not_null(kObserve, "next_token", in_.next_token);
    }
    if (in_.rows > 0) {
      not_null(kObserve, "token", in_.token);
      not_null(kObserve, "parent", in_.parent);
      not_null(kObserve, "ids", in_.ids);
      not_null(kObserve, "logits", in_.logits);
    }
    if (in_.indptr[0] != 0 || in_.indptr[in_.trees] != in_.rows) {
      refuse("indptr", format("go from 0 to the rows, %d", int(in_.rows)).c_str(),
             format("%d and %d", int(in_.indptr[0]), int(in_.indptr[in_.trees])));
    }
    for (int32_t b = 0; b < in_.trees; ++b) {
      if (in_.indptr[b + 1] >= in_.indptr[b]) continue;
      refuse("indptr", "not fall",
             format("%d after %d", int(in_.indptr[b + 1]), int(in_.indptr[b])));
    }
    for (int32_t b = 0; b < in_.trees; ++b) check_tree(b);
    for (int32_t i = 0; i < in_.rows; ++i) check_successors(i);
  }

  void store() {
    r_.following.assign(size_t(in_.rows), -1);
    r_.contexts.resize(size_t(in_.rows));
    for (int32_t b = 0; b < in_.trees; ++b) {
      if (size_of(b) > 0) follow_tree(b);
    }
    each_context([&](const Context& context) { r_.table.fetch_place(context); });
    each_context([&](const Context& context) { r_.table.fetch_entry(context); });
    for (int32_t i = 0; i < in_.rows; ++i) {
      if (r_.following[size_t(i)] >= 0) calibrate(i);
      store_row(i);
    }
  }

 private:
  int32_t size_of(int32_t b) const { return in_.indptr[b + 1] - in_.indptr[b]; }

  void check_tree(int32_t b) const {
    const int32_t first = in_.indptr[b], size = size_of(b);
    for (int32_t i = first; i < first + size; ++i) {
      if (in_.token[i] < 0) {
        refuse("token", "be 0 or more", format("%d at %d", int(in_.token[i]), int(i)));
      }
      const int32_t parent = in_.parent[i], node = i - first;
      if (node == 0 ? parent == -1 : parent >= 0 && parent < node) continue;
      refuse("parent", node == 0 ? "be -1 for a root" : "be an earlier node of its tree",
             format("%d at %d", int(parent), int(i)));
    }
    for (int32_t k = 0; k < r_.order - 1; ++k) {
      const int32_t token = in_.context[int64_t(b) * (r_.order - 1) + k];
      if (token >= -1) continue;
      refuse("context", "be -1 or more", format("%d at [%d, %d]", int(token), int(b), int(k)));
    }
    const int32_t most = size > 0 ? in_.depth : 0;
    if (in_.accepted[b] < 0 || in_.accepted[b] > most) {
      refuse("accepted", format("lie in [0, %d]", int(most)).c_str(),
             format("%d at %d", int(in_.accepted[b]), int(b)));
    }
    if (in_.next_token[b] < -1) {
      refuse("next_token", "be -1 or more", format("%d at %d", int(in_.next_token[b]), int(b)));
    }
    for (int32_t d = 0, at = 0; d < in_.accepted[b]; ++d) {
      const int32_t node = in_.path[b * in_.path_stride + d];
      if (node < 1 || node >= size || in_.parent[first + node] != at) {
        refuse("path", "go from node to child",
               format("%d at [%d, %d]", int(node), int(b), int(d)));
      }
      at = node;
    }
  }

  void check_successors(int32_t i) const {
    const int32_t* id = in_.ids + int64_t(i) * r_.width;
    const float* logit = in_.logits + int64_t(i) * r_.width;
    for (int32_t k = 0; k < r_.width; ++k) {
      const auto place = [&] { return format(" at [%d, %d]", int(i), int(k)); };
      if (id[k] < -1) refuse("ids", "be -1 or more", std::to_string(id[k]) + place());
      if (id[k] < 0) continue;
      if (std::find(id, id + k, id[k]) != id + k) {
        refuse("ids", "differ in a row", std::to_string(id[k]) + " again" + place());
      }
      if (!std::isfinite(logit[k])) {
        refuse("logits", "be finite where there is a token", number(double(logit[k])) + place());
      }
    }
  }

  template <class Visit>
  void each_context(const Visit& visit) const {
    for (const Context& context : r_.contexts) {
      for (int32_t n = context.length(); n > 0; --n) visit(context.last(n));
    }
  }

  // Finds the contexts of a tree's nodes, and what followed those of the accepted path.
  void follow_tree(int32_t b) {
    const int32_t first = in_.indptr[b], size = size_of(b);
    int32_t at = first;
    for (int32_t d = 0; d < in_.accepted[b]; ++d) {
      const int32_t node = first + in_.path[b * in_.path_stride + d];
      r_.following[size_t(at)] = in_.token[node];
      at = node;
    }
    r_.following[size_t(at)] = in_.next_token[b];
    Context before;
    for (int32_t k = 0; k < r_.order - 1; ++k) {
      const int32_t token = in_.context[int64_t(b) * (r_.order - 1) + k];
      before = token < 0 ? Context() : before.then(token, r_.order);
    }
    for (int32_t i = first; i < first + size; ++i) {
      const Context& up = i == first ? before : r_.contexts[size_t(first + in_.parent[i])];
      r_.contexts[size_t(i)] = up.then(in_.token[i], r_.order);
    }
  }

  void calibrate(int32_t i) {
    const Known known = longest_known(r_.table, r_.contexts[size_t(i)]);
    if (known.entry < 0) return;
    const Successors said = r_.table.successors(known.entry);
    for (int32_t k = 0; k < said.count; ++k) {
      r_.calibration.count(known.length, said.source, k, said.chance[k],
                           said.token[k] == r_.following[size_t(i)]);
    }
  }

  void store_row(int32_t i) {
    int32_t token[kMaxWidth];
    float chance[kMaxWidth];
    double weight[kMaxWidth], highest = -INFINITY, sum = 0.0;
    int32_t count = 0;
    for (int32_t k = 0; k < r_.width; ++k) {
      const int64_t at = int64_t(i) * r_.width + k;
      if (in_.ids[at] < 0) continue;
      token[count] = in_.ids[at];
      weight[count++] = double(in_.logits[at]);
      highest = std::max(highest, double(in_.logits[at]));
    }
    if (count == 0) return;
    for (int32_t k = 0; k < count; ++k) sum += weight[k] = std::exp(weight[k] - highest);
    for (int32_t k = 0; k < count; ++k) chance[k] = float(weight[k] / sum);
    const Context& context = r_.contexts[size_t(i)];
    const int32_t length = context.length();
    for (int32_t n = 1; n <= length; ++n) {
      r_.table.put(context.last(n), {Source::kModel, count, token, chance});
    }
  }

  fewstep_recycler& r_;
  const fewstep_recycler_rows& in_;
};

void read(fewstep_recycler& r, std::span<const int32_t> text) {
  constexpr float kCertain = 1.0f;
  Context context;
  for (size_t q = 1; q < text.size(); ++q) {
    context = context.then(text[q - 1], r.order);
    const int32_t length = context.length();
    for (int32_t n = 1; n <= length; ++n) {
      r.table.put(context.last(n), {Source::kRead, 1, &text[q], &kCertain});
    }
  }
}

// Makes candidates of the successors of a node's longest known context.
void expand(fewstep_recycler& r, const Context& context, int32_t node, int32_t depth, float chance,
            float least) {
  const Known known = longest_known(r.table, context);
  if (known.entry < 0) return;
  const Successors said = r.table.successors(known.entry);
  for (int32_t k = 0; k < said.count; ++k) {
    const float own = chance * r.calibration.chance(known.length, said.source, k, said.chance[k]);
    if (own < least) continue;
    r.heap.push_back({own, int32_t(r.candidates.size())});
    r.candidates.push_back({said.token[k], node, depth + 1});
    std::push_heap(r.heap.begin(), r.heap.end());
  }
}

}  // namespace

void grow(fewstep_recycler& r, const Context& root, int32_t depth, float least, Proposal* tree,
          float* score) {
  r.contexts.clear();
  r.candidates.assign(1, {root.token[0], -1, 0});
  r.heap.assign(1, {1.0f, 0});
  while (!r.heap.empty()) {
    const float chance = r.heap.front().chance;
    const Candidate c = r.candidates[size_t(r.heap.front().candidate)];
    std::pop_heap(r.heap.begin(), r.heap.end());
    r.heap.pop_back();
    const int32_t node = tree->add(c.token, c.parent);
    score[node] = chance;
    if (tree->is_full()) break;
    r.contexts.push_back(c.parent < 0 ? root : r.contexts[size_t(c.parent)].then(c.token, r.order));
    if (c.depth < depth) {
      expand(r, r.contexts.back(), node, c.depth, chance, least);
    }
  }
}

}  // namespace fewstep::draft

using namespace fewstep;
using namespace fewstep::draft;

extern "C" {

fewstep_status fewstep_recycler_create(int32_t order, int32_t width, int64_t capacity,
                                       fewstep_recycler** out) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_recycler_create";
    not_null(kFunction, "out", out);
    within(kFunction, "order", 1, kMaxOrder, order);
    within(kFunction, "width", 1, kMaxWidth, width);
    within(kFunction, "capacity", 1, INT32_MAX, capacity);
    *out = new fewstep_recycler(order, width, capacity);
  });
}

void fewstep_recycler_destroy(fewstep_recycler* recycler) { delete recycler; }

int64_t fewstep_recycler_contexts(const fewstep_recycler* recycler) {
  return recycler ? recycler->table.size() : 0;
}

fewstep_status fewstep_recycler_read(fewstep_recycler* recycler, const int32_t* tokens,
                                     int64_t count) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_recycler_read";
    not_null(kFunction, "recycler", recycler);
    read(*recycler, tokens_of(kFunction, "tokens", tokens, count));
  });
}

fewstep_status fewstep_recycler_observe(fewstep_recycler* recycler,
                                        const fewstep_recycler_rows* rows) {
  return guard([&] {
    not_null(kObserve, "recycler", recycler);
    not_null(kObserve, "rows", rows);
    sized(kObserve, "rows", sizeof *rows, "FEWSTEP_RECYCLER_ROWS_INIT", rows->size);
    Observation observation(*recycler, *rows);
    observation.check();
    observation.store();
  });
}

fewstep_status fewstep_recycler_propose(fewstep_recycler* recycler, const int32_t* context,
                                        int64_t count,
                                        const fewstep_recycler_propose_params* params,
                                        int32_t* token, int32_t* parent, float* score,
                                        int32_t capacity, int32_t* nodes) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_recycler_propose";
    not_null(kFunction, "recycler", recycler);
    check_params(kFunction, params);
    const auto given = tokens_of(kFunction, "context", context, count);
    Proposal tree = proposal_of(kFunction, token, parent, capacity, nodes);
    not_null(kFunction, "score", score);
    if (!given.empty()) {
      grow(*recycler, end_of(*recycler, given), params->depth, params->least, &tree, score);
    }
    *nodes = tree.size();
  });
}

}  // extern "C"
