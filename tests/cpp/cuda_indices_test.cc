// SPDX-License-Identifier: Apache-2.0
// What CUDA kernels make of indices that nobody could check before: they lie on the device. Here
// their code runs on the CPU, past the checks of the C functions.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#define FEWSTEP_ISA cuda_on_host
#include "draft/cuda/recycle.cu"
#include "kv/cuda/append.cu"
#include "kv/cuda/commit.cu"
#include "kv/cuda/copy_pages.cu"
#include "kv/cuda/truncate.cu"
#include "tree/cuda/attention.cu"
#include "tree/cuda/build.cu"
#include "tree/cuda/from_template.cu"
#include "tree/cuda/rerank.cu"

namespace kv = fewstep::kv;
namespace tree = fewstep::tree;

namespace {

constexpr int32_t kFar = std::numeric_limits<int32_t>::max();

// Keys and values of one layer: 3 pages of 2 slots for one head of one float, which tells its slot.
struct Cache {
  std::vector<float> keys = std::vector<float>(6), values = std::vector<float>(6);
  kv::Layer layer{};

  Cache() {
    std::iota(keys.begin(), keys.end(), 0.0f);
    std::iota(values.begin(), values.end(), 100.0f);
    layer.part[0] = {reinterpret_cast<char*>(keys.data()), 8, 4, 4};
    layer.part[1] = {reinterpret_cast<char*>(values.data()), 8, 4, 4};
  }
  static constexpr kv::Room kRoom{3, 4};  // two pages a request
};

struct Commit : Cache {
  std::vector<int32_t> table{2, 0, 1, 7}, base{0, 0}, path{1, 2, 3, 1, 2, 3}, count{2, 2};
  std::vector<int32_t> length{-5, -5};

  void run() {
    kv::MoveProblem p{};
    p.L = 1;
    p.B = 2;
    p.G = 1;
    p.parts = 2;
    p.bytes[0] = p.bytes[1] = 4;
    p.layers = &layer;
    p.pages = {{table.data(), 2}, 2};
    p.room = kRoom;
    p.base = {base.data(), 1};
    p.source = {path.data(), 3};
    p.count = {count.data(), 1};
    p.M = 3;
    p.length = length.data();
    p.length_stride = 1;
    p.function = "f";
    kv::cuda_on_host::commit(p);
  }
};

}  // namespace

TEST_CASE("commit passes over rows of pages that the cache has not") {
  Commit c;
  c.run();
  // Request 0: its slots are 4, 5, 0, 1. Request 1: 2, 3 and a page that there is not.
  CHECK(c.keys == std::vector<float>{0, 1, 3, 3, 5, 0});
  CHECK(c.values == std::vector<float>{100, 101, 103, 103, 105, 100});
  CHECK(c.length == std::vector<int32_t>{2, 2});
}

TEST_CASE("commit passes over slots outside of the cache, and cuts counts") {
  for (const int32_t far : {4, kFar, -1, -kFar}) {
    Commit c;
    c.table = {2, 0, 1, 1};
    c.path = {far, 2, 3, 0, 1, 2};
    c.count = {3, kFar};
    c.run();
    CHECK(c.keys == std::vector<float>{1, 1, 2, 3, 4, 0});
    CHECK(c.length == std::vector<int32_t>{3, 3});
  }
  Commit negative;
  negative.count = {-1, -kFar};
  negative.run();
  CHECK(negative.keys == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(negative.length == std::vector<int32_t>{0, 0});
}

TEST_CASE("append passes over rows without a slot or a position") {
  const std::vector<float> rows{7, 8, 9};
  const std::vector<int32_t> table{2, 0, 1, 7}, indptr{0, 1, 3};
  const std::vector<float> ones(4, 1.0f), zeros(4, 0.0f);
  const auto append = [&](std::vector<int32_t> length, std::vector<int32_t> positions, Cache* c) {
    kv::AppendProblem p{};
    p.B = 2;
    p.N = 3;
    p.G = p.D = 1;
    p.in = p.out = fewstep::DType::kF32;
    p.in_bytes = p.out_bytes = 4;
    p.k = {reinterpret_cast<const char*>(rows.data()), 4, 4, c->layer.part[0], {}};
    p.v = {reinterpret_cast<const char*>(rows.data()), 4, 4, c->layer.part[1], {}};
    p.indptr = {indptr.data(), 1};
    p.length = {length.data(), 1};
    p.pages = {{table.data(), 2}, 2};
    p.room = Cache::kRoom;
    if (!positions.empty()) {
      p.rope = 1;
      p.S = 4;
      p.cos = ones.data();
      p.sin = zeros.data();
      p.positions = {positions.data(), 1};
    }
    kv::cuda_on_host::append(p);
  };
  Cache beyond;  // row 2 would lie in slot 2 of request 1, on page 7
  append({3, 1}, {}, &beyond);
  CHECK(beyond.keys == std::vector<float>{0, 7, 2, 8, 4, 5});
  CHECK(beyond.values == std::vector<float>{100, 7, 102, 8, 104, 105});
  for (const int32_t far : {4, kFar, -1, -kFar}) {
    Cache slots, positions;
    append({far, 0}, {}, &slots);
    CHECK(slots.keys == std::vector<float>{0, 1, 8, 9, 4, 5});
    append({0, 0}, {3, far, 0}, &positions);
    CHECK(positions.keys == std::vector<float>{0, 1, 2, 9, 7, 5});
    CHECK(positions.values == std::vector<float>{100, 101, 102, 9, 7, 105});
  }
}

TEST_CASE("copy_pages passes over pairs outside of the cache") {
  Cache c;
  const std::vector<int32_t> source{0, 3, kFar, -1, 1}, target{1, 0, 2, 0, -kFar};
  kv::CopyPagesProblem p{};
  p.L = 1;
  p.N = 5;
  p.P = 3;
  p.T = 2;
  p.G = 1;
  p.parts = 2;
  p.bytes[0] = p.bytes[1] = 4;
  p.layers = &c.layer;
  p.source = {source.data(), 1};
  p.target = {target.data(), 1};
  kv::cuda_on_host::copy_pages(p);
  CHECK(c.keys == std::vector<float>{0, 1, 0, 1, 4, 5});
}

TEST_CASE("truncate keeps lengths that would grow or be negative") {
  std::vector<int32_t> length{5, 5, 5, 5};
  const std::vector<int32_t> kept{6, -1, 0, 5};
  kv::cuda_on_host::truncate({4, length.data(), 1, {kept.data(), 1}, nullptr});
  CHECK(length == std::vector<int32_t>{5, 5, 0, 5});
}

TEST_CASE("build ends at parents that are no earlier nodes") {
  const std::vector<int32_t> parent{-1, 1, 0, 9, -7}, indptr{0, 5};
  std::vector<int32_t> depth(5), first(5), next(5);
  std::vector<uint32_t> bits(5);
  tree::BuildProblem p{};
  p.B = 1;
  p.N = 5;
  p.W = 1;
  p.indptr = indptr.data();
  p.parent = parent.data();
  p.depth = depth.data();
  p.first_child = first.data();
  p.next_sibling = next.data();
  p.bits = bits.data();
  p.indptr_stride = p.parent_stride = p.depth_stride = p.bits_stride = 1;
  p.first_child_stride = p.next_sibling_stride = 1;
  tree::cuda_on_host::build(p);
  CHECK(depth == std::vector<int32_t>{0, 0, 1, 0, 0});
  CHECK(bits == std::vector<uint32_t>{1, 2, 5, 8, 16});
  CHECK(first == std::vector<int32_t>{2, -1, -1, -1, -1});
  CHECK(next == std::vector<int32_t>{-1, -1, -1, -1, -1});
  for (const auto& wrong : {std::vector<int32_t>{-3, 2}, {0, 6}, {3, 1}}) {
    p.indptr = wrong.data();
    depth.assign(5, 7);
    tree::cuda_on_host::build(p);
    CHECK(depth == std::vector<int32_t>(5, 7));
  }
}

TEST_CASE("from_template gives no token where there is no root, rank, head or entry") {
  const std::vector<int32_t> parent{-1, 0, 7, 1, -9}, rank{0, 1, 0, 2, -1};
  const std::vector<int32_t> root{0, 5, -1, kFar}, table{1, 2, 0, 9, 3, 4};  // [3, 2]
  std::vector<int32_t> tokens(20, 7);
  tree::FromTemplateProblem p{};
  p.B = 4;
  p.Q = 5;
  p.V = 3;
  p.K = 2;
  p.parent = parent.data();
  p.rank = rank.data();
  p.root = root.data();
  p.tokens = tokens.data();
  p.parent_stride = p.rank_stride = p.root_stride = 1;
  p.tokens_stride = 5;
  p.table = table.data();
  p.table_stride = 2;
  tree::cuda_on_host::from_template(p);
  std::vector<int32_t> wanted(20, -1);
  wanted[0] = 0;
  wanted[1] = 2;  // rank 1 of the root's
  wanted[2] = 1;  // its parent is no earlier node: the root
  CHECK(tokens == wanted);
  p.table = nullptr;
  p.heads = table.data();  // [1, 2] a request
  p.heads_stride = 0;
  p.H = 1;
  tree::cuda_on_host::from_template(p);
  CHECK(tokens == std::vector<int32_t>{0,  2,  1,  -1, -1, 5,    2, 1, -1, -1,
                                       -1, -1, -1, -1, -1, kFar, 2, 1, -1, -1});
}

TEST_CASE("rerank keeps what has room") {
  const std::vector<int32_t> parent{-1, 5, 0, -1, 0}, indptr{0, 3, 5}, budget{kFar, 2};
  const std::vector<float> scores{0, -2, -1, 0, -1};
  std::vector<int32_t> kept(4, 7), kept_parent(4, 7), kept_indptr(3, 7);
  std::vector<uint64_t> keys(10);
  tree::RerankProblem p{};
  p.B = 2;
  p.M = 5;
  p.N = 4;
  p.indptr = indptr.data();
  p.parent = parent.data();
  p.cum_logp = scores.data();
  p.budget = budget.data();
  p.kept = kept.data();
  p.kept_parent = kept_parent.data();
  p.kept_indptr = kept_indptr.data();
  p.keys = keys.data();
  p.indptr_stride = p.parent_stride = p.cum_logp_stride = p.budget_stride = 1;
  p.kept_stride = p.kept_parent_stride = p.kept_indptr_stride = 1;
  tree::cuda_on_host::rerank(p);
  CHECK(kept == std::vector<int32_t>{0, 1, 2, 3});
  CHECK(kept_parent == std::vector<int32_t>{-1, -1, 0, -1});
  CHECK(kept_indptr == std::vector<int32_t>{0, 3, 5});
  const std::vector<int32_t> negative{-1, -kFar};
  p.budget = negative.data();
  tree::cuda_on_host::rerank(p);
  CHECK(kept == std::vector<int32_t>(4, -1));
  CHECK(kept_indptr == std::vector<int32_t>{0, 0, 0});
}

TEST_CASE("recycle passes over tokens that the table has not, and the last of a token stays") {
  std::vector<int32_t> table{0, 0, 1, 1};  // [2, 2]
  const std::vector<int32_t> tokens{1, -1, 1, 2, kFar}, ids{0, 0, 0, 0, 9, -7, 0, 0, 0, 0};
  fewstep::draft::cuda_on_host::recycle(
      {2, 2, 5, table.data(), tokens.data(), ids.data(), 2, 1, 2, nullptr});
  CHECK(table == std::vector<int32_t>{0, 0, -1, -1});
}

namespace {

// Two requests of one row each: one head of 16 dims, or for warpgroups 64, pages of 2 tokens, the
// values of a token its slot. Queries and keys are zero, so out is the mean of the values that a
// row sees.
template <class T, int kDims>
struct Attention {
  std::vector<T> k = std::vector<T>(6 * kDims), v = k;
  std::vector<float> q = std::vector<float>(2 * kDims), scales = std::vector<float>(6, 1.0f);
  std::vector<float> out = std::vector<float>(2 * kDims, -5.0f);
  std::vector<int32_t> table{2, 0, 1, 0}, indptr{0, 1, 2}, length{3, 2}, block{1, 1};
  std::vector<uint32_t> bits{1, 1};

  std::vector<float> run(fewstep::DType type, T (*convert)(int)) {
    for (int i = 0; i < 6 * kDims; ++i) v[size_t(i)] = convert(i / kDims);
    tree::AttentionProblem p{};
    p.B = p.N = 2;
    p.H = p.G = p.ratio = 1;
    p.D = kDims;
    p.is_wide = true;
    p.warpgroup_rows = kDims == 64 ? 128 : 0;
    p.kv_type = type;
    p.q_type = sizeof(T) == 1 ? fewstep::DType::kF16 : type;
    p.out_type = fewstep::DType::kF32;
    const int64_t row = kDims * sizeof(T);
    p.q = {reinterpret_cast<char*>(q.data()), 4 * kDims, 4 * kDims};
    p.k = {reinterpret_cast<const char*>(k.data()), 2 * row, row, row};
    p.v = {reinterpret_cast<const char*>(v.data()), 2 * row, row, row};
    if (sizeof(T) == 1) p.k_scale = p.v_scale = {scales.data(), 2, 1, 1};
    p.out = {reinterpret_cast<char*>(out.data()), 4 * kDims, 4 * kDims};
    p.page_table = table.data();
    p.table_stride = p.page_tokens = 2;
    p.pages = 3;
    p.capacity = 4;
    p.indptr = indptr.data();
    p.kv_len = length.data();
    p.block = block.data();
    p.bits = bits.data();
    p.indptr_stride = p.kv_len_stride = p.block_stride = p.bits_stride = p.bit_words = 1;
    p.scale = 1.0f;
    p.cuda_parts = 1;
    tree::cuda_on_host::attention(p);
    return {out[0], out[kDims]};
  }
};

float of_int(int i) { return float(i); }
int8_t byte_of_int(int i) { return int8_t(i); }
uint16_t half_of_int(int i) { return fewstep::vec::narrow_bf16({float(i)}); }

template <int kDims, class T>
void check_attention(fewstep::DType type, T (*convert)(int)) {
  using Means = std::vector<float>;
  CHECK(Attention<T, kDims>{}.run(type, convert) == Means{3, 2.5f});  // slots 4, 5, 0; slots 2, 3
  for (const int32_t far : {3, kFar, -1, -kFar}) {
    Attention<T, kDims> page;  // slots 4 and 5 alone
    page.table[1] = far;
    CHECK(page.run(type, convert) == Means{4.5f, 2.5f});
  }
  for (const int32_t far : {5, kFar, 0, -1, -kFar}) {
    Attention<T, kDims> length, block;
    length.length[0] = block.block[0] = far;
    CHECK(length.run(type, convert) == Means{-5, 2.5f});
    CHECK(block.run(type, convert) == Means{-5, 2.5f});
  }
  Attention<T, kDims> bits;  // a block of 33 tokens would have two words
  bits.block[0] = bits.length[0] = 33;
  CHECK(bits.run(type, convert) == Means{-5, 2.5f});
  for (const auto& wrong : {std::vector<int32_t>{-3, 1, 2}, {1, 0, 2}, {kFar, 1, 2}}) {
    Attention<T, kDims> ends;
    ends.indptr = wrong;
    CHECK(ends.run(type, convert)[0] == -5.0f);
  }
}

}  // namespace

TEST_CASE("attention passes over requests that do not fit, and keys without a page") {
  check_attention<16>(fewstep::DType::kF32, &of_int);
  check_attention<16>(fewstep::DType::kBF16, &half_of_int);
  check_attention<16>(fewstep::DType::kI8, &byte_of_int);
  check_attention<64>(fewstep::DType::kBF16, &half_of_int);
}
