// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "py_recycler.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

using Tokens = py::array_t<int32_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

using NgramOwner = std::unique_ptr<fewstep_ngram, Destroy<fewstep_ngram, fewstep_ngram_destroy>>;
using TrigramOwner =
    std::unique_ptr<fewstep_trigram, Destroy<fewstep_trigram, fewstep_trigram_destroy>>;
using RecyclerOwner =
    std::unique_ptr<fewstep_recycler, Destroy<fewstep_recycler, fewstep_recycler_destroy>>;

struct PyNgram {
  NgramOwner owner;
  PyNgram(int32_t n_min, int32_t n_max) {
    fewstep_ngram* made = nullptr;
    check(fewstep_ngram_create(n_min, n_max, &made));
    owner.reset(made);
  }
};
struct PyTrigram {
  TrigramOwner owner;
  PyTrigram() {
    fewstep_trigram* made = nullptr;
    check(fewstep_trigram_create(&made));
    owner.reset(made);
  }
};

// The best tokens of each row of logits in host memory, with their logits.
struct Best {
  int64_t shape[2];
  std::vector<int32_t> ids;
  std::vector<float> values;

  // Finds `count` of each of `rows` rows.
  void find(py::handle logits, int64_t rows, int64_t count) {
    constexpr const char* kFunction = "fewstep_logits_top_k";
    const py::handle arguments[] = {logits};
    CallStream stream(arguments);
    const Borrowed given(logits, kFunction, "logits", Borrowed::kRead, &stream);
    shape[0] = rows;
    shape[1] = count;
    ids.resize(size_t(rows * count));
    values.resize(size_t(rows * count));
    const fewstep_tensor i = matrix(ids.data(), 0), v = matrix(values.data(), 2);
    fewstep_logits_top_k_args args = FEWSTEP_LOGITS_TOP_K_ARGS_INIT;
    args.logits = given.get();
    args.ids = &i;
    args.values = &v;
    check(fewstep_logits_top_k(nullptr, &args));
  }
  fewstep_tensor matrix(void* data, uint8_t code) {
    return {data, {1, 0}, 2, {code, 32, 1}, shape, nullptr, 0};
  }
};

struct PyRecycler {
  RecyclerOwner owner;
  int32_t order, width;
  Scored scored;  // scratch of proposals
  Best best;      // and of calls that are observed
  std::vector<int32_t> context;
  PyRecycler(int32_t longest, int32_t kept, int64_t capacity) : order(longest), width(kept) {
    fewstep_recycler* made = nullptr;
    check(fewstep_recycler_create(order, width, capacity, &made));
    owner.reset(made);
  }
};

void recycle(py::handle table, py::handle tokens, py::handle top_ids) {
  constexpr const char* kFunction = "fewstep_draft_recycle";
  const py::handle arguments[] = {table, tokens, top_ids};
  CallStream stream(arguments);
  const Borrowed t(table, kFunction, "table", Borrowed::kWrite, &stream);
  const Borrowed n(tokens, kFunction, "tokens", Borrowed::kRead, &stream);
  const Borrowed ids(top_ids, kFunction, "top_ids", Borrowed::kRead, &stream);
  const fewstep_context* ctx = stream.context(t.get(), kFunction, "table");
  check(fewstep_draft_recycle(ctx, t.get(), n.get(), ids.get()));
}

// recycle of the best tokens of rows of logits, all in host memory.
void recycle_best(py::handle table, py::handle tokens, py::handle logits) {
  constexpr const char* kFunction = "fewstep_draft_recycle";
  const py::handle arguments[] = {table, tokens};
  CallStream stream(arguments);
  const Borrowed t(table, kFunction, "table", Borrowed::kWrite, &stream);
  const Borrowed n(tokens, kFunction, "tokens", Borrowed::kRead, &stream);
  const auto size = [](const Borrowed& one, int32_t axis) {
    return one.get()->ndim > axis ? one.get()->shape[axis] : 0;
  };
  Best best;
  best.find(logits, size(n, 0), size(t, 1));
  const fewstep_tensor ids = best.matrix(best.ids.data(), 0);
  check(fewstep_draft_recycle(nullptr, t.get(), n.get(), &ids));
}

// What a table has for the nodes of a template below a root: tokens, parents and, where others than
// the last nodes are left out, which nodes these are. None where it has nothing. A call of the
// model leaves nothing of Python in the caches: ops on arrays took 30 us for 7 nodes.
py::object recycled(const Tokens& table, const Tokens& parent, const Tokens& rank, int32_t root,
                    int32_t limit) {
  const auto nodes = size_t(std::min(parent.size(), rank.size()));
  const auto successors = table.unchecked<2>();
  const auto up = parent.unchecked<1>(), column = rank.unchecked<1>();
  const auto place_in = [&](int32_t token, int32_t k) {
    const bool is_known = token >= 0 && token < successors.shape(0);
    return is_known && k >= 0 && k < successors.shape(1) ? successors(token, k) : -1;
  };
  std::vector<int32_t> token = {root}, parents = {-1}, kept = {0}, place(nodes, -1), depth = {0};
  if (nodes > 0) place[0] = 0;
  for (size_t i = 1; i < nodes; ++i) {
    const int32_t above = up(py::ssize_t(i));
    const int32_t at = above >= 0 && size_t(above) < i ? place[size_t(above)] : -1;
    if (at < 0 || depth[size_t(at)] >= limit) continue;
    const int32_t next = place_in(token[size_t(at)], column(py::ssize_t(i)));
    if (next < 0) continue;
    place[i] = int32_t(token.size());
    token.push_back(next);
    parents.push_back(at);
    kept.push_back(int32_t(i));
    depth.push_back(depth[size_t(at)] + 1);
  }
  if (token.size() < 2) return py::none();
  const auto count = py::ssize_t(token.size());
  const bool is_start = size_t(kept.back()) == kept.size() - 1;
  return py::make_tuple(
      Tokens(count, token.data()),
      token.size() == size_t(parent.size()) ? parent : Tokens(count, parents.data()),
      is_start ? py::object(py::none()) : Tokens(count, kept.data()));
}

// Calls propose(token, parent, capacity, &nodes) and returns the two arrays cut to the nodes.
template <class Propose>
py::tuple proposal(int32_t capacity, const Propose& propose) {
  Tokens token(std::max(capacity, 1)), parent(std::max(capacity, 1));
  int32_t nodes = 0;
  check(propose(token.mutable_data(), parent.mutable_data(), capacity, &nodes));
  token.resize({py::ssize_t(nodes)});
  parent.resize({py::ssize_t(nodes)});
  return py::make_tuple(std::move(token), std::move(parent));
}

py::tuple propose_ngram(const PyNgram& self, const py::object& context, int32_t max_tokens,
                        int32_t branches, int32_t max_nodes) {
  const fewstep_ngram_propose_params params = {sizeof params, max_tokens, branches};
  Tokens given;
  const int32_t* begin = nullptr;
  if (!context.is_none()) {
    given = context.cast<Tokens>();
    static const int32_t kNothing = 0;  // an empty context is one all the same
    begin = given.size() > 0 ? given.data() : &kNothing;
  }
  return proposal(max_nodes, [&](auto... out) {
    return fewstep_ngram_propose(self.owner.get(), begin, given.size(), &params, out...);
  });
}

py::tuple propose_trigram(const PyTrigram& self, const Tokens& context, int32_t depth,
                          int32_t width, int32_t iterations, double exploration,
                          int32_t max_nodes) {
  const fewstep_trigram_propose_params params = {sizeof params, depth, width, iterations,
                                                 exploration};
  return proposal(max_nodes, [&](auto... out) {
    return fewstep_trigram_propose(self.owner.get(), context.data(), context.size(), &params,
                                   out...);
  });
}

py::tuple propose_recycler(PyRecycler& self, const py::object& context, int32_t depth, float least,
                           int32_t max_nodes) {
  const Given given(context);
  const fewstep_recycler_propose_params params = {sizeof params, depth, least};
  return self.scored.of(max_nodes, [&](auto... out) {
    return fewstep_recycler_propose(self.owner.get(), given.data(), given.size(), &params, out...);
  });
}

// Throws unless an array has the shape.
void has_shape(const py::array& array, const char* name, std::initializer_list<int64_t> shape) {
  const auto text = [](auto begin, auto end) {
    std::string all;
    for (auto n = begin; n != end; ++n) all += (all.empty() ? "" : ", ") + std::to_string(*n);
    return "[" + all + "]";
  };
  const auto *begin = array.shape(), *end = begin + array.ndim();
  if (std::equal(shape.begin(), shape.end(), begin, end)) return;
  throw py::value_error("fewstep_recycler_observe: '" + std::string(name) + "' must have shape " +
                        text(shape.begin(), shape.end()) + ", got " + text(begin, end));
}

// Nodes and what was accepted of them, as fewstep.tree.verify has them.
struct Nodes {
  const Tokens &token, &parent, &indptr, &path, &accepted, &next_token;

  int64_t count() const { return token.size(); }
  int64_t trees() const { return std::max<int64_t>(indptr.size(), 1) - 1; }
  void check_shapes() const {
    has_shape(token, "token", {count()});
    has_shape(parent, "parent", {count()});
    has_shape(indptr, "indptr", {trees() + 1});
    has_shape(path, "path", {trees(), path.ndim() == 2 ? path.shape(1) : 0});
    has_shape(accepted, "accepted", {trees()});
    has_shape(next_token, "next_token", {trees()});
  }
};

void keep(const PyRecycler& self, const Nodes& in, const int32_t* context, const int32_t* ids,
          const float* logits) {
  const int64_t D = in.path.shape(1);
  const fewstep_recycler_rows rows = {sizeof rows,
                                      int32_t(in.trees()),
                                      int32_t(in.count()),
                                      int32_t(D),
                                      in.token.data(),
                                      in.parent.data(),
                                      in.indptr.data(),
                                      context,
                                      ids,
                                      logits,
                                      in.path.data(),
                                      D,
                                      in.accepted.data(),
                                      in.next_token.data()};
  check(fewstep_recycler_observe(self.owner.get(), &rows));
}

void keep(const PyRecycler& self, const Nodes& in, const int32_t* context, const Tokens& ids,
          const Floats& logits) {
  has_shape(ids, "ids", {in.count(), self.width});
  has_shape(logits, "logits", {in.count(), self.width});
  keep(self, in, context, ids.data(), logits.data());
}

// context is None where order is 1.
void observe_rows(PyRecycler& self, const Tokens& token, const Tokens& parent, const Tokens& indptr,
                  const std::optional<Tokens>& context, const Tokens& ids, const Floats& logits,
                  const Tokens& path, const Tokens& accepted, const Tokens& next_token) {
  const Nodes nodes = {token, parent, indptr, path, accepted, next_token};
  nodes.check_shapes();
  if (context) has_shape(*context, "context", {nodes.trees(), self.order - 1});
  keep(self, nodes, context ? context->data() : nullptr, ids, logits);
}

// The tokens before the last one of each text, -1 where it has none.
void read_contexts(const py::list& texts, int32_t count, std::vector<int32_t>* out) {
  out->assign(texts.size() * size_t(count), -1);
  auto row = out->begin();
  for (const py::handle text : texts) {
    const auto tokens = py::reinterpret_borrow<py::list>(text);
    const auto known = int32_t(std::min<size_t>(tokens.size(), size_t(count) + 1)) - 1;
    for (int32_t k = 0; k < known; ++k) {
      row[count - 1 - k] = tokens[tokens.size() - 2 - size_t(k)].cast<int32_t>();
    }
    row += count;
  }
}

// As observe_rows, of lists of tokens that end with the roots, and of whole rows of logits in host
// memory or a pair of the best tokens and their logits.
void observe_call(PyRecycler& self, const py::list& texts, const Tokens& token,
                  const Tokens& parent, const Tokens& indptr, const py::object& logits,
                  const Tokens& path, const Tokens& accepted, const Tokens& next_token) {
  const Nodes nodes = {token, parent, indptr, path, accepted, next_token};
  nodes.check_shapes();
  has_shape(indptr, "indptr", {int64_t(texts.size()) + 1});
  read_contexts(texts, self.order - 1, &self.context);
  if (py::isinstance<py::tuple>(logits)) {
    const auto [ids, values] = logits.cast<std::pair<Tokens, Floats>>();
    return keep(self, nodes, self.context.data(), ids, values);
  }
  self.best.find(logits, nodes.count(), self.width);
  keep(self, nodes, self.context.data(), self.best.ids.data(), self.best.values.data());
}

}  // namespace

Given::Given(const py::object& tokens) {
  if (Tokens::check_(tokens)) {
    const auto array = py::reinterpret_borrow<Tokens>(tokens);
    begin_ = array.data();
    size_ = array.size();
    array_ = tokens;
  } else {
    list_ = tokens.cast<std::vector<int32_t>>();
  }
}

fewstep_recycler* recycler_of(py::handle object) { return object.cast<PyRecycler&>().owner.get(); }

void bind_draft(py::module_& m) {
  m.def("draft_recycle", &recycle, py::arg("table"), py::arg("tokens"), py::arg("top_ids"));
  m.def("draft_recycle_best", &recycle_best, py::arg("table"), py::arg("tokens"),
        py::arg("logits"));
  m.def("draft_recycled", &recycled, py::arg("table"), py::arg("parent"), py::arg("rank"),
        py::arg("root"), py::arg("limit"));
  py::class_<PyNgram>(m, "Ngram")
      .def(py::init<int32_t, int32_t>(), py::arg("n_min"), py::arg("n_max"))
      .def(
          "append",
          [](PyNgram& self, const Tokens& tokens) {
            check(fewstep_ngram_append(self.owner.get(), tokens.data(), tokens.size()));
          },
          py::arg("tokens"))
      .def("propose", &propose_ngram, py::arg("context"), py::arg("max_tokens"),
           py::arg("branches"), py::arg("max_nodes"))
      .def("__len__", [](const PyNgram& self) { return fewstep_ngram_size(self.owner.get()); });
  py::class_<PyTrigram>(m, "Trigram")
      .def(py::init<>())
      .def(
          "observe",
          [](PyTrigram& self, const Tokens& tokens) {
            check(fewstep_trigram_observe(self.owner.get(), tokens.data(), tokens.size()));
          },
          py::arg("tokens"))
      .def(
          "count",
          [](const PyTrigram& self, int32_t first, int32_t second, int32_t third) {
            return fewstep_trigram_count(self.owner.get(), first, second, third);
          },
          py::arg("first"), py::arg("second"), py::arg("third"))
      .def("propose", &propose_trigram, py::arg("context"), py::arg("depth"), py::arg("width"),
           py::arg("iterations"), py::arg("exploration"), py::arg("max_nodes"))
      .def("__len__",
           [](const PyTrigram& self) { return fewstep_trigram_states(self.owner.get()); });
  py::class_<PyRecycler>(m, "Recycler")
      .def(py::init<int32_t, int32_t, int64_t>(), py::arg("order"), py::arg("width"),
           py::arg("capacity"))
      .def(
          "read",
          [](PyRecycler& self, const py::object& tokens) {
            const Given given(tokens);
            check(fewstep_recycler_read(self.owner.get(), given.data(), given.size()));
          },
          py::arg("tokens"))
      .def("observe", &observe_rows, py::arg("token"), py::arg("parent"), py::arg("indptr"),
           py::arg("context"), py::arg("ids"), py::arg("logits"), py::arg("path"),
           py::arg("accepted"), py::arg("next_token"))
      .def("observe_call", &observe_call, py::arg("texts"), py::arg("token"), py::arg("parent"),
           py::arg("indptr"), py::arg("logits"), py::arg("path"), py::arg("accepted"),
           py::arg("next_token"))
      .def("propose", &propose_recycler, py::arg("context"), py::arg("depth"), py::arg("least"),
           py::arg("max_nodes"))
      .def("__len__",
           [](const PyRecycler& self) { return fewstep_recycler_contexts(self.owner.get()); });
}

}  // namespace fewstep::python
