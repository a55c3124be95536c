// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of tree.verify and tree.k_seq_rho make of trees, draws, rows and ids that
// nobody could check before: they lie on the device. Here their code runs on the CPU, past the
// checks of the C functions.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#define FEWSTEP_ISA cuda_on_host
#include "tree/cuda/k_seq_rho.cu"
#include "tree/cuda/verify.cu"

namespace tree = fewstep::tree;

namespace {

using Ints = std::vector<int32_t>;
using tree::Law;
using tree::Rule;

constexpr int32_t kFar = std::numeric_limits<int32_t>::max();
constexpr int32_t kWrong[] = {-1, -kFar, 8, kFar};  // neither nodes nor tokens nor rows

// One request of 6 nodes; the target's best token after each is 1, the draft's law even.
struct Verify {
  static constexpr int64_t N = 6, V = 8;
  int64_t D = 3;
  Ints parent{-1, 0, 0, 1, 3, 4}, indptr{0, 6}, token{0, 1, 2, 1, 1, 1},
      draft_row{0, 0, 0, 0, 0, 0};
  Ints draw_indptr{0, 2, 3, 3, 4, 5, 5}, draw_node{1, 2, 3, 4, 5}, target;
  std::vector<int32_t> ids;
  std::vector<float> logits = std::vector<float>(N * V), draft = std::vector<float>(V, 0.125f);
  std::vector<float> weight{1, 0, 1, 1, 1};
  std::vector<uint64_t> seeds{7};
  Ints positions{0}, path, accepted{-7}, next{-7}, status{-7};
  std::vector<float> logprobs;
  bool lists = false;

  Ints run(Rule rule, Law law = Law::kIid) {
    for (int64_t i = 0; i < N; ++i) logits[size_t(i * V + 1)] = 50.0f;
    path.assign(size_t(D), -7);
    logprobs.assign(size_t(D) + 1, -7.0f);
    tree::VerifyProblem p{};
    p.B = 1;
    p.N = N;
    p.V = V;
    p.D = D;
    p.S = p.M = 1;
    p.rule = rule;
    p.law = law;
    p.parent = {parent.data(), 1};
    p.indptr = {indptr.data(), 1};
    p.token = {token.data(), 1};
    if (!target.empty()) p.target_token = {target.data(), 1};
    p.logits = reinterpret_cast<const char*>(logits.data());
    p.logits_pitch = V * 4;
    p.dtype = fewstep::DType::kF32;
    p.S = V;
    p.draft = draft.data();
    p.draft_ids = ids.empty() ? nullptr : ids.data();
    p.draft_row = {draft_row.data(), 1};
    if (lists || rule == Rule::kCanonical) {
      p.K = 5;
      p.draw_indptr = {draw_indptr.data(), 1};
      p.draw_node = {draw_node.data(), 1};
      p.draw_weight = {weight.data(), 1};
    }
    p.params = {0.09, 0.3, 10.0f, 0.1f};
    p.seeds = {seeds.data(), 1};
    p.positions = {positions.data(), 1};
    p.path = path.data();
    p.accepted = {accepted.data(), 1};
    p.next_token = {next.data(), 1};
    p.status = {status.data(), 1};
    p.logprobs = target.empty() ? logprobs.data() : nullptr;
    tree::cuda_on_host::verify(p);
    return path;
  }
};

constexpr struct {
  Rule rule;
  Law law;
} kRules[] = {{Rule::kGreedy, Law::kDeterministic},
              {Rule::kMatch, Law::kDeterministic},
              {Rule::kTargetOnly, Law::kDeterministic},
              {Rule::kChain, Law::kIid},
              {Rule::kRrs, Law::kWithoutReplacement},
              {Rule::kKSeq, Law::kIid},
              {Rule::kBlock, Law::kIid},
              {Rule::kCanonical, Law::kExternalWeights},
              {Rule::kTypical, Law::kDeterministic},
              {Rule::kAdjustedTarget, Law::kIid}};

}  // namespace

TEST_CASE("paths end where their tensor does") {
  for (const auto& [rule, law] : kRules) {
    CAPTURE(static_cast<int>(rule));
    for (int D = 3; D >= 0; --D) {
      Verify v;
      v.lists = true;
      v.D = D;
      Ints path{1, 3, 4};
      path.resize(size_t(D));
      CHECK(v.run(rule, law) == path);
      CHECK(v.accepted[0] == D);
      CHECK(v.next[0] == 1);
    }
  }
}

TEST_CASE("requests that are not there have no nodes") {
  for (const Ints& wrong : {Ints{-1, 6}, {0, 7}, {4, 2}, {kFar, kFar}, {-kFar, kFar}}) {
    for (const auto& [rule, law] : kRules) {
      Verify v;
      v.indptr = wrong;
      CHECK(v.run(rule, law) == Ints{-1, -1, -1});
      CHECK(v.accepted[0] == 0);
      CHECK(v.next[0] == -1);
    }
  }
}

TEST_CASE("nodes whose parents are no earlier ones, or whose tokens are none, are no children") {
  for (const auto& [rule, law] : kRules) {
    CAPTURE(static_cast<int>(rule));
    for (const bool lists : {false, true}) {
      for (const int32_t wrong : {kWrong[0], kWrong[1], kWrong[2], kWrong[3], 3, 5}) {
        Verify v;
        v.lists = lists;
        v.parent[3] = wrong;
        CHECK(v.run(rule, law) == Ints{1, -1, -1});
        CHECK(v.next[0] == 1);
      }
      for (const int32_t wrong : kWrong) {
        Verify v;
        v.lists = lists;
        v.token[3] = wrong;
        CHECK(v.run(rule, law) == Ints{1, -1, -1});
      }
    }
  }
}

TEST_CASE("draws that are no children, or lie outside of the list, are passed over") {
  for (const auto& [rule, law] : kRules) {
    CAPTURE(static_cast<int>(rule));
    for (const int32_t wrong : {kWrong[0], kWrong[1], kWrong[2], kWrong[3], 0, 1, 5}) {
      Verify v;
      v.lists = true;
      v.draw_node[2] = wrong;
      CHECK(v.run(rule, law) == Ints{1, -1, -1});
    }
    for (const Ints& wrong : {Ints{-1, 3}, {2, 6}, {3, 2}, {kFar, kFar}, {-kFar, 0}}) {
      Verify v;
      v.lists = true;
      v.draw_indptr[1] = wrong[0];
      v.draw_indptr[2] = wrong[1];
      v.run(rule, law);
      CHECK(v.accepted[0] <= 1);
    }
  }
}

TEST_CASE("a draft's row that is not there has no probabilities") {
  for (const auto& [rule, law] : kRules) {
    CAPTURE(static_cast<int>(rule));
    for (const int32_t wrong : {kWrong[0], kWrong[1], 1, kFar}) {
      Verify v;
      v.lists = true;
      v.draft_row = Ints(6, wrong);
      v.run(rule, law);
      CHECK(v.next[0] == 1);
    }
  }
}

TEST_CASE("ids that do not ascend or are no tokens find some probability or none") {
  for (const auto& [rule, law] : kRules) {
    CAPTURE(static_cast<int>(rule));
    for (const Ints& wrong :
         {Ints(8, 5), {7, 6, 5, 4, 3, 2, 1, 0}, {1, 2, 8, 9, kFar, -1, -kFar, 3}}) {
      Verify v;
      v.lists = true;
      v.ids = wrong;
      v.run(rule, law);
      CHECK(v.next[0] < Verify::V);
      CHECK(v.accepted[0] >= 0);
    }
  }
}

TEST_CASE("weights that pick no draw leave the target's token") {
  for (const float wrong : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    Verify v;
    v.lists = true;
    v.weight.assign(5, wrong);
    CHECK(v.run(Rule::kCanonical, Law::kExternalWeights) == Ints{-1, -1, -1});
    CHECK(v.next[0] == 1);
  }
}

TEST_CASE("tokens of the target that are none are not met") {
  for (const Rule rule : {Rule::kGreedy, Rule::kMatch}) {
    Verify v;
    v.target = Ints{1, 1, 1, kFar, 1, 1};
    CHECK(v.run(rule, Law::kDeterministic) == Ints{1, 3, -1});
    CHECK(v.next[0] == kFar);
    v.target[1] = -kFar;
    CHECK(v.run(rule, Law::kDeterministic) == Ints{1, -1, -1});
    CHECK(v.status[0] == fewstep::logits::kRowEmpty);
  }
}

TEST_CASE("of trees that are too large for typical, nodes in front are looked at") {
  constexpr int32_t kNodes = 1500;
  std::vector<float> logits(kNodes * 2);
  Ints parent(kNodes), token(kNodes, 1), indptr{0, kNodes}, path(kNodes), one(4);
  std::vector<uint64_t> seeds{1};
  std::iota(parent.begin(), parent.end(), -1);
  for (size_t i = 0; i < kNodes; ++i) logits[2 * i + 1] = 50.0f;
  tree::VerifyProblem p{};
  p.B = 1;
  p.N = p.D = kNodes;
  p.V = 2;
  p.rule = Rule::kTypical;
  p.parent = {parent.data(), 1};
  p.indptr = {indptr.data(), 1};
  p.token = {token.data(), 1};
  p.logits = reinterpret_cast<const char*>(logits.data());
  p.logits_pitch = 8;
  p.dtype = fewstep::DType::kF32;
  p.params = {0.09, 0.3, 10.0f, 0.1f};
  p.seeds = {seeds.data(), 1};
  p.positions = {one.data(), 1};
  p.path = path.data();
  p.accepted = {one.data() + 1, 1};
  p.next_token = {one.data() + 2, 1};
  tree::cuda_on_host::verify(p);
  CHECK(one[1] == 1023);
  CHECK(path[1022] == 1023);
  CHECK(path[1023] == -1);
}

TEST_CASE("a rho is found whatever ids are") {
  const std::vector<float> logits{1, 2, 3, 4}, draft(4, 0.25f);
  const auto found = [&](const Ints& ids) {
    double rho = 0.0, accept = 0.0;
    tree::KSeqRhoProblem p{};
    p.rows = {1, 4, reinterpret_cast<const char*>(logits.data()), 16, fewstep::DType::kF32, nullptr,
              0, {}};
    p.laws = {draft.data(), 4, 4, ids.data(), 4};
    p.k = 3;
    p.rho = &rho;
    p.accept = &accept;
    tree::cuda_on_host::k_seq_rho(p);
    CHECK(rho >= 1.0);
    CHECK(rho <= 3.0);
    return accept;
  };
  const double whole = found({0, 1, 2, 3});
  CHECK(whole > 0.4);
  for (const Ints& wrong : {Ints(4, 5), {3, 2, 1, 0}, {1, 4, kFar, -1}, {-kFar, -1, 2, kFar}}) {
    CHECK(found(wrong) < whole);
  }
}
