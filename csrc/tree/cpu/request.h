// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/draws.h"
#include "tree/cpu/draft_law.h"
#include "tree/cpu/left.h"
#include "tree/verify.h"

// What a request's problem says, for kernels of both kinds. On CUDA nobody looked at its indices
// before, so what would lie outside of a tensor is taken for none. Included by kernel files only.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Streams of fewstep_stream (noise.h).
constexpr uint32_t kAccept = 5, kResidual = 6, kBonus = 7, kSample = 8;

struct Request {
  const VerifyProblem& p;
  int64_t b, first, size;

  FEWSTEP_HOST_DEVICE double uniform(int32_t depth, uint32_t stream, int draw = 0) const {
    const DrawKey key = {at(p.seeds, b), (uint32_t)(at(p.positions, b) + depth), stream};
    return draw_uniform(key, (uint32_t)draw);
  }
  FEWSTEP_HOST_DEVICE logits::RowSpec row(int32_t node) const {
    logits::RowSpec row{};
    row.logits = p.logits + (first + node) * p.logits_pitch;
    row.bitmask = p.bitmask ? p.bitmask + (first + node) * p.bitmask_stride : nullptr;
    row.V = p.V;
    row.dtype = p.dtype;
    put_filters(p.filters, b, &row);
    return row;
  }
  FEWSTEP_HOST_DEVICE DraftLaw draft(int32_t node) const {
    const int64_t r = p.draft_row.data ? at(p.draft_row, first + node) : first + node;
    if (r < 0 || r >= p.M) return {nullptr, nullptr, 0};
    return {p.draft + r * p.draft_stride,
            p.draft_ids ? p.draft_ids + r * p.draft_ids_stride : nullptr, p.S};
  }
  FEWSTEP_HOST_DEVICE int32_t token(int32_t node) const {
    const int32_t token = at(p.token, first + node);
    return token < p.V ? token : -1;
  }
  FEWSTEP_HOST_DEVICE int32_t parent(int32_t node) const { return at(p.parent, first + node); }

  // Where a node's draws are: places of the list of draws, or the nodes behind it.
  struct Places {
    int64_t begin, end;
  };
  FEWSTEP_HOST_DEVICE Places places(int32_t node) const {
    if (!p.draw_indptr.data) return {node + 1, size};
    const int64_t begin = at(p.draw_indptr, first + node),
                  end = at(p.draw_indptr, first + node + 1);
    if (begin < 0 || end < begin || end > p.K) return {0, 0};
    return {begin, end};
  }
  // The child that was drawn there, -1 for one that is none or has no token.
  FEWSTEP_HOST_DEVICE int32_t draw_at(int32_t node, int64_t place) const {
    const int64_t child = p.draw_indptr.data ? at(p.draw_node, place) : place;
    const bool is_child = child > node && child < size && parent((int32_t)child) == node;
    return is_child && token((int32_t)child) >= 0 ? (int32_t)child : -1;
  }
};

FEWSTEP_HOST_DEVICE inline Request request_of(const VerifyProblem& p, int64_t b) {
  const int64_t first = at(p.indptr, b), end = at(p.indptr, b + 1);
  if (first < 0 || end < first || end > p.N) return {p, b, 0, 0};
  return {p, b, first, end - first};
}

// The draw with this token, or -1.
FEWSTEP_HOST_DEVICE inline int32_t child_with(const Draws& draws, int64_t wanted) {
  for (int i = 0; i < draws.count; ++i) {
    if (draws.token[i] == wanted) return draws.node[i];
  }
  return -1;
}

// Where a request's results go.
struct Result {
  int32_t* path;
  float* logprobs;  // or null
  int64_t D;

  FEWSTEP_HOST_DEVICE Result(const VerifyProblem& p, int64_t b)
      : path(p.path + b * p.path_stride),
        logprobs(p.logprobs ? p.logprobs + b * p.logprobs_stride : nullptr),
        D(p.D) {}
  // Forgets what lies behind the first `depth` nodes, of which a thread has every step-th.
  FEWSTEP_HOST_DEVICE void cut(int64_t depth, int64_t step = 1) const {
    for (int64_t d = depth; d < D; d += step) path[d] = -1;
    for (int64_t d = depth; logprobs && d <= D; d += step) logprobs[d] = __builtin_nanf("");
  }
};

FEWSTEP_HOST_DEVICE inline void finish(const VerifyProblem& p, int64_t b, int32_t accepted,
                                       int64_t next, logits::RowStatus status) {
  set(p.accepted, b, accepted);
  set(p.next_token, b, (int32_t)next);
  set(p.status, b, (int32_t)status);
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
