// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <vector>

#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;
using Tokens = Array<int32_t>;

class KvPool {
 public:
  KvPool(int32_t pages, int32_t page_tokens) : page_tokens_(page_tokens) {
    fewstep_kv_pool* made = nullptr;
    check(fewstep_kv_pool_create(pages, page_tokens, &made));
    owner_.reset(made);
  }
  py::tuple add(const Tokens& tokens) {
    int64_t sequence = 0, cached = 0;
    check(fewstep_kv_pool_add(owner_.get(), tokens.data(), tokens.size(), &sequence, &cached));
    return py::make_tuple(sequence, cached);
  }
  py::tuple extend(int64_t sequence, int64_t n_tokens) {
    int32_t copy[2];
    check(fewstep_kv_pool_extend(owner_.get(), sequence, n_tokens, copy));
    return py::make_tuple(copy[0], copy[1]);
  }
  void truncate(int64_t sequence, int64_t length) {
    check(fewstep_kv_pool_truncate(owner_.get(), sequence, length));
  }
  int64_t fork(int64_t sequence, int64_t length) {
    int64_t forked = 0;
    check(fewstep_kv_pool_fork(owner_.get(), sequence, length, &forked));
    return forked;
  }
  void publish(int64_t sequence, const Tokens& tokens) {
    check(fewstep_kv_pool_publish(owner_.get(), sequence, tokens.data(), tokens.size()));
  }
  void free(int64_t sequence) { check(fewstep_kv_pool_free(owner_.get(), sequence)); }
  int64_t length(int64_t sequence) const {
    int64_t out = 0;
    check(fewstep_kv_pool_length(owner_.get(), sequence, &out));
    return out;
  }
  // columns < 0: as many as the longest has.
  py::array_t<int32_t> page_table(const std::vector<int64_t>& sequences, int64_t columns) const {
    if (columns < 0) {
      columns = 0;
      for (const int64_t sequence : sequences) {
        const int64_t pages = (length(sequence) + page_tokens_ - 1) / page_tokens_;
        columns = pages > columns ? pages : columns;
      }
    }
    const auto count = py::ssize_t(sequences.size());
    py::array_t<int32_t> table({count, py::ssize_t(columns)});
    check(fewstep_kv_pool_page_table(owner_.get(), sequences.data(), count, table.mutable_data(),
                                     columns));
    return table;
  }
  // Ragged rows of sequences that have `lengths` tokens so far, as a model takes them: (tokens,
  // lengths, page table, counts, lengths with the rows). None where `indptr` does not cut the
  // tokens into one row or more for each sequence, or where a sequence has no room for its rows.
  py::object rows(const std::vector<int64_t>& sequences, const std::vector<int64_t>& lengths,
                  const Array<int64_t>& tokens, const Tokens& indptr) const {
    const size_t B = sequences.size();
    if (lengths.size() != B || indptr.ndim() != 1 || size_t(indptr.size()) != B + 1) {
      return py::none();
    }
    const int32_t* ends = indptr.data();
    if (ends[0] != 0 || ends[B] != tokens.size()) return py::none();
    std::vector<int32_t> counts(B);
    std::vector<int64_t> after(B);
    Tokens before{py::ssize_t(B)};
    for (size_t b = 0; b < B; ++b) {
      counts[b] = ends[b + 1] - ends[b];
      after[b] = lengths[b] + counts[b];
      before.mutable_data()[b] = int32_t(lengths[b]);
      if (counts[b] < 1 || after[b] > length(sequences[b])) return py::none();
    }
    return py::make_tuple(tokens, before, page_table(sequences, -1), counts, after);
  }
  // Whether rows of paths have to move, where blocks begin, and lengths with the roots and paths,
  // of sequences that have `lengths` tokens; see PagedModel.keep. None where a block does not lie
  // in its sequence, or a path not in its block.
  py::object kept(const std::vector<int64_t>& sequences, const std::vector<int64_t>& lengths,
                  const Tokens& path, const Tokens& accepted, const Tokens& block) const {
    const size_t B = sequences.size();
    const auto count = py::ssize_t(B);
    const auto has_each = [count](const Tokens& one) {
      return one.ndim() == 1 && one.shape(0) == count;
    };
    if (lengths.size() != B || path.ndim() != 2 || path.shape(0) != count || !has_each(accepted) ||
        !has_each(block)) {
      return py::none();
    }
    bool moves = false;
    Tokens base{count};
    std::vector<int64_t> after(B);
    for (size_t b = 0; b < B; ++b) {
      const int32_t n = accepted.data()[b], size = block.data()[b];
      const int32_t* row = path.data() + py::ssize_t(b) * path.shape(1);
      if (size < 1 || size > lengths[b] || n < 0 || n > path.shape(1)) return py::none();
      if (n > 0 && row[n - 1] >= size) return py::none();
      // The first nodes of a block, such as a chain's, lie where they belong.
      for (int32_t i = 0; i < n; ++i) moves = moves || row[i] != i + 1;
      base.mutable_data()[b] = int32_t(lengths[b]) - size;
      after[b] = lengths[b] - size + 1 + n;
    }
    return py::make_tuple(moves, base, after);
  }
  int32_t references(int32_t page) const {
    int32_t count = 0;
    check(fewstep_kv_pool_references(owner_.get(), page, &count));
    return count;
  }
  py::dict stats_dict() const {
    const fewstep_kv_pool_stats s = stats();
    py::dict out;
    out["pages"] = s.pages;
    out["page_tokens"] = s.page_tokens;
    out["used"] = s.used;
    out["shared"] = s.shared;
    out["cached"] = s.cached;
    out["free"] = s.free;
    out["sequences"] = s.sequences;
    out["looked_up"] = s.looked_up;
    out["found"] = s.found;
    out["copies"] = s.copies;
    out["evictions"] = s.evictions;
    return out;
  }

 private:
  fewstep_kv_pool_stats stats() const {
    fewstep_kv_pool_stats s{};
    s.size = sizeof s;
    check(fewstep_kv_pool_get_stats(owner_.get(), &s));
    return s;
  }
  struct Destroy {
    void operator()(fewstep_kv_pool* p) const noexcept { fewstep_kv_pool_destroy(p); }
  };
  std::unique_ptr<fewstep_kv_pool, Destroy> owner_;
  int32_t page_tokens_;
};

}  // namespace

void bind_kv_pool(py::module_& m) {
  py::class_<KvPool>(m, "KvPool")
      .def(py::init<int32_t, int32_t>(), py::arg("pages"), py::arg("page_tokens"))
      .def("add", &KvPool::add, py::arg("tokens"))
      .def("extend", &KvPool::extend, py::arg("sequence"), py::arg("n_tokens"))
      .def("truncate", &KvPool::truncate, py::arg("sequence"), py::arg("length"))
      .def("fork", &KvPool::fork, py::arg("sequence"), py::arg("length"))
      .def("publish", &KvPool::publish, py::arg("sequence"), py::arg("tokens"))
      .def("free", &KvPool::free, py::arg("sequence"))
      .def("length", &KvPool::length, py::arg("sequence"))
      .def("page_table", &KvPool::page_table, py::arg("sequences"), py::arg("columns"))
      .def("rows", &KvPool::rows, py::arg("sequences"), py::arg("lengths"), py::arg("tokens"),
           py::arg("indptr"))
      .def("kept", &KvPool::kept, py::arg("sequences"), py::arg("lengths"), py::arg("path"),
           py::arg("accepted"), py::arg("block"))
      .def("references", &KvPool::references, py::arg("page"))
      .def("stats", &KvPool::stats_dict);
}

}  // namespace fewstep::python
