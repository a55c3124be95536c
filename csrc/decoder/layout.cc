// SPDX-License-Identifier: Apache-2.0
#include "decoder/layout.h"

#include <algorithm>

#include "fewstep/attention.h"
#include "fewstep/decoder.h"

namespace fewstep::decoder {
namespace {

int64_t activations_bytes(const fewstep_decoder& d, int64_t N, int64_t M) {
  int64_t most = 0;
  const auto take = [&](const linear::RunProblem& p, int64_t rows) {
    const int64_t bytes =
        linear::activations_bytes(std::min(rows, kBlockRows), p.in.kind, p.in.I, p.in.group);
    most = std::max(most, bytes);
  };
  for (const Layer& layer : d.layers) {
    for (int i = 0; i < layer.n_projections; ++i) take(layer.projections[i], N);
    take(layer.o, N);
    take(layer.gate, N);
    take(layer.down, N);
  }
  if (d.V > 0) take(d.head, M);
  return most;
}

}  // namespace

Layout layout_of(const fewstep_decoder& d, int64_t N, int64_t B, int64_t M, int64_t C) {
  Places places;
  const int64_t requests = most_requests(N, B), unit = size_of(d.type);
  Layout out;
  out.positions = places.add(4 * N);
  out.kv_len = places.add(4 * requests);
  out.indptr = places.add(4 * (requests + 1));
  out.table = places.add(N > kBlockRows ? 4 * requests * C : 0);
  out.qkv = places.add(N * d.qkv() * unit);
  out.attended = places.add(N * d.H * d.D * unit);
  out.middle = places.add(N * d.E * unit);
  out.gated = places.add(N * d.I * unit);
  out.wanted = places.add(M * d.E * unit);
  out.activations = places.add(activations_bytes(d, N, M));
  out.partial = places.add(fewstep_tree_attention_workspace_bytes(
      N, int32_t(d.H), int32_t(d.G), int32_t(d.D), C * d.T, d.deterministic ? 1 : 0));
  out.total = places.total();
  return out;
}

}  // namespace fewstep::decoder

extern "C" int64_t fewstep_decoder_run_workspace_bytes(const fewstep_decoder* decoder, int64_t N,
                                                       int64_t B, int64_t M, int64_t C) {
  if (!decoder || N < 0 || B < 0 || M < 0 || C < 0) return 0;
  return fewstep::decoder::layout_of(*decoder, N, B, M, C).total;
}
