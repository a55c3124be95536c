// SPDX-License-Identifier: Apache-2.0
#include "fewstep/ops.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

using fewstep::Tensor;
using fewstep::TensorRef;

namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

constexpr int64_t kHeads = 1, kDim = 16, kSlots = 8;

// A root with the children 1 and 2, and 3 below 2.
const Ints kParent = {-1, 0, 0, 2}, kEnds = {0, 4}, kToken = {5, 1, 2, 3};

std::string message_of(auto&& call) {
  try {
    call();
  } catch (const fewstep::error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a cycle of drafting, attention, verification and commit") {
  // Two tokens are cached, of value 1; those of the draft block have the values 10, 20, 30, 40.
  Floats k_cache(kSlots * kDim, 0.0f), v_cache(kSlots * kDim, 1.0f);
  const Floats k(4 * kDim, 0.0f), q(4 * kDim, 0.0f);
  Floats v;
  for (int i = 1; i <= 4; ++i) v.insert(v.end(), kDim, 10.0f * float(i));
  Ints base = {2};
  const Tensor ends{TensorRef(kEnds)}, length{TensorRef(base)};
  const Tensor keys(k_cache.data(), {1, kSlots, kHeads, kDim});
  const Tensor values(v_cache.data(), {1, kSlots, kHeads, kDim});
  const Tensor own_k(k.data(), {4, kHeads, kDim}), own_v(v.data(), {4, kHeads, kDim});
  fewstep_kv_append_args append = fewstep::kv::append_args();
  append.k = own_k;
  append.v = own_v;
  append.k_cache = keys;
  append.v_cache = values;
  append.indptr = ends;
  append.length = length;
  fewstep::kv::append(append);
  CHECK(v_cache[3 * kDim] == 20.0f);

  Ints depth(4);
  std::vector<int32_t> words(4);
  const Tensor parent{TensorRef(kParent)}, depths{TensorRef(depth)}, bits(words.data(), {4, 1});
  fewstep_tree_build_args build = fewstep::tree::build_args();
  build.parent = parent;
  build.indptr = ends;
  build.depth = depths;
  build.bits = bits;
  fewstep::tree::build(build);
  CHECK(words == Ints{1, 3, 5, 13});

  const Ints cached = {6};
  Floats out(4 * kDim);
  const Tensor count{TensorRef(cached)}, rows(q.data(), {4, kHeads, kDim});
  const Tensor average(out.data(), {4, kHeads, kDim});
  fewstep_tree_attention_args attend = fewstep::tree::attention_args();
  attend.q = rows;
  attend.k = keys;
  attend.v = values;
  attend.kv_len = count;
  attend.indptr = ends;
  attend.bits = bits;
  attend.out = average;
  fewstep::tree::attention(attend);
  // All keys are equal: node 3 sees both cached tokens, the root, node 2 and itself.
  CHECK(out[3 * kDim] == doctest::Approx((1 + 1 + 10 + 30 + 40) / 5.0));

  // The target goes on with 2, then 3, then 7.
  Ints next_of = {2, 0, 3, 7}, path(2), accepted(1), next(1);
  const std::vector<int64_t> seed = {3};
  const Ints position = {2};
  const Tensor token{TensorRef(kToken)}, target{TensorRef(next_of)}, seeds{TensorRef(seed)},
      positions{TensorRef(position)}, found(path.data(), {1, 2}), taken{TensorRef(accepted)},
      following{TensorRef(next)};
  fewstep_tree_verify_args verify = fewstep::tree::verify_args();
  verify.rule = FEWSTEP_RULE_GREEDY;
  verify.parent = parent;
  verify.indptr = ends;
  verify.token = token;
  verify.target_token = target;
  verify.seeds = seeds;
  verify.positions = positions;
  verify.path = found;
  verify.accepted = taken;
  verify.next_token = following;
  fewstep::tree::verify(verify);
  CHECK(path == Ints{2, 3});
  CHECK(next == Ints{7});

  const TensorRef layers[] = {TensorRef(v_cache.data(), {1, kSlots, kHeads, kDim})};
  const TensorRef key_layers[] = {TensorRef(k_cache.data(), {1, kSlots, kHeads, kDim})};
  const std::vector<fewstep_tensor> k_views = fewstep::views_of(key_layers),
                                    v_views = fewstep::views_of(layers);
  fewstep_kv_commit_args commit = fewstep::kv::commit_args();
  commit.caches = {1, k_views.data(), v_views.data(), nullptr, nullptr};
  commit.first = 1;
  commit.path = found;
  commit.accepted = taken;
  commit.base = length;
  Ints now(1), kept = {3};
  const Tensor written{TensorRef(now)}, wanted{TensorRef(kept)};
  commit.length = written;
  const fewstep::Context context = fewstep::Context::cpu(1);
  fewstep::kv::commit(commit, &context);
  CHECK(now == Ints{5});
  CHECK(v_cache[3 * kDim] == 30.0f);
  CHECK(v_cache[4 * kDim] == 40.0f);
  fewstep::kv::truncate(written, wanted);
  CHECK(now == Ints{3});
}

TEST_CASE("tokens are drawn from a linear layer's logits") {
  // The weight's row 1 is the only one along x.
  Floats weight(3 * 4, 0.0f), hidden = {1, 2, 3, 4}, logits(3);
  for (int i = 0; i < 4; ++i) weight[size_t(4 + i)] = 1.0f;
  std::vector<uint8_t> bytes(size_t(fewstep_linear_packed_bytes(3, 4, FEWSTEP_LINEAR_F32, 32)));
  const Tensor dense(weight.data(), {3, 4}), packed{TensorRef(bytes)}, x(hidden.data(), {1, 4}),
      y(logits.data(), {1, 3});
  fewstep_linear_pack_args pack = fewstep::linear::pack_args();
  pack.weight = dense;
  pack.out = packed;
  fewstep::linear::pack(pack);
  const int64_t needed = fewstep_linear_run_workspace_bytes(1, 4, FEWSTEP_LINEAR_F32, 32);
  std::vector<int64_t> scratch(size_t(needed / 8 + 1));
  const Tensor workspace{TensorRef(scratch)};
  fewstep_linear_run_args run = fewstep::linear::run_args();
  run.x = x;
  run.packed = packed;
  run.out = y;
  run.workspace = workspace;
  fewstep::linear::run(run);
  CHECK(logits == Floats{0, 10, 0});

  const std::vector<int64_t> seed = {1};
  const Ints position = {0};
  Ints drawn(1);
  const Tensor seeds{TensorRef(seed)}, positions{TensorRef(position)}, out{TensorRef(drawn)};
  fewstep_logits_sample_args sample = fewstep::logits::sample_args();
  sample.filters.top_k = 1;
  sample.logits = y;
  sample.seeds = seeds;
  sample.positions = positions;
  sample.out = out;
  fewstep::logits::sample(sample);
  CHECK(drawn == Ints{1});
  sample.filters.top_p = 0.0f;
  CHECK(message_of([&] { fewstep::logits::sample(sample); }) ==
        "fewstep_logits_sample: 'top_p' must lie in (0, 1], got 0");
}

TEST_CASE("every op's defaults have their size, and an op without tensors is refused by name") {
  const auto refuses = [](auto args, auto op, const std::string& start) {
    CHECK(args.size == sizeof args);
    CHECK(message_of([&] { op(args, nullptr); }).starts_with(start + ": '"));
  };
#define REFUSES(family, op) \
  refuses(fewstep::family::op##_args(), fewstep::family::op, "fewstep_" #family "_" #op)
  REFUSES(tree, build);
  REFUSES(tree, from_template);
  REFUSES(tree, expand);
  REFUSES(tree, rerank);
  REFUSES(tree, sample_children);
  REFUSES(tree, attention);
  REFUSES(tree, merge);
  REFUSES(tree, verify);
  REFUSES(tree, k_seq_rho);
  REFUSES(logits, sample);
  REFUSES(logits, top_k);
  REFUSES(logits, gumbel_top_k);
  REFUSES(logits, renorm);
  REFUSES(logits, penalise);
  REFUSES(logits, sample_arithmetic);
  REFUSES(logits, head_top_k);
  REFUSES(kv, append);
  REFUSES(kv, commit);
  REFUSES(kv, gather);
  REFUSES(kv, copy_pages);
  REFUSES(kv, export_tokens);
  REFUSES(kv, import_tokens);
  REFUSES(linear, pack);
  REFUSES(linear, unpack);
  REFUSES(linear, run);
#undef REFUSES
}

TEST_CASE("a decoder is refused by name, and so is a call of it without tensors") {
  fewstep_decoder_create_args args = fewstep::decoder::create_args();
  CHECK(args.size == sizeof args);
  CHECK(message_of([&] { const fewstep::decoder::Decoder made(args); }) ==
        "fewstep_decoder_create: 'n_layers' must be 1 or more, got 0");
  Floats ones(32, 1.0f), keys(64), values(64), x(16, 1.0f), cos(4 * 8, 1.0f), sin(4 * 8);
  std::vector<uint8_t> bytes(size_t(fewstep_linear_packed_bytes(16, 16, FEWSTEP_LINEAR_F32, 32)));
  const Tensor norm(ones.data(), {16}), packed{TensorRef(bytes)}, rows(x.data(), {1, 16}),
      k(keys.data(), {1, 4, 1, 16}), v(values.data(), {1, 4, 1, 16}), c(cos.data(), {4, 8}),
      s(sin.data(), {4, 8});
  fewstep_decoder_layer layer = FEWSTEP_DECODER_LAYER_INIT;
  for (auto* w : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.down}) {
    w->packed = packed;
  }
  layer.up = packed;
  layer.norm.weight = layer.mlp_norm.weight = norm;
  layer.k_cache = k;
  layer.v_cache = v;
  args.n_layers = 1;
  args.layers = &layer;
  args.heads = 1;
  args.inner = 16;
  const fewstep::decoder::Decoder decoder(args);
  fewstep_decoder_run_args run = fewstep::decoder::run_args();
  CHECK(message_of([&] { decoder.run(run); }) ==
        "fewstep_decoder_run: 'x' must be given, got NULL");
  Ints ends = {0, 1}, tokens = {2};
  std::vector<int64_t> scratch(size_t(decoder.workspace_bytes(1, 1, 0, 1) / 8));
  const Tensor indptr{TensorRef(ends)}, length{TensorRef(tokens)}, workspace{TensorRef(scratch)};
  run.x = rows;
  run.indptr = indptr;
  run.length = length;
  run.cos = c;
  run.sin = s;
  run.workspace = workspace;
  decoder.run(run);  // weights of 0 leave x as it is, and write keys of 0
  CHECK(x == Floats(16, 1.0f));
  fewstep_decoder_chain_args chain = fewstep::decoder::chain_args();
  CHECK(message_of([&] { decoder.chain(chain); }) ==
        "fewstep_decoder_chain: 'decoder' must have a head, got none");

  Floats rows_of_tokens(16 * 16, 1.0f), chances(2);
  const Tensor embedding(rows_of_tokens.data(), {16, 16}), logp(chances.data(), {1, 2});
  args.head.packed = packed;
  args.vocabulary = 16;
  args.norm.weight = norm;
  args.embedding.packed = embedding;
  args.n_tokens = 16;
  const fewstep::decoder::Decoder drafts(args);
  std::vector<int64_t> text = {3}, room(size_t(drafts.chain_workspace_bytes(1, 1, 1) / 8));
  Ints drafted(2, -5), levels = {2};
  const Tensor ids(drafted.data(), {1, 2}), wanted{TensorRef(levels)}, first{TensorRef(text)},
      space{TensorRef(room)};
  chain.tokens = first;
  chain.indptr = indptr;
  chain.length = length;
  chain.cos = c;
  chain.sin = s;
  chain.levels = wanted;
  chain.ids = ids;
  chain.logp = logp;
  chain.workspace = space;
  drafts.chain(chain);  // all tokens are equally likely: the first
  CHECK(drafted == Ints{0, 0});
  CHECK(chances[1] == doctest::Approx(-2.0 * std::log(16.0)));
}
