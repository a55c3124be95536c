// SPDX-License-Identifier: Apache-2.0
// What CUDA kernels that grow trees make of requests that nobody could check before: they lie on
// the device. Here their code runs on the CPU, past the checks of the C functions.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <vector>

#define FEWSTEP_ISA cuda_on_host
#include "tree/cuda/expand.cu"
#include "tree/cuda/sample_children.cu"

namespace logits = fewstep::logits;
namespace tree = fewstep::tree;

namespace {

using Ints = std::vector<int32_t>;
constexpr int32_t kFar = std::numeric_limits<int32_t>::max();

// Three rows of four tokens, of which the likeliest is that of the row's number.
const std::vector<float> kLogits{50, 1, 0, 0, 1, 50, 0, 0, 0, 1, 50, 0};

logits::Rows rows() {
  return {3, 4, reinterpret_cast<const char*>(kLogits.data()), 16, fewstep::DType::kF32, nullptr,
          0, {}};
}

// Beams of two requests, and the best child of each row.
struct Expanded {
  Ints ids, beam;
};
Expanded expanded(const Ints& indptr) {
  const std::vector<float> above{0, -1, -2};
  Ints ids(6), beam(4), parent(4);
  std::vector<float> logp(6), beam_logp(4);
  tree::ExpandProblem p{};
  p.B = 2;
  p.K = p.M = 2;
  p.rows = rows();
  p.cum_logp = above.data();
  p.indptr = indptr.data();
  p.ids = ids.data();
  p.logp = logp.data();
  p.beam_ids = beam.data();
  p.beam_logp = beam_logp.data();
  p.beam_parent = parent.data();
  p.cum_logp_stride = p.indptr_stride = 1;
  p.ids_stride = p.logp_stride = p.beam_ids_stride = p.beam_logp_stride = 2;
  p.beam_parent_stride = 2;
  tree::cuda_on_host::expand(p);
  return {{ids[0], ids[2], ids[4]}, beam};
}

struct Drawn {
  Ints draws, beam;
};
Drawn drawn(const Ints& indptr, tree::DrawLaw law, const Ints& d2t) {
  const std::vector<uint64_t> seeds{1, 2};
  const Ints positions{0, 0, 0};
  Ints draws(3), beam(4);
  std::vector<float> logq(3), perturbed(3);
  tree::SampleChildrenProblem p{};
  p.B = 2;
  p.K = 1;
  p.M = 2;
  p.law = law;
  p.rows = rows();
  p.indptr = indptr.data();
  p.seeds = seeds.data();
  p.positions = positions.data();
  p.d2t = d2t.data();
  p.draws = draws.data();
  p.logq = logq.data();
  p.indptr_stride = p.seeds_stride = p.positions_stride = p.d2t_stride = 1;
  p.draws_stride = p.logq_stride = p.perturbed_stride = 1;
  p.beam_stride = 2;
  if (law != tree::DrawLaw::kIid) {
    p.perturbed = perturbed.data();
    p.beam = beam.data();
  }
  tree::cuda_on_host::sample_children(p);
  return {draws, beam};
}

}  // namespace

TEST_CASE("expand gives no beam to requests whose rows are not there") {
  CHECK(expanded({0, 1, 3}).beam == Ints{0, 1, 1, 2});
  for (const Ints& wrong : {Ints{-1, 1, 4}, {kFar, 2, kFar}, {3, 1, 0}, {-kFar, -1, -2}}) {
    const Expanded e = expanded(wrong);
    CHECK(e.ids == Ints{0, 1, 2});
    CHECK(e.beam == Ints(4, -1));
  }
  CHECK(expanded({2, 3, -1}).beam == Ints{2, 1, -1, -1});
}

TEST_CASE("sample_children gives no draws to rows without a request") {
  for (const auto law :
       {tree::DrawLaw::kIid, tree::DrawLaw::kWithoutReplacement, tree::DrawLaw::kStochasticBeam}) {
    const bool is_iid = law == tree::DrawLaw::kIid;
    const Ints own{0, 1, 2, 3};
    const Drawn right = drawn({0, 1, 3}, law, own);
    CHECK(right.draws == Ints{0, 1, 2});
    if (!is_iid) CHECK(right.beam[1] == -1);
    CHECK(drawn({1, 2, 2}, law, own).draws == Ints{-1, 1, -1});
    CHECK(drawn({kFar, kFar, kFar}, law, own).draws == Ints(3, -1));
    CHECK(drawn({0, -5, 0}, law, own).draws == Ints(3, -1));
    const Drawn far = drawn({-5, -2, kFar}, law, own);  // the second has them all, from -2 on
    CHECK(far.draws == Ints{0, 1, 2});
    if (!is_iid) CHECK(far.beam == Ints(4, -1));
    CHECK(drawn({0, 1, 3}, law, {-1, 7, -kFar, 0}).draws == Ints{-1, 7, -1});
  }
}
